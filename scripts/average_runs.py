"""Make a run whose adapter is the average of those of other runs, which is often more accurate than each of them.

python scripts/sft.py recipes/nli_fr.yaml --set seed=1 --output-dir outputs/seed-1
python scripts/sft.py recipes/nli_fr.yaml --set seed=2 --output-dir outputs/seed-2
python scripts/average_runs.py outputs/seed-1 outputs/seed-2 --output-dir outputs/average

The runs must have the same recipe except for the seed.
"""

import sys
from argparse import Namespace
from pathlib import Path

from toolkit.api.averaging import average_runs
from toolkit.cli.command_line import parser, run_command


def parse() -> Namespace:
    flags = parser(__doc__ or "")
    flags.add_argument("runs", metavar="RUN", type=Path, nargs="+", help="the folder of a run, at least two")
    flags.add_argument("--output-dir", type=Path, metavar="DIR", required=True, help="the run folder to make")
    flags.add_argument("--overwrite", action="store_true", help="replace an existing run")
    flags.add_argument(
        "--accept-changes", action="store_true", help="use files that have changed since they were recorded"
    )
    return flags.parse_args()


def main(arguments: Namespace) -> None:
    run = average_runs(
        arguments.runs,
        arguments.output_dir,
        overwrite=arguments.overwrite,
        accept_changes=arguments.accept_changes,
        command=sys.argv,
    )
    print(f"averaged    {run.path}")


if __name__ == "__main__":
    sys.exit(run_command(lambda: main(parse())))  # parsing prints, too: --help and mistakes in flags
