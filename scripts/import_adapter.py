"""Make a run of a LoRA adapter that another tool trained, to evaluate, compare and export it.

python scripts/import_adapter.py lora_model recipes/nli_fr.yaml --output-dir outputs/notebook
python scripts/import_adapter.py saves/llama/checkpoint-300 recipes/nli_fr.yaml --output-dir outputs/factory

The recipe names the base model, the prompt, and the rows. Its lora section is replaced by the adapter's own values.
"""

import sys
from argparse import Namespace
from pathlib import Path

from toolkit.api.import_adapter import import_adapter
from toolkit.cli.command_line import add_overrides, parser, run_command, utf8_text


def parse() -> Namespace:
    flags = parser(__doc__ or "")
    flags.add_argument("adapter", metavar="ADAPTER", type=utf8_text, help="the adapter's folder, or its id on the Hub")
    flags.add_argument("recipe", metavar="RECIPE", type=Path, help="a recipe, e.g. recipes/nli_fr.yaml")
    flags.add_argument("--output-dir", type=Path, metavar="DIR", required=True, help="the run folder")
    flags.add_argument("--base", type=Path, metavar="PATH", help="the base model, if it is not where the recipe says")
    flags.add_argument("--overwrite", action="store_true", help="replace an existing run")
    add_overrides(flags)
    return flags.parse_args()


def main(arguments: Namespace) -> None:
    chosen = {key: getattr(arguments, key) for key in ("base", "overrides", "overwrite")}
    run = import_adapter(
        arguments.adapter, arguments.recipe, arguments.output_dir, **chosen, progress=True, command=sys.argv
    )
    print(f"imported    {run.path}")


if __name__ == "__main__":
    sys.exit(run_command(lambda: main(parse())))  # parsing prints, too: --help and mistakes in flags
