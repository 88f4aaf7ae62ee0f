"""Translation of the library's messages for the command line: arguments become flags, calls become commands."""

import re
import shlex
from collections.abc import Callable

_STRING = r"""('[^']*'|"[^"]*")"""
# Messages quote recipe keys, paths and rows. The name of an argument inside one, as in `training.output_dir`, is kept.
_START, _END = r"""(?<![\w./,'"=-])""", r"""(?![\w/'":=-]|[.,]\w)"""


def _shell_word(literal: str) -> str:
    """Convert a quoted Python string to a word of a shell command."""
    return shlex.quote(literal[1:-1])


_FLAGS: tuple[tuple[str, str | Callable[[re.Match[str]], str]], ...] = (
    (r"toolkit\.Recipe\.model_json_schema\(\)", "python scripts/sft.py --help"),
    (r"toolkit\.preflight\(RECIPE\)\.report\(\)", "python scripts/preflight.py RECIPE"),
    (r"toolkit\.train\(RECIPE\)", "python scripts/sft.py RECIPE"),
    (r"toolkit\.train\(RECIPE, resume=True\)", "python scripts/sft.py RECIPE --resume"),
    (
        rf"toolkit\.open_run\({_STRING}\)\.export\(\)",
        lambda match: f"python scripts/export_gguf.py {_shell_word(match[1])}",
    ),
    (
        rf"toolkit\.open_run\({_STRING}\)\.evaluate\({_STRING}\)",
        lambda match: f"python scripts/eval_generate.py {_shell_word(match[1])} --model {_shell_word(match[2])}",
    ),
    (r"run\.evaluate\(\)", "python scripts/eval_generate.py RUN"),
    (r"run\.export\(\)", "python scripts/export_gguf.py RUN"),
    (rf"{_START}overrides=\{{\"([\w.]+)\": \"?([^}}\"]+)\"?\}}", r"--set \1=\2"),
    (r"^overrides: ", "--set "),
    (r"\bthe overrides\b", "the --set flags"),
    (rf"{_START}(resume|overwrite|calibrated|probe)=True{_END}", r"--\1"),
    (rf"{_START}accept_changes=True{_END}", "--accept-changes"),
    (rf"{_START}output_dir{_END}", "--output-dir"),
    (rf'{_START}(model|mode)="(\w+)"', r"--\1 \2"),
    (rf"{_START}model={_STRING}", r"--model \1"),
    (rf"{_START}(shots|memory)=(\d+){_END}", r"--\1 \2"),
    (r"\bleave out (shots|memory)\b", r"leave out --\1"),
    (r"\boutput=DIR\b", "--output DIR"),
    (r"\bdata=FILE and limit=N\b", "--data FILE and --limit N"),
    (rf"{_START}(data|converter)=(FILE|PATH){_END}", r"--\1 \2"),
)
"""Pairs of a regular expression for the API's spelling and its replacement, applied in this order."""


def with_flags(text: str) -> str:
    """Translate a message of the library for users of the commands: `overwrite=True` becomes `--overwrite`."""
    for pattern, flag in _FLAGS:
        text = re.sub(pattern, flag, text)
    return text
