"""A draft of a recipe for a file: commented YAML text in which everything that is not known is marked with TODO."""

import json
import re
import textwrap
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from toolkit.data.column_roles import ColumnRoles, is_code
from toolkit.recipe.inputs import NLI_INPUTS, RESERVED
from toolkit.recipe.yaml_parser import dump_yaml, parse_yaml
from toolkit.utils.formatting import join_names

Language = Literal["fr", "en"]
_MAX_LISTED_LABELS = 30  # in the instruction, where every label costs tokens in every step
_LINE_CHARACTERS = 120
_CHARACTERS_PER_TOKEN = 3  # fewer than in most texts, so that the estimate errs on the high side
_LENGTHS = (256, 384, 512, 768, 1024, 1536, 2048)
_PHRASES: dict[Language, dict[str, str]] = {
    "en": {
        "one": "Classify the text.", "several": "Read {inputs} and classify them together.", "and": "and", "or": "or",
        "listed": "Answer with one of these labels only: {labels}.", "colon": ":",
        "unlisted": "Answer with the name of its label only.",
    },
    "fr": {
        "one": "Classe le texte.", "several": "Lis {inputs} et classe l'ensemble.", "and": "et", "or": "ou",
        "listed": "Réponds seulement par l'une de ces étiquettes : {labels}.",
        "unlisted": "Réponds seulement par le nom de son étiquette.", "colon": " :",
    },
}  # fmt: skip


@dataclass(frozen=True)
class DraftSources:
    """The files of a draft and the model to train.

    Args:
        train: The path of the training file, as the user wrote it.
        format: The parts of its format that the user stated.
        eval: The path of the evaluation file, or None.
        eval_share: The share of the training rows to evaluate on if there is no evaluation file.
        model: The name of the model.
        max_positions: The largest number of tokens that the model can read, or None if it is not known.
        file_name: The name of the recipe's file, for the command at its start.
    """

    train: str
    format: Mapping[str, Any]
    eval: str | None
    eval_share: float
    model: str
    max_positions: int | None
    file_name: str


def name_inputs(columns: Sequence[str]) -> dict[str, str]:
    """Return the column of each input: `text` for a single one, else names that resemble those of the columns."""
    if len(columns) == 1:
        return {"text": columns[0]}
    if set(columns) == set(NLI_INPUTS):
        return {name: name for name in NLI_INPUTS}
    names: dict[str, str] = {}
    for column in columns:
        ascii_text = unicodedata.normalize("NFKD", column).encode("ascii", "ignore").decode()
        name = re.sub(r"\W+", "_", ascii_text).strip("_").lower() or "text"
        if not name.isidentifier() or name in RESERVED:
            name = f"text_{name}"
        while name in names:
            name += "_"
        names[name] = column
    return names


def draft_recipe(roles: ColumnRoles, sources: DraftSources, language: Language, longest_text: int) -> str:
    """Return the text of a recipe.

    Args:
        roles: The roles of the columns of the training file.
        sources: The files and the model.
        language: The language of the instruction.
        longest_text: The number of characters of all inputs in the longest row.
    """
    inputs = name_inputs(roles.inputs)
    verbalizers = {label: roles.label_names.get(label, label) for label in roles.label_values.labels}
    system = _instruction(list(inputs), list(verbalizers.values()), language)
    lines = [*_head(roles, sources), *_task(roles, inputs, verbalizers, system, language), ""]
    lines += [*_data(roles, inputs, sources), ""]
    lines += [*_model(sources, longest_text + len(system), next(iter(inputs))), ""]
    lines += ["lora:", "  r: 16", "  alpha: 32", "  dropout: 0.0", ""]
    lines += ["training:", "  epochs: 3", "  batch_size: 16", "  learning_rate: 1e-4", "  warmup_ratio: 0.03"]
    return "\n".join(lines) + "\n"


def _head(roles: ColumnRoles, sources: DraftSources) -> Iterator[str]:
    counts = roles.label_values.labels
    yield f"# python scripts/sft.py {_printable(sources.file_name)}"
    yield "#"
    origin = f"{sum(counts.values()):,} rows with {len(counts):,} labels in column {_shown(roles.label)}"
    yield f"# Drafted by scripts/new_recipe.py from {_printable(sources.train)}:"
    yield f"# {origin}. Lines with TODO need what cannot be inferred from it."
    yield ""


def _task(
    roles: ColumnRoles, inputs: Mapping[str, str], verbalizers: Mapping[str, str], system: str, language: Language
) -> Iterator[str]:
    yield "task:"
    counts = roles.label_values.labels
    yield from _comment("rows of each label: " + join_names(f"{_shown(name)} {n:,}" for name, n in counts.items()))
    if pair := _differ_in_case(list(counts)):
        yield from _comment(
            f"TODO: {_shown(pair[0])} and {_shown(pair[1])} differ only in case. If they are the same label, remove "
            "one here and map it to the other with data.label_map."
        )
    yield from _key("labels", list(counts))
    if roles.label_names_from is not None:
        yield from _comment(
            f"the text that the model writes for each label, from column {_shown(roles.label_names_from)}"
        )
        yield from _key("verbalizers", dict(verbalizers))
    elif any(map(is_code, counts)):
        yield from _comment(
            "TODO: the file does not define these labels. Write the words that the model should answer with, "
            "here and in the instruction."
        )
        yield from _key("verbalizers", dict(verbalizers))
    yield from _comment("TODO: explain when each label applies. The model reads this instruction in every row.")
    yield from _folded("system", system)
    if len(inputs) > 1:
        yield from _comment("TODO: these columns contain texts. Remove those that the answer must not depend on.")
    for column, reason in list(roles.others.items())[:_MAX_LISTED_LABELS]:
        yield from _comment(f"column {_shown(column)} is not used: {reason}")
    colon = _PHRASES[language]["colon"]
    titles = {name: column.replace("_", " ").strip() for name, column in inputs.items()}
    user = "\n".join(f"{_title(titles[name])}{colon} {{{name}}}" for name in inputs) if len(inputs) > 1 else "{text}"
    yield f"  user: {json.dumps(user, ensure_ascii=False)}" if _is_plain(user) else f"  user: {json.dumps(user)}"


