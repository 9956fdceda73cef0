"""One-step generators: trained from a teacher by the rows of ``distill.one_step``."""
