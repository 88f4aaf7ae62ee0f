"""Reading, checking and splitting the rows of a recipe."""
