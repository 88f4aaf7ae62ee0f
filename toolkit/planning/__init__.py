"""Preflight checks, the training plan and the memory estimate: everything known before the first training step."""
