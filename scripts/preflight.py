"""Look at a recipe's data, tokens and parameters without loading any weights.

python scripts/preflight.py recipes/nli_fr.yaml
python scripts/preflight.py recipes/nli_fr.yaml --set model.load_in_4bit=true
"""

import sys
from argparse import Namespace
from pathlib import Path

from toolkit.command_line import add_overrides, parser, recipe_keys, run_command
from toolkit.recipe_file import load_recipe


def parse() -> Namespace:
    flags = parser(__doc__ or "", recipe_keys())
    flags.add_argument("recipe", metavar="RECIPE", type=Path, help="a recipe, e.g. recipes/nli_fr.yaml")
    add_overrides(flags)
    return flags.parse_args()


def main(arguments: Namespace) -> None:
    recipe = load_recipe(arguments.recipe, arguments.overrides)
    from toolkit.preflight import run_preflight

    found = run_preflight(recipe)
    print(f"{found.report()}\n\n{found.example(colour=sys.stdout.isatty())}")


if __name__ == "__main__":
    arguments = parse()
    sys.exit(run_command(lambda: main(arguments)))
