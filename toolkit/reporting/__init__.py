"""Results for people to read: the HTML report, the model card, charts."""
