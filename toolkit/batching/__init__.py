"""Conversion of token id rows into tensors."""
