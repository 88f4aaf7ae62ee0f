"""What ships with the package: generated French NLI data and a tiny Llama to fine-tune on it."""
