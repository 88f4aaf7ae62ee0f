"""Labels as text: one spelling of each, so that a label in the data is found whatever its Unicode form or its type."""

import difflib
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from toolkit.utils.formatting import join_names

# Every row is scored with the tokens of every label, and the attention between them grows with the square of their
# number. With the embedded model on two CPU cores, a row takes 0.2 s with 150 labels, and 2.3 s and 0.3 GB with 1,000.
# With 10,000 labels, which are 48,000 tokens, it would take minutes and 9 GB for the attention mask alone.
MAX_LABELS = 1000

# Only a plain decimal with zeros after the point: pandas writes a column of integers that has a gap as floats ("1.0").
# Other spellings of a number stay text, because they can be names: "01" (a department), "1.50" (a version), "1e3".
_WHOLE_NUMBER = re.compile(r"(0|-?[1-9][0-9]*)\.0+")
_TRUTH_VALUES = {"True": "true", "False": "false"}  # as Python and pandas write them, and as JSON and YAML do


def normalize_text(text: Any) -> str:
    """Return a text without outer whitespace, in Unicode's NFC form."""
    # "é" is one code point in NFC and two in NFD, which macOS and some editors write. The two look the same.
    return unicodedata.normalize("NFC", str(text).strip())


def normalize_label(label: Any) -> str:
    """Return the text by which a label is compared.

    Numbers and truth values become text, so that the key 1 of a label map matches the number in JSON, the text in CSV
    and the float in Parquet: 1, 1.0, "1" and "1.0" are the same label, and so are true and "True".
    """
    text = normalize_text(label)
    if match := _WHOLE_NUMBER.fullmatch(text):
        return match[1]
    return _TRUTH_VALUES.get(text, text)


def label_texts(labels: Iterable[str], label_map: Mapping[Any, str | None] | None) -> dict[str, str]:
    """Return the label of each text that means one, by its normalized form: the labels and the keys of the label map.

    The labels keep the spelling of the recipe. Keys that map to null, or to a label that is not in `labels`, are left
    out.
    """
    spelling: dict[str, str] = {}
    for label in labels:
        spelling.setdefault(normalize_label(label), label)
    mapped = {normalize_label(key): normalize_label(label) for key, label in (label_map or {}).items() if label}
    return spelling | {key: spelling[label] for key, label in mapped.items() if label in spelling}


def left_out_texts(label_map: Mapping[Any, str | None] | None) -> frozenset[str]:
    """Return the normalized form of each text whose rows are left out: the keys of the label map that map to null."""
    return frozenset(normalize_label(key) for key, label in (label_map or {}).items() if label is None)


def suggest_label(text: Any, labels: Iterable[str]) -> str:
    """Return "; did you mean ...?" if a label differs from the text only in case, spaces or hyphens, else ""."""
    # Labels whose case differs can be different labels ("US", "us"), so they are suggested and never matched.
    given = normalize_label(text).casefold()
    for label in (names := list(labels)):
        if normalize_label(label).casefold() == given:
            return f"; did you mean {label!r}? labels are case-sensitive"
    given = re.sub(r"[\s_-]+", "", given)
    similar = next(
        (label for label in names if re.sub(r"[\s_-]+", "", normalize_label(label).casefold()) == given), None
    )
    return f"; did you mean {similar!r}?" if similar is not None else ""


def respell_keys(texts: Mapping[Any, Any], labels: Iterable[Any]) -> dict[Any, Any]:
    """Return a mapping from labels with its keys spelled as in `labels`. Keys that are not labels are kept."""
    spelling = {normalize_label(label): label for label in labels if isinstance(label, str)}
    # A key with outer whitespace is not a label: it is kept, and reported.
    respelled = {
        spelling.get(normalize_label(key), key) if isinstance(key, str) and key == key.strip() else key: text
        for key, text in texts.items()
    }
    return respelled if len(respelled) == len(texts) else dict(texts)


def find_label_errors(labels: Sequence[str]) -> list[str]:
    """Return a sentence for each kind of mistake in the labels of a task."""
    if len(labels) > MAX_LABELS:
        return [
            f"has {len(labels):,} labels, but at most {MAX_LABELS:,} are possible, because every row is scored with "
            "every label; merge rare labels with data.label_map, or train a model for each group of labels"
        ]
    mistakes = _find_name_errors(labels)
    if len(set(labels)) < len(labels):
        mistakes.append(f"{_list_labels(labels)} lists a label twice; list each label once")
    elif pair := find_equal(labels):
        mistakes.append(f"{pair[0]!a} and {pair[1]!a} {_explain_equal(*pair)}; keep one of them")
    return mistakes


