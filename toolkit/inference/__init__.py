"""Constrained decoding, exact label scores and free generation with torch and llama.cpp."""
