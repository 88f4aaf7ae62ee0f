"""Measure a run's model on labelled rows: it decodes under constraint, so every answer is one of the labels.
With --mode free it says what it likes, and what is no label is wrong.

python scripts/eval_generate.py outputs/nli_fr
python scripts/eval_generate.py outputs/nli_fr --model base
python scripts/eval_generate.py outputs/quickstart --data embedded:nli-fr:test_lexical
python scripts/eval_generate.py outputs/nli_fr --model base --mode free --shots 6
"""

import sys
from argparse import Namespace

from toolkit.api.run import open_run
from toolkit.cli.command_line import add_overrides, add_run, parser, positive, run_command


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
    run = open_run(arguments.run, arguments.overrides)
    chosen = {key: getattr(arguments, key) for key in ("model", "data", "limit", "mode", "shots")}
    evaluation = run.evaluate(**chosen, progress=True)
    print(evaluation.report())
    print(f"\nresults     {evaluation.folder}")
    if run.model_card_path.is_file():
        print(f"model card  {run.model_card_path}")
    print(f"report      {run.report_path}")


if __name__ == "__main__":
    arguments = parse()
    sys.exit(run_command(lambda: main(arguments)))
