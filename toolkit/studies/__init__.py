"""Studies: tables of runs over seeds, recipes and data sizes."""
