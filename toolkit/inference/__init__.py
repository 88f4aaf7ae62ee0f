"""Labels decoded under constraint, and scored exactly, on either engine."""
