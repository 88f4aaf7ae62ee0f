"""Check data, tokens, parameters, memory and disk of a recipe without loading weights. Exits with 3 if it does not fit.

python scripts/preflight.py recipes/nli_fr.yaml
python scripts/preflight.py recipes/nli_fr.yaml --set model.load_in_4bit=true --memory 16GB
python scripts/preflight.py recipes/nli_fr.yaml --probe
"""

import sys
from argparse import Namespace
from pathlib import Path

from toolkit.api.preflight import measure_steps, preflight
from toolkit.cli.command_line import add_overrides, byte_size, parser, recipe_keys, run_command
from toolkit.utils.formatting import format_bytes
from toolkit.utils.terminal import use_color


def parse() -> Namespace:
    flags = parser(__doc__ or "", recipe_keys())
    flags.add_argument("recipe", metavar="RECIPE", type=Path, help="a recipe, e.g. recipes/nli_fr.yaml")
    add_overrides(flags)
    flags.add_argument(
        "--memory", type=byte_size, metavar="SIZE", help="plan for a GPU with this much memory instead, e.g. 16GB"
    )
    flags.add_argument("--probe", action="store_true", help="load the model and time a few steps")
    return flags.parse_args()


def main(arguments: Namespace) -> None:
    report = preflight(arguments.recipe, arguments.overrides, memory=arguments.memory, weights=arguments.probe)
    print(report.report(color=use_color()))
    report.check_fits()
    if arguments.probe:
        from toolkit.planning.device import peak_memory_bytes

        print(f"probe       {measure_steps(report)}; peak memory {format_bytes(peak_memory_bytes())}")


if __name__ == "__main__":
    sys.exit(run_command(lambda: main(parse())))  # parsing prints, too: --help and mistakes in flags
