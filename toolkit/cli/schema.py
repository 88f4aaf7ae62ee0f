"""The command `python -m toolkit.cli.schema`, which prints the JSON Schema of a recipe for editors."""

from toolkit.recipe.loading import json_schema

if __name__ == "__main__":
    print(json_schema(), end="")
