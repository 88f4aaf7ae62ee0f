"""Parts of messages about data files: names, lines, and the key of a recipe to set."""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from toolkit.errors import DataError
from toolkit.recipe.labels import normalize_text

_SHOWN_NAMES, _SHOWN_NAME_CHARACTERS, _SHOWN_LINE_CHARACTERS = 30, 80, 120


def list_names(names: Iterable[str]) -> str:
    """Return names as text for a message, with long names and long lists cut."""
    shown = [name[:_SHOWN_NAME_CHARACTERS] for name in names]
    return ", ".join(shown[:_SHOWN_NAMES]) + (
        f" and {len(shown) - _SHOWN_NAMES:,} more" if len(shown) > _SHOWN_NAMES else ""
    )


def similar_name_hint(names: Iterable[str], missing: str) -> str | None:
    """Return a hint if a name looks like the missing one, but has other whitespace or another Unicode form."""
    similar = next((name for name in names if normalize_text(name) == normalize_text(missing)), None)
    if similar is None:
        return None
    return f"{similar!a} and {missing!a} differ only in whitespace or in their Unicode form. Rename one of them."


def key_hint(key: str) -> str:
    """Return the name of a key of a source's format, for a hint."""
    return f"format.{key} of the source (data.train.format.{key}, data.dev.format.{key} or data.eval.format.{key})"


def shorten_line(line: str) -> str:
    """Return a line for a message, without its line break, cut and with escaped control characters."""
    line = line.rstrip("\r\n")
    return repr(line if len(line) <= _SHOWN_LINE_CHARACTERS else f"{line[:_SHOWN_LINE_CHARACTERS]}...")


def check_unique_columns(path: Path, columns: Sequence[str]) -> None:
    """Check that no two columns share a name, because a row would silently keep only the last of them.

    Columns without a name can repeat, because nothing refers to them.
    """
    if duplicates := [name for name, count in Counter(columns).items() if name and count > 1]:
        raise DataError(f"{path} has two columns named {duplicates[0]!r}.", hint="Rename one of them.")
