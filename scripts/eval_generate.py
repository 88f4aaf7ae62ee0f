"""Measure a run's model on labelled rows: it decodes under constraint, so every answer is one of the labels.

python scripts/eval_generate.py outputs/nli_fr
python scripts/eval_generate.py outputs/nli_fr --model base
python scripts/eval_generate.py outputs/quickstart --data embedded:nli-fr:test_lexical
"""

import sys
from argparse import Namespace

from toolkit.command_line import add_overrides, add_run, parser, positive, run_command
from toolkit.recipe_file import load_recipe
from toolkit.run_folder import RunFolder


def parse() -> Namespace:
    flags = parser(__doc__ or "")
    add_run(flags)
    flags.add_argument("--model", default="adapter", help="adapter (default), base, merged, or a GGUF file")
    flags.add_argument("--data", help="a data file or embedded:nli-fr:SPLIT; default: the recipe's data.eval")
    flags.add_argument("--mode", choices=["constrained"], default="constrained", help="how answers are decoded")
    flags.add_argument("--limit", type=positive, metavar="N", help="the first N rows only")
    add_overrides(flags)
    return flags.parse_args()


def main(arguments: Namespace) -> None:
    run = RunFolder.open(arguments.run)
    recipe = load_recipe(run.recipe, arguments.overrides)
    run.model_label(
        arguments.model, recipe.model.kind
    )  # refuses a model that is not there before anything heavy is imported
    from toolkit.evaluation.evaluate import evaluate

    folder = evaluate(run, recipe, model=arguments.model, data=arguments.data, limit=arguments.limit)
    print(f"\nresults     {folder}")


if __name__ == "__main__":
    arguments = parse()
    sys.exit(run_command(lambda: main(arguments)))
