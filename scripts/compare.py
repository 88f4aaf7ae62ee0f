"""Compare evaluations of the same rows: McNemar's exact test, paired bootstrap, agreement, and the rows that differ.

python scripts/compare.py outputs/nli_fr/eval/adapter outputs/nli_fr/eval/base
python scripts/compare.py outputs/nli_fr/eval/adapter outputs/nli_fr/eval/merged outputs/nli_fr/eval/gguf-q8_0
python scripts/compare.py outputs/nli_fr/eval/adapter outputs/nli_fr_3b/eval/adapter --output outputs/1b-3b
"""

import sys
from argparse import Namespace
from pathlib import Path

from toolkit.command_line import parser, run_command
from toolkit.run_folder import refuse_no_evaluation


def parse() -> Namespace:
    flags = parser(__doc__ or "")
    flags.add_argument("first", metavar="EVAL", type=Path, help="an evaluation, e.g. outputs/nli_fr/eval/adapter")
    flags.add_argument("others", metavar="EVAL", type=Path, nargs="+", help="others of the same rows")
    flags.add_argument(
        "--output",
        type=Path,
        metavar="DIR",
        help="the folder of compare.json and differences.jsonl; default: <run of the first>/compare/<names>",
    )
    return flags.parse_args()


def main(arguments: Namespace) -> None:
    folders = [arguments.first, *arguments.others]
    for folder in folders:  # before anything heavy is imported
        refuse_no_evaluation(folder)
    from toolkit.evaluation.compare import compare, comparison_report

    result, output = compare(folders, arguments.output)
    print(comparison_report(result))
    print(f"\nresults     {output}")


if __name__ == "__main__":
    arguments = parse()
    sys.exit(run_command(lambda: main(arguments)))