def _find_name_errors(labels: Sequence[str]) -> list[str]:
    mistakes = []
    if padded := [label for label in labels if label != label.strip()]:
        mistakes.append(
            f"{padded[0]!r} starts or ends with whitespace, which is removed from the data's labels, so no row could "
            "have it; remove the whitespace"
        )
    if "" in labels:
        mistakes.append("a label is empty, but an empty label in the data means that there is none; give it a name")
    if control := [label for label in labels if any(unicodedata.category(character) == "Cc" for character in label)]:
        mistakes.append(f"{control[0]!r} contains a control character such as a tab or a line break; remove it")
    return mistakes


def _explain_equal(first: str, second: str) -> str:
    if normalize_text(first) == normalize_text(second):
        return "are two Unicode forms of the same text"
    return "are the same label, because files write the same value in both ways"


def find_label_map_errors(label_map: Mapping[Any, str | None], labels: Sequence[str]) -> list[str]:
    """Return a sentence for each kind of mistake in a label map.

    Args:
        label_map: The label map.
        labels: The labels that it can map to.
    """
    mistakes, known = [], {normalize_label(label) for label in labels}
    if unknown := [
        label
        for label in label_map.values()
        if label is not None and (label != label.strip() or normalize_label(label) not in known)
    ]:
        mistakes.append(_describe_unknown(unknown[0], labels))
    keys = list(label_map)
    if padded := [key for key in keys if isinstance(key, str) and (not key or key != key.strip())]:
        mistakes.append(
            f"the key {padded[0]!r} is empty, or starts or ends with whitespace, so no value in the data can match it; "
            "remove the whitespace or the key" + ("" if padded[0].strip() else ", or set data.unlabeled: skip")
        )
    elif pair := find_equal(keys):
        mistakes.append(f"the keys {pair[0]!a} and {pair[1]!a} match the same values in the data; keep one of them")
    return mistakes


def find_merge_errors(merge_labels: Mapping[str, Sequence[str]], labels: Sequence[str]) -> list[str]:
    """Return a sentence for the first mistake in `evaluation.merge_labels`, or none.

    Args:
        merge_labels: The labels of the task that each merged label consists of.
        labels: The labels of the task.
    """
    known = {normalize_label(label) for label in labels}
    members = [label for merged in merge_labels.values() for label in merged]
    if empty := [name for name, merged in merge_labels.items() if not merged]:
        return [f"{empty[0]!r} has no labels; list those that are measured as one"]
    if unknown := [label for label in members if normalize_label(label) not in known]:
        return [_describe_unknown(unknown[0], labels)]
    if pair := find_equal(members):
        return [f"{pair[1]!r} is listed twice, so its probability would count twice; list each label once"]
    for name, merged in merge_labels.items():
        # {neutral: [neutral, contradiction]} is clear, but {neutral: [entailment, contradiction]} is not.
        if normalize_label(name) in known - {normalize_label(label) for label in merged}:
            return [f"{name!r} is also a label that is not part of it; give the merged label another name"]
    if pair := find_equal(merge_labels):
        return [f"{pair[0]!a} and {pair[1]!a} {_explain_equal(*pair)}; keep one of them"]
    if mistakes := _find_name_errors(list(merge_labels)):
        return mistakes[:1]
    if merge_labels and len(labels) - len(members) + len(merge_labels) < 2:
        return [f"only {next(iter(merge_labels))!r} is left, so every answer would be right; keep at least two labels"]
    return []


def _describe_unknown(label: str, labels: Sequence[str]) -> str:
    similar = difflib.get_close_matches(label, labels, n=1, cutoff=0.85)
    suggestion = suggest_label(label, labels) or (f"; did you mean {similar[0]!r}?" if similar else "")
    return f"{label!r} is not one of the labels {_list_labels(labels)}{suggestion}"


def _list_labels(labels: Sequence[str]) -> str:
    return f"[{join_names(map(repr, labels))}]"


def find_equal(labels: Iterable[Any], normalize: Callable[[Any], str] = normalize_label) -> tuple[Any, Any] | None:
    """Return the first two labels that are compared as equal.

    Args:
        labels: Labels, or other texts.
        normalize: A function that returns the text by which two of them are compared.
    """
    seen: dict[str, Any] = {}
    for label in labels:
        key = normalize(label)
        if key in seen:
            return seen[key], label
        seen[key] = label
    return None
