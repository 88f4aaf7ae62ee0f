"""Fine-tune the adapter that a recipe describes.

python scripts/sft.py recipes/quickstart.yaml
python scripts/sft.py recipes/nli_fr.yaml --set training.epochs=1 --output-dir outputs/one_epoch
python scripts/sft.py recipes/nli_fr.yaml --resume
"""

import sys
from argparse import Namespace
from pathlib import Path

from toolkit.api.training import default_output_dir, dry_run, train
from toolkit.cli.command_line import add_overrides, parser, recipe_keys, run_command


def parse() -> Namespace:
    flags = parser(__doc__ or "", recipe_keys())
    flags.add_argument("recipe", metavar="RECIPE", type=Path, help="a recipe, e.g. recipes/nli_fr.yaml")
    add_overrides(flags)
    flags.add_argument("--output-dir", type=Path, help="run folder (default: outputs/<file name of the recipe>)")
    existing_run = flags.add_mutually_exclusive_group()
    existing_run.add_argument("--resume", action="store_true", help="resume from the latest intact checkpoint")
    existing_run.add_argument("--overwrite", action="store_true", help="replace an existing run")
    flags.add_argument(
        "--dry-run", action="store_true", help="do everything except the training steps, and write nothing"
    )
    return flags.parse_args()


def main(arguments: Namespace) -> None:
    if arguments.dry_run:
        output_dir = arguments.output_dir or default_output_dir(arguments.recipe)
        dry_run(arguments.recipe, arguments.overrides, output_dir, resume=arguments.resume, progress=True)
        return
    train(
        arguments.recipe,
        arguments.overrides,
        arguments.output_dir,
        overwrite=arguments.overwrite,
        resume=arguments.resume,
        progress=True,
        command=sys.argv,
    )


if __name__ == "__main__":
    sys.exit(run_command(lambda: main(parse())))  # parsing prints, too: --help and mistakes in flags