def _data(roles: ColumnRoles, inputs: Mapping[str, str], sources: DraftSources) -> Iterator[str]:
    yield "data:"
    source = {"path": sources.train} | ({"format": dict(sources.format)} if sources.format else {})
    yield from _key("train", source)
    if sources.eval is not None:
        yield from _key("eval", {**source, "path": sources.eval})
    else:
        yield from _comment("the share of the rows to evaluate on; a separate file is better: eval: {path: FILE}")
        yield from _key("eval_share", sources.eval_share)
    columns: dict[str, str] = {**inputs, "label": roles.label} | ({"id": roles.id} if roles.id else {})
    if columns := {name: column for name, column in columns.items() if name != column or name == "id"}:
        yield from _key("columns", columns)
    values = roles.label_values
    if values.placeholders:
        listed = join_names(f"{_shown(text)} in {count:,} rows" for text, count in values.placeholders.items())
        yield from _comment(f"TODO: {listed}: these rows are left out. If it is a label, move it to task.labels.")
        yield from _key("label_map", dict.fromkeys(values.placeholders))
    if values.unlabeled:
        yield from _comment(f"{values.unlabeled:,} rows have no label")
        yield from _key("unlabeled", "skip")


def _model(sources: DraftSources, characters: int, first_input: str) -> Iterator[str]:
    yield "model:"
    yield from _key("name", sources.model)
    needed = characters / _CHARACTERS_PER_TOKEN + 64  # and the chat template's own tokens
    length = next((length for length in _LENGTHS if length >= needed), _LENGTHS[-1])
    length = min(length, sources.max_positions or length)
    yield f"  max_seq_length: {length} # tokens; a longer row loses the end of {first_input}"


def _instruction(inputs: Sequence[str], answers: Sequence[str], language: Language) -> str:
    words = _PHRASES[language]
    task = words["one"] if len(inputs) == 1 else words["several"].format(inputs=join_names(inputs, words["and"]))
    if len(answers) > _MAX_LISTED_LABELS:
        return f"{task} {words['unlisted']}"
    return f"{task} {words['listed'].replace('{labels}', join_names(answers, words['or']))}"


def _key(name: str, value: Any) -> list[str]:
    """Return the lines of a key in a section: on one line if it fits, and always read back as the same value."""
    line = f"  {name}: {_flow(value)}"
    for lines in ([line], [f"  {line}" for line in dump_yaml({name: value}).splitlines()]):
        if (len(lines) > 1 or len(line) <= _LINE_CHARACTERS) and _is_read_back(lines, name, value):
            return lines
    return [f"  {name}: {json.dumps(value)}"]  # the escapes of JSON are those of YAML


def _is_read_back(lines: Sequence[str], name: str, value: Any) -> bool:
    try:
        return bool(parse_yaml("\n".join(lines), name) == {name: value})
    except ValueError:
        return False


def _folded(name: str, text: str) -> list[str]:
    """Return the lines of a key with a wrapped text, as in the shipped recipes, if it is read back unchanged."""
    width = _LINE_CHARACTERS - 4
    lines = [f"  {name}: >-", *textwrap.wrap(text, width, initial_indent="    ", subsequent_indent="    ")]
    return lines if _is_read_back(lines, name, text) else _key(name, text)


def _flow(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_flow(key)}: {_flow(child)}" for key, child in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_flow, value)) + "]"
    if isinstance(value, str) and re.fullmatch(r"[^\W\d][\w/.-]*( [\w/.-]+)*", value) and not _is_keyword(value):
        return value
    return json.dumps(value, ensure_ascii=False)


def _is_keyword(text: str) -> bool:
    return text.lower() in ("null", "true", "false", "yes", "no", "on", "off", "y", "n")


def _comment(text: str) -> Iterator[str]:
    line = "  #"
    for word in text.split():
        if len(line) + len(word) >= _LINE_CHARACTERS:
            yield line
            line = "  #"
        line += f" {word}"
    yield line


def _shown(text: str) -> str:
    # repr escapes line breaks and other characters that would end the comment or are not allowed in YAML.
    return repr(text if len(text) <= 60 else f"{text[:60]}...")


def _printable(text: str) -> str:
    return text if _is_plain(text) else repr(text)


def _is_plain(text: str) -> bool:
    return all(character.isprintable() or character == "\n" for character in text)


def _title(text: str) -> str:
    """Return the name of an input as a title in the prompt, with doubled braces."""
    return (text[:1].upper() + text[1:]).replace("{", "{{").replace("}", "}}")


def _differ_in_case(labels: Sequence[str]) -> tuple[str, str] | None:
    seen: dict[str, str] = {}
    for label in labels:
        if (other := seen.setdefault(label.casefold(), label)) != label:
            return other, label
    return None


def read_max_positions(folder: Path) -> int | None:
    """Return the largest number of tokens that a model in a folder can read, or None if its config does not say."""
    try:
        value = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("max_position_embeddings")
    except (OSError, ValueError, AttributeError):
        return None
    return value if isinstance(value, int) and value > 0 else None
