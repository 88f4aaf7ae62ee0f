"""Merge the adapter of a run, write GGUF files for llama.cpp, and check that their predictions match the adapter's.

python scripts/export_gguf.py outputs/nli_fr
python scripts/export_gguf.py outputs/nli_fr --quant f16 q4_k_m --verify all --remove-merged
"""

import sys
from argparse import Namespace
from pathlib import Path
from typing import get_args

from toolkit.api.run import open_run
from toolkit.cli.command_line import add_run, opening, parser, positive_or_all, run_command, share
from toolkit.recipe.section import GgufType


def parse() -> Namespace:
    flags = parser(__doc__ or "")
    add_run(flags)
    flags.add_argument(
        "--quant",
        nargs="+",
        choices=get_args(GgufType),
        metavar="TYPE",
        help=f"one or more of {', '.join(get_args(GgufType))} (default: export.gguf of the recipe)",
    )
    flags.add_argument(
        "--verify",
        type=positive_or_all,
        default=200,
        metavar="N|all",
        help="number of evaluation rows to compare on (default: 200)",
    )
    flags.add_argument(
        "--min-agreement",
        type=share,
        metavar="SHARE",
        help="minimum fraction of predictions that match the adapter's (default: 0.99 for 8 bits and more, else 0.95)",
    )
    flags.add_argument("--remove-merged", action="store_true", help="delete the merged weights afterwards")
    help_text = "llama.cpp's convert_hf_to_gguf.py or its folder, for models that the toolkit cannot convert"
    flags.add_argument("--converter", type=Path, metavar="PATH", help=help_text)
    return flags.parse_args()


def main(arguments: Namespace) -> None:
    open_run(arguments.run, **opening(arguments)).export(
        *(arguments.quant or ()),
        verify=arguments.verify,
        min_agreement=arguments.min_agreement,
        remove_merged=arguments.remove_merged,
        converter=arguments.converter,
        progress=True,
    )


if __name__ == "__main__":
    sys.exit(run_command(lambda: main(parse())))  # parsing prints, too: --help and mistakes in flags
