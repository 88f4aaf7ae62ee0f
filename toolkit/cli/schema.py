"""The command `python -m toolkit.cli.schema`, which prints the JSON Schema of a recipe for editors."""

from toolkit.recipe.loading import json_schema
from toolkit.utils.terminal import prepare_output

if __name__ == "__main__":
    prepare_output()
    print(json_schema(), end="")
