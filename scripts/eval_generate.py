"""Evaluate a model of a run on labeled rows.

By default decoding is constrained, so every answer is one of the labels. With --mode free the model answers freely, and
an answer that is not a label counts as wrong.

python scripts/eval_generate.py outputs/nli_fr
python scripts/eval_generate.py outputs/nli_fr --model base
python scripts/eval_generate.py outputs/quickstart --data embedded:nli-fr:test_lexical
python scripts/eval_generate.py outputs/nli_fr --model base --mode free --shots 6
"""

import sys
from argparse import Namespace

from toolkit.api.run import open_run
from toolkit.cli.command_line import add_overrides, add_run, opening, parser, positive, run_command, utf8_text


def parse() -> Namespace:
    flags = parser(__doc__ or "")
    add_run(flags)
    flags.add_argument("--model", default="adapter", help="adapter (default), base, merged or a GGUF file")
    data = "a data file or embedded:nli-fr:SPLIT (default: data.eval of the recipe)"
    flags.add_argument("--data", type=utf8_text, help=data)
    flags.add_argument("--mode", choices=["constrained", "free"], default="constrained", help="how to decode answers")
    shots = "show K training rows, balanced by label, as few-shot examples in each prompt; only with --model base"
    flags.add_argument("--shots", type=positive, default=0, metavar="K", help=shots)
    flags.add_argument("--limit", type=positive, metavar="N", help="score only the first N rows")
    add_overrides(flags)
    return flags.parse_args()


def main(arguments: Namespace) -> None:
    run = open_run(arguments.run, arguments.overrides, **opening(arguments))
    chosen = {key: getattr(arguments, key) for key in ("model", "data", "limit", "mode", "shots")}
    evaluation = run.evaluate(**chosen, progress=True)
    print(evaluation.report())
    print(f"\nresults     {evaluation.folder}")
    if run.model_card_path.is_file():
        print(f"model card  {run.model_card_path}")
    print(f"report      {run.report_path}")


if __name__ == "__main__":
    sys.exit(run_command(lambda: main(parse())))  # parsing prints, too: --help and mistakes in flags
