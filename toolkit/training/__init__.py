"""Training: the objective, the trainers, checkpoints and resuming, from checked rows to a saved adapter."""
