"""The command line that pre-trains the embedded model or generates the embedded dataset."""

import argparse
import json
import sys
from pathlib import Path

from toolkit.cli.command_line import run_command
from toolkit.embedded.nli_fr import DATA_FOLDER
from tools.tiny_llama_fr.pretrain import DEFAULT_OUTPUT, pretrain
from tools.tiny_llama_fr.rows import write_rows
from tools.tiny_llama_fr.schedule import Settings


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    options = _parse(arguments)

    def command() -> None:
        if options.write_rows is not None:
            for path in write_rows(options.write_rows):
                print(path)
            return
        figures = pretrain(options.output_dir, Settings(steps=options.steps, seed=options.seed), options.resume)
        print(json.dumps(figures["accuracy"], ensure_ascii=False, indent=2))

    return run_command(command)


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tools.tiny_llama_fr",
        description="Pre-train the embedded model, or with --write-rows generate the embedded dataset.",
        allow_abbrev=False,
    )
    parser.add_argument("--output-dir", type=Path, default=DEFAULT_OUTPUT, help="model folder (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=Settings.steps, help="optimizer steps (default: %(default)s)")
    parser.add_argument(
        "--seed", type=int, default=Settings.seed, help="seed of the weights and the texts (default: %(default)s)"
    )
    parser.add_argument("--resume", action="store_true", help="resume from the checkpoint in the output folder")
    parser.add_argument(
        "--write-rows",
        type=Path,
        nargs="?",
        const=DATA_FOLDER,
        metavar="DIR",
        help="write the rows of every split as JSON Lines instead of pre-training (default folder: %(const)s)",
    )
    options = parser.parse_args(arguments)
    if options.steps < 1:
        parser.error("--steps must be at least 1")
    pretraining_options = ("output_dir", "steps", "seed", "resume")
    if options.write_rows is not None and any(
        getattr(options, key) != parser.get_default(key) for key in pretraining_options
    ):
        parser.error("--write-rows cannot be combined with the pre-training flags")
    return options


if __name__ == "__main__":
    sys.exit(main())
