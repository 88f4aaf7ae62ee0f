"""Rows that fit: where one is too long its premise gives way, never its hypothesis or its answer."""

from collections.abc import Callable, Sequence
from typing import TypeVar
from unicodedata import category

from tqdm.auto import tqdm

from toolkit.errors import DataError
from toolkit.task import Example

_LONG_LIST = 20_000
T = TypeVar("T")


def fit_premise(premise: str, encode: Callable[[str], list[T]], room: int) -> tuple[list[T], bool]:
    """The row's tokens with as much of the premise's beginning as fits, and whether any of it was lost.

    The premise is cut between two words; within its first one where not even that fits, as with a long URL.

    Raises:
        DataError: the row does not fit even without its premise, or with nothing of it.
    """
    tokens = encode(premise)
    if len(tokens) <= room:
        return tokens, False
    words = premise.split()
    fits = _most(len(words), lambda number: len(encode(" ".join(words[:number]))) <= room)
    if fits or not words:
        begin = " ".join(words[:fits])
    else:
        ends = _character_ends(words[0])
        fits = _most(len(ends) + 1, lambda number: len(encode(words[0][: ends[number - 1]])) <= room)
        begin = words[0][: ends[fits - 1]] if fits else ""
    tokens = encode(begin)
    if len(tokens) > room:
        raise DataError(f"needs {len(tokens)} tokens without its premise, but {room} are left for it")
    if words and not begin:
        raise DataError(f"needs {len(tokens)} tokens without its premise, and {room} hold not one character of that")
    return tokens, True


def _most(too_many: int, is_short: Callable[[int], bool]) -> int:
    """The greatest number below `too_many` that is short; 0, which is not asked for, where none is."""
    fits = 0
    while too_many - fits > 1:
        middle = (fits + too_many) // 2
        if is_short(middle):
            fits = middle
        else:
            too_many = middle
    return fits


def _character_ends(word: str) -> list[int]:
    """Where a word may be cut, in code points: not before a combining mark, which belongs to its base."""
    return [end for end in range(1, len(word)) if not category(word[end]).startswith("M")] + [len(word)]


def encode_rows(
    examples: Sequence[Example], encode: Callable[[Example], T], max_seq_length: int, what: str, remedy: str = ""
) -> list[T]:
    """Encode rows in order.

    Raises:
        DataError: naming the rows in which `max_seq_length` leaves no room for `what`.
    """
    rows, refused = [], []
    for example in tqdm(examples, desc="tokenising", unit="row", disable=len(examples) < _LONG_LIST):
        try:
            rows.append(encode(example))
        except DataError as error:
            refused.append(f"{example.id} {error}")
    if refused:
        raise DataError(
            f"model.max_seq_length {max_seq_length} is too short for {what} in {len(refused)} rows; "
            f"row {'; row '.join(refused[:3])}.",
            hint=f"Raise model.max_seq_length{remedy}.",
        )
    return rows
