"""Measure a run's model on labelled rows: it decodes under constraint, so every answer is one of the labels.
With --mode free it says what it likes, and what is no label is wrong.

python scripts/eval_generate.py outputs/nli_fr
python scripts/eval_generate.py outputs/nli_fr --model base
python scripts/eval_generate.py outputs/quickstart --data embedded:nli-fr:test_lexical
python scripts/eval_generate.py outputs/nli_fr --model base --mode free --shots 6
"""

import sys
from argparse import Namespace

from toolkit.command_line import add_overrides, add_run, parser, positive, run_command
from toolkit.data.few_shot import refuse_shots
from toolkit.data.sources import parse_data, refuse_missing
from toolkit.kinds import require_decoder
from toolkit.recipe_file import load_recipe
from toolkit.run_folder import RunFolder
from toolkit.run_place import refuse_unwritable


def parse() -> Namespace:
    flags = parser(__doc__ or "")
    add_run(flags)
    flags.add_argument("--model", default="adapter", help="adapter (default), base, merged, or a GGUF file")
    flags.add_argument("--data", help="a data file or embedded:nli-fr:SPLIT; default: the recipe's data.eval")
    flags.add_argument("--mode", choices=["constrained", "free"], default="constrained", help="how answers are decoded")
    shots = "K training rows, balanced by label, stand solved before each question; for --model base"
    flags.add_argument("--shots", type=positive, default=0, metavar="K", help=shots)
    flags.add_argument("--limit", type=positive, metavar="N", help="the first N rows only")
    add_overrides(flags)
    return flags.parse_args()


def main(arguments: Namespace) -> None:
    run = RunFolder.open(arguments.run)
    recipe = load_recipe(run.recipe, arguments.overrides)
    # What is refused is refused before anything heavy is imported.
    run.model_label(arguments.model, recipe.model.kind)
    if arguments.mode == "free" or arguments.shots:
        require_decoder(recipe.model.kind, "--mode free" if arguments.mode == "free" else "--shots")
    refuse_shots(arguments.model, arguments.shots)
    refuse_missing(parse_data(arguments.data) if arguments.data else recipe.data.eval)
    refuse_unwritable(run.eval)
    from toolkit.evaluation.evaluate import evaluate
    from toolkit.evaluation.model_card import write_model_card
    from toolkit.evaluation.report import write_report

    chosen = {key: getattr(arguments, key) for key in ("model", "data", "limit", "mode", "shots")}
    folder = evaluate(run, recipe, **chosen)
    print(f"\nresults     {folder}")
    if card := write_model_card(run):
        print(f"model card  {card}")
    print(f"report      {write_report(run)}")


if __name__ == "__main__":
    arguments = parse()
    sys.exit(run_command(lambda: main(arguments)))
