"""The generator of the embedded inference pairs, and the pre-training of the embedded model."""
