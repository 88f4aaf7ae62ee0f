"""Base weights, adapter, precision, merging."""
