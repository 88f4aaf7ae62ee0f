"""Merge a run's adapter, write it as GGUF files for llama.cpp, and prove that they answer as the adapter did.

python scripts/export_gguf.py outputs/nli_fr
python scripts/export_gguf.py outputs/nli_fr --quant f16 q4_k_m --verify all --remove-merged
"""

import sys
from argparse import Namespace
from typing import get_args

from toolkit.command_line import add_run, parser, positive_or_all, run_command, share
from toolkit.kinds import require_decoder
from toolkit.recipe import GgufType
from toolkit.recipe_file import load_recipe
from toolkit.run_folder import RunFolder
from toolkit.run_place import refuse_unwritable


def parse() -> Namespace:
    flags = parser(__doc__ or "")
    add_run(flags)
    flags.add_argument("--quant", nargs="+", choices=get_args(GgufType), help="file types; default: the recipe's")
    flags.add_argument(
        "--verify",
        type=positive_or_all,
        default=200,
        metavar="N|all",
        help="evaluation rows to compare on; default: 200",
    )
    flags.add_argument(
        "--min-agreement",
        type=share,
        metavar="SHARE",
        help="least share of predictions equal to the adapter's; default: 0.99 from 8 bits on, 0.95 below",
    )
    flags.add_argument("--remove-merged", action="store_true", help="delete the merged weights at the end")
    return flags.parse_args()


def main(arguments: Namespace) -> None:
    run = RunFolder.open(arguments.run)
    recipe = load_recipe(run.recipe)
    require_decoder(recipe.model.kind, "A GGUF export", hint="llama.cpp's files are for decoders; keep the adapter.")
    refuse_unwritable(run.path)
    from toolkit.export.export import export_run

    file_types = list(dict.fromkeys(arguments.quant or recipe.export.gguf))
    checks = {"verify": arguments.verify, "min_agreement": arguments.min_agreement}
    export_run(run, recipe, file_types, **checks, remove_merged=arguments.remove_merged)


if __name__ == "__main__":
    arguments = parse()
    sys.exit(run_command(lambda: main(arguments)))
