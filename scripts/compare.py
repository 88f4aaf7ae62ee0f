"""Compare evaluations of the same rows: McNemar's exact test, paired bootstrap, agreement, and differing rows.

python scripts/compare.py outputs/nli_fr/eval/adapter outputs/nli_fr/eval/base
python scripts/compare.py outputs/nli_fr/eval/adapter outputs/nli_fr/eval/merged outputs/nli_fr/eval/gguf-q8_0
python scripts/compare.py outputs/nli_fr/eval/adapter outputs/nli_fr_3b/eval/adapter --output outputs/1b-3b
"""

import sys
from argparse import Namespace
from pathlib import Path

from toolkit.api.comparison import compare
from toolkit.cli.command_line import parser, run_command


def parse() -> Namespace:
    flags = parser(__doc__ or "")
    flags.add_argument("first", metavar="EVAL", type=Path, help="an evaluation, e.g. outputs/nli_fr/eval/adapter")
    flags.add_argument("others", metavar="EVAL", type=Path, nargs="+", help="other evaluations of the same rows")
    flags.add_argument(
        "--output",
        type=Path,
        metavar="DIR",
        help="folder for compare.json and differences.jsonl (default: <run of the first EVAL>/compare/<names>)",
    )
    return flags.parse_args()


def main(arguments: Namespace) -> None:
    comparison = compare([arguments.first, *arguments.others], arguments.output)
    print(comparison.report())
    print(f"\nresults     {comparison.folder}")


if __name__ == "__main__":
    sys.exit(run_command(lambda: main(parse())))  # parsing prints, too: --help and mistakes in flags
