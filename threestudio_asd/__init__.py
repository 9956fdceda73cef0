"""Adversarial score distillation (ASD) for text-to-3D.

Importing this package has no side effects and pulls in no heavy dependency; the parts live in
the sub-packages (see ``docs/method.md`` for the mathematics and its code names).
"""

__version__ = "0.1.0"
