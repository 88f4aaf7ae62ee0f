"""Merge a run's adapter and write it as GGUF files for llama.cpp, in this process: no compiler, no network.

python scripts/export_gguf.py outputs/nli_fr
python scripts/export_gguf.py outputs/nli_fr --quant f16 q8_0 --remove-merged
"""

import sys
from argparse import Namespace
from typing import get_args

from toolkit.command_line import add_run, parser, run_command
from toolkit.kinds import require_decoder
from toolkit.recipe import GgufType
from toolkit.recipe_file import load_recipe
from toolkit.run_folder import RunFolder


def parse() -> Namespace:
    flags = parser(__doc__ or "")
    add_run(flags)
    flags.add_argument("--quant", nargs="+", choices=get_args(GgufType), help="file types; default: the recipe's")
    flags.add_argument("--remove-merged", action="store_true", help="delete the merged 16-bit weights at the end")
    return flags.parse_args()


def main(arguments: Namespace) -> None:
    run = RunFolder.open(arguments.run)
    recipe = load_recipe(run.recipe)
    require_decoder(recipe.model.kind, "A GGUF export", hint="llama.cpp's files are for decoders; keep the adapter.")
    from toolkit.export.export import export_run

    export_run(run, recipe, arguments.quant or recipe.export.gguf, remove_merged=arguments.remove_merged)


if __name__ == "__main__":
    arguments = parse()
    sys.exit(run_command(lambda: main(arguments)))
