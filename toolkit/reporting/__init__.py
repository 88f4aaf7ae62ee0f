"""What people look at: report, model card, charts."""
