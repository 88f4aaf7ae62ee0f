"""Model folders, loading, LoRA adapters, precision, attention masks and merging."""
