"""Code shared by the commands in scripts/."""
