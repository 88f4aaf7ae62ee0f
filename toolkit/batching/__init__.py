"""Rows of token ids become tensors."""
