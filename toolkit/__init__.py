"""Fine-tune a small language model into a classifier, measure it, and ship it as a GGUF."""

import os

__version__ = "0.1.0"

# Read when torch or llama.cpp first load OpenMP, whose threads would otherwise spin while they wait: beside any other
# busy program, a step then takes ten times as long.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
