"""The cells of benchmarks/one_step.py, and what is made of their records."""
