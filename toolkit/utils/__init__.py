"""Helpers that know nothing of language models."""
