"""Run a study: a table of runs over recipes, seeds and training set sizes, with paired tests and learning curves.

python scripts/study.py studies/quickstart_seeds.yaml
python scripts/study.py studies/learning_curve.yaml --set model.name=outputs/my_model --jobs 2

The study is a YAML file; docs/studies.md describes its keys. Finished runs are kept and interrupted ones resume, so the
same command continues a study that was stopped.
"""

import sys
from argparse import Namespace
from pathlib import Path

from toolkit.cli.command_line import add_overrides, parser, positive, run_command
from toolkit.studies.study import default_study_dir, run_study


def parse() -> Namespace:
    flags = parser(__doc__ or "")
    flags.add_argument("study", metavar="STUDY", type=Path, help="a study, e.g. studies/quickstart_seeds.yaml")
    add_overrides(flags)
    flags.add_argument(
        "--output-dir", type=Path, help="folder of the study (default: outputs/studies/<file name of the study>)"
    )
    where = flags.add_mutually_exclusive_group()
    help_text = "run N cells at a time; they share CPU cores, memory and GPU"
    where.add_argument("--jobs", type=positive, default=1, metavar="N", help=help_text)
    where.add_argument("--ray", metavar="ADDRESS", help="run the cells on a Ray cluster: HOST:PORT, auto or local")
    return flags.parse_args()


def main(arguments: Namespace) -> None:
    folder = arguments.output_dir or default_study_dir(arguments.study)
    result = run_study(
        arguments.study, folder, overrides=arguments.overrides, jobs=arguments.jobs, ray=arguments.ray, progress=True
    )
    print(f"{result.report()}\n\npage        {result.page}")


if __name__ == "__main__":
    sys.exit(run_command(lambda: main(parse())))
