"""From checked rows to a trained adapter: the plan, the loss, the trainer and the record."""
