"""Helpers that are independent of language models."""
