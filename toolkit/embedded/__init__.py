"""The data and the model that ship with the package: French NLI pairs and a tiny Llama to fine-tune."""

from pathlib import Path

MODEL_FOLDER = Path(__file__).parent / "weights"
"""The embedded model as a Hugging Face folder. `tools/tiny_llama_fr` pretrained it."""
