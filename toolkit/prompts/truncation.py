"""Rows that fit: where one is too long its premise gives way, never its hypothesis or its answer."""

from collections.abc import Callable, Sequence
from typing import TypeVar
from unicodedata import category

from toolkit.data.example import Example
from toolkit.errors import DataError
from toolkit.utils.progress import progress_bar

_LONG_LIST = 20_000
T = TypeVar("T")


def fit_premise(premise: str, encode: Callable[[str], list[T]], max_tokens: int) -> tuple[list[T], bool]:
    """The row's tokens with as much of the premise's beginning as fits, and whether any of it was lost.

    The premise is cut between two words; within its first one where not even that fits, as with a long URL.

    Raises:
        DataError: the row does not fit even without its premise, or with nothing of it.
    """
    tokens = encode(premise)
    if len(tokens) <= max_tokens:
        return tokens, False
    words = premise.split()
    kept = _largest_fitting(len(words), lambda count: len(encode(" ".join(words[:count]))) <= max_tokens)
    if kept or not words:
        beginning = " ".join(words[:kept])
    else:
        ends = _character_ends(words[0])
        kept = _largest_fitting(len(ends) + 1, lambda count: len(encode(words[0][: ends[count - 1]])) <= max_tokens)
        beginning = words[0][: ends[kept - 1]] if kept else ""
    tokens = encode(beginning)
    if len(tokens) > max_tokens:
        raise DataError(f"needs {len(tokens)} tokens without its premise, but {max_tokens} are left for it")
    if words and not beginning:
        raise DataError(
            f"needs {len(tokens)} tokens without its premise, and {max_tokens} hold not one character of that"
        )
    return tokens, True


def _largest_fitting(upper: int, is_fitting: Callable[[int], bool]) -> int:
    """The greatest number below `upper` that is short; 0, which is not asked for, where none is."""
    lower = 0
    while upper - lower > 1:
        middle = (lower + upper) // 2
        if is_fitting(middle):
            lower = middle
        else:
            upper = middle
    return lower


def _character_ends(word: str) -> list[int]:
    """Where a word may be cut, in code points: not before a combining mark, which belongs to its base."""
    return [end for end in range(1, len(word)) if not category(word[end]).startswith("M")] + [len(word)]


def encode_rows(
    examples: Sequence[Example],
    encode: Callable[[Example], T],
    max_seq_length: int,
    required_text: str,
    remedy: str = "",
) -> list[T]:
    """Encode rows in order.

    Raises:
        DataError: naming the rows in which `max_seq_length` leaves no room for `required_text`.
    """
    rows, problems = [], []
    for example in progress_bar(examples, desc="tokenising", unit="row", disable=len(examples) < _LONG_LIST):
        try:
            rows.append(encode(example))
        except DataError as error:
            problems.append(f"{example.id} {error}")
    if problems:
        raise DataError(
            f"model.max_seq_length {max_seq_length} is too short for {required_text} in {len(problems)} rows; "
            f"row {'; row '.join(problems[:3])}.",
            hint=f"Raise model.max_seq_length{remedy}.",
        )
    return rows
