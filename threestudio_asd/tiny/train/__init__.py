"""Training scripts of tiny-shapes: ``python -m threestudio_asd.tiny.train STAGE``."""
