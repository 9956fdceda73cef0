"""The cells of benchmarks/one_step_table.py, and what is made of their records."""
