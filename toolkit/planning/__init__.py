"""Everything that is known before the first training step."""
