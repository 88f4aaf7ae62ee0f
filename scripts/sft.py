"""Fine-tune the adapter that a recipe describes.

python scripts/sft.py recipes/quickstart.yaml
python scripts/sft.py recipes/nli_fr.yaml --set training.epochs=1 --output-dir outputs/one_epoch
python scripts/sft.py recipes/nli_fr.yaml --resume
"""

import sys
from argparse import Namespace
from pathlib import Path

from toolkit.command_line import add_overrides, parser, recipe_keys, run_command
from toolkit.data.sources import refuse_missing
from toolkit.recipe_file import load_recipe
from toolkit.run_folder import RunFolder
from toolkit.training.resuming import refuse_other_run


def parse() -> Namespace:
    flags = parser(__doc__ or "", recipe_keys())
    flags.add_argument("recipe", metavar="RECIPE", type=Path, help="a recipe, e.g. recipes/nli_fr.yaml")
    add_overrides(flags)
    flags.add_argument("--output-dir", type=Path, help="the run folder; default: outputs/<recipe's file name>")
    again = flags.add_mutually_exclusive_group()
    again.add_argument("--resume", action="store_true", help="go on from the run's newest checkpoint")
    again.add_argument("--overwrite", action="store_true", help="replace a run that is there")
    flags.add_argument("--dry-run", action="store_true", help="do everything but the steps; write nothing")
    return flags.parse_args()


def main(arguments: Namespace) -> None:
    recipe = load_recipe(arguments.recipe, arguments.overrides)
    run = RunFolder(arguments.output_dir or Path("outputs") / arguments.recipe.stem)
    if not (arguments.resume or arguments.dry_run):
        run.refuse_if_taken(overwrite=arguments.overwrite)
    if arguments.resume:
        refuse_other_run(recipe, run)  # once more in train: here it takes no seconds of imports
    refuse_missing(recipe.data.train, recipe.data.eval)
    from toolkit.training.train import train

    train(recipe, run, resume=arguments.resume, overwrite=arguments.overwrite, dry_run=arguments.dry_run)


if __name__ == "__main__":
    arguments = parse()
    sys.exit(run_command(lambda: main(arguments)))
