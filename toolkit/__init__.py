"""Fine-tune a small language model into a classifier, measure it, and ship it as a GGUF."""

__version__ = "0.1.0"
