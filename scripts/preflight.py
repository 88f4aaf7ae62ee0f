"""Look at a recipe's data, tokens, parameters, memory and disk without loading any weights; exit code 3: does not fit.

python scripts/preflight.py recipes/nli_fr.yaml
python scripts/preflight.py recipes/nli_fr.yaml --set model.load_in_4bit=true --memory 16GB
python scripts/preflight.py recipes/nli_fr.yaml --probe
"""

import sys
from argparse import Namespace
from pathlib import Path

from toolkit.command_line import add_overrides, byte_size, parser, recipe_keys, run_command
from toolkit.data.sources import refuse_missing
from toolkit.recipe_file import load_recipe


def parse() -> Namespace:
    flags = parser(__doc__ or "", recipe_keys())
    flags.add_argument("recipe", metavar="RECIPE", type=Path, help="a recipe, e.g. recipes/nli_fr.yaml")
    add_overrides(flags)
    flags.add_argument(
        "--memory", type=byte_size, metavar="SIZE", help="ask of a GPU of this memory instead, e.g. 16GB"
    )
    flags.add_argument("--probe", action="store_true", help="load the model, make a few steps and time them")
    return flags.parse_args()


def main(arguments: Namespace) -> None:
    recipe = load_recipe(arguments.recipe, arguments.overrides)
    refuse_missing(recipe.data.train, recipe.data.eval)
    from toolkit.training.outlook import print_preflight

    print_preflight(recipe, memory=arguments.memory, probing=arguments.probe)


if __name__ == "__main__":
    arguments = parse()
    sys.exit(run_command(lambda: main(arguments)))
