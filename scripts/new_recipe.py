"""Write a commented recipe for a data file. What cannot be inferred from it is marked with TODO.

python scripts/new_recipe.py reviews.csv --label sentiment
python scripts/new_recipe.py train.tsv --label gold --eval test.tsv --lang fr --output recipes/mine.yaml
"""

import shlex
import sys
from argparse import ArgumentTypeError, Namespace
from pathlib import Path
from typing import Any

from toolkit.cli.command_line import parser, run_command, share, utf8_text
from toolkit.utils.terminal import escape_control_characters


def file_format(text: str) -> dict[str, Any]:
    from toolkit.recipe.yaml_parser import parse_yaml

    try:
        values = parse_yaml(utf8_text(text), "format")
    except ValueError as error:
        raise ArgumentTypeError(str(error)) from error
    if not isinstance(values, dict):
        raise ArgumentTypeError(f"{text!r} is not a mapping; write it like '{{delimiter: \";\"}}'")
    return values


def parse() -> Namespace:
    flags = parser(__doc__ or "")
    flags.add_argument("data", metavar="DATA", type=utf8_text, help="the file with the training rows")
    flags.add_argument("--label", type=utf8_text, metavar="COLUMN", required=True, help="the column with the labels")
    rows = flags.add_mutually_exclusive_group()
    rows.add_argument("--eval", type=utf8_text, metavar="DATA", help="the file with the evaluation rows")
    rows.add_argument("--eval-share", type=share, metavar="SHARE", help="share of DATA to evaluate on (default: 0.2)")
    flags.add_argument("--model", type=utf8_text, metavar="NAME", help="the model to train (default: Llama 3.2 1B)")
    flags.add_argument("--lang", choices=["fr", "en"], default="en", help="language of the instruction (default: en)")
    flags.add_argument("--output", type=Path, metavar="FILE", help="the recipe to write (default: <DATA>.yaml)")
    form = "what cannot be detected in DATA, e.g. '{header: false, names: [label, text]}'"
    flags.add_argument("--format", type=file_format, metavar="YAML", help=form)
    return flags.parse_args()


def main(arguments: Namespace) -> None:
    from toolkit.api.new_recipe import DEFAULT_MODEL, new_recipe  # late, so that --help is quick

    chosen = {key: getattr(arguments, key) for key in ("eval", "eval_share", "output", "format")}
    model = arguments.model or DEFAULT_MODEL
    recipe = new_recipe(arguments.data, arguments.label, model=model, language=arguments.lang, **chosen)
    inputs, labels = ", ".join(recipe.roles.inputs), len(recipe.roles.label_values.labels)
    print(escape_control_characters(f"recipe      {recipe.path}: {inputs} -> {labels} labels; {recipe.todos} TODO"))
    for script in ("preflight", "sft"):
        print(f"python scripts/{script}.py {shlex.quote(str(recipe.path))}")


if __name__ == "__main__":
    sys.exit(run_command(lambda: main(parse())))  # parsing prints, too: --help and mistakes in flags
