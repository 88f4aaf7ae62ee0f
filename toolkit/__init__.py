"""Fine-tune a small language model into a classifier, measure it, and ship it as a GGUF."""

import os

__version__ = "0.1.0"

# Read when torch or llama.cpp first load OpenMP. Its threads wait for each other many times a step: spinning long, they
# starve whatever else runs (and a step beside it takes twice as long), sleeping at once, they cost a third of a step.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")
# Where llama.cpp aborts, it would start a debugger that fills the terminal.
os.environ.setdefault("GGML_NO_BACKTRACE", "1")
