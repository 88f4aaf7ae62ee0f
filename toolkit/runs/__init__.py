"""Run folders: paths, records and references to models."""
