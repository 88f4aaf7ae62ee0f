"""Recipes on disk: YAML in, every mistake in one report, the resolved recipe and its JSON Schema out."""

import difflib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from toolkit.errors import RecipeError
from toolkit.recipe import Recipe
from toolkit.yaml_text import dump_yaml, parse_yaml

LOCAL_SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".parquet")
_HINT = "Every key is described by: python scripts/sft.py --help"
_LONGEST_VALUE = 100
_MOST_MISTAKES = 20

# What other trainers call these keys.
_SYNONYMS = {
    "lr": "learning_rate", "rank": "r", "lora_r": "r", "lora_alpha": "alpha", "lora_dropout": "dropout",
    "num_train_epochs": "epochs", "num_epochs": "epochs", "model_name": "name", "max_length": "max_seq_length",
    "per_device_train_batch_size": "micro_batch_size", "lr_scheduler_type": "scheduler", "optim": "optimizer",
    "precision": "dtype",
}  # fmt: skip


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        known = ", ".join(sorted(str(p) for p in Path("recipes").glob("*.yaml")))
        why = f"The recipe {path} is a folder." if path.is_dir() else f"There is no recipe file {path}."
        raise RecipeError(why, hint=f"Recipes here: {known}" if known else "Give the name of a .yaml file.")
    values = parse_yaml(_read_text(path), str(path))
    if not isinstance(values, dict):
        found = "nothing" if values is None else f"a {type(values).__name__}"
        raise RecipeError(f"{path} holds {found}, not sections such as `task:` and `model:`.", hint=_HINT)
    return values


def _read_text(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8-sig")  # some editors put a byte-order mark in front
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path} is not UTF-8 text (byte {error.start}).", hint="Save it as UTF-8.") from error
    if "\0" in text:
        raise RecipeError(f"{path} holds NUL characters, so it is no text.", hint="Is it UTF-16? Save it as UTF-8.")
    return text


def _override(values: dict[str, Any], assignment: str) -> None:
    key, equals, text = assignment.partition("=")
    if not equals or not key.strip():
        raise RecipeError(f"--set {assignment!r} has no '='.", hint="Write --set section.key=value.")
    *sections, last = key.strip().split(".")
    for section in sections:
        inner = values.setdefault(section, {})
        if not isinstance(inner, dict):
            raise RecipeError(f"--set {key}: {section!r} is not a section.", hint="Write --set section.key=value.")
        values = inner
    values[last] = parse_yaml(text, f"--set {key}")


def fields(model: type[BaseModel] = Recipe, prefix: str = "") -> Iterator[tuple[str, str, str]]:
    """Yield (dotted key, default as written in YAML, description) of every key of a recipe, in order."""
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from fields(kind, f"{prefix}{name}.")
        else:
            default = "required" if field.is_required() else json.dumps(field.get_default(call_default_factory=True))
            yield f"{prefix}{name}", default, field.description or ""


def _sentence(error: Mapping[str, Any], known: Sequence[str]) -> tuple[str, str]:
    """(key, what is wrong with it) for one of pydantic's errors."""
    location = [str(part) for part in error["loc"]]
    if error["type"] == "extra_forbidden":
        return ".".join(location), _unknown(location, known)
    # A union appends the name of each of its members to the location: the key is the longest known beginning.
    while len(location) > 1 and ".".join(location) not in known and ".".join(location[:-1]) in known:
        location.pop()
    if error["type"] == "missing":
        return ".".join(location), "missing; the recipe must give it"
    if error["type"] == "too_short":
        given, least = len(error["input"]), error["ctx"]["min_length"]
        return ".".join(location), f"names {given}, but at least {least} are needed"
    if error["type"] == "value_error":
        key, _, text = str(error["ctx"]["error"]).partition(": ")
        return key, text
    wanted = error["msg"].removeprefix("Input ")
    return ".".join(location), f"{_shown(error['input'])} cannot be used; it {wanted[0].lower()}{wanted[1:]}"


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _LONGEST_VALUE else f"{text[: _LONGEST_VALUE - 3]}..."


def _unknown(location: Sequence[str], known: Sequence[str]) -> str:
    section, name = ".".join(location[:-1]), location[-1]
    wanted = _SYNONYMS.get(name, name)
    here = [key for key in known if key.rpartition(".")[0] == section] if section else list(Recipe.model_fields)
    for keys in (here, known):
        names = {key.rsplit(".", 1)[-1]: key for key in reversed(keys)}
        if close := difflib.get_close_matches(wanted, names, n=1, cutoff=0.7):
            return f"not a key of {f'section {section}' if section else 'a recipe'}; you meant {names[close[0]]}"
    there = [key.rsplit(".", 1)[-1] for key in here]
    return f"not a known key; {f'section {section}' if section else 'a recipe'} has {', '.join(there)}"


def _refuse_no_text(value: Any, where: str, key: str = "") -> None:
    """A NUL ends a name in many a library, half of a character has no UTF-8: neither could be saved and read again."""
    if isinstance(value, dict):
        for name, inner in value.items():
            _refuse_no_text(inner, where, f"{key}.{name}" if key else str(name))
            _refuse_no_text(name, where, key)
    elif isinstance(value, list):
        for inner in value:
            _refuse_no_text(inner, where, key)
    elif isinstance(value, str) and re.search("[\0\ud800-\udfff]", value):
        raise RecipeError(
            f"{where}: {key}: {_shown(value)} holds a NUL or half of a character, which no text has.",
            hint="Write whole characters.",
        )


def _validate(values: dict[str, Any], where: str) -> Recipe:
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        known = [key for key, _, _ in fields()]
        mistakes: dict[str, list[str]] = {}
        errors = error.errors(include_url=False)
        for one in errors:
            # An item that was refused makes its list too short as well: one mistake, not two.
            if one["type"] == "too_short" and any(other["loc"][:-1] == one["loc"] for other in errors):
                continue
            key, text = _sentence(one, known)
            mistakes.setdefault(key, []).append(text)
        raise RecipeError("\n".join(_report(where, mistakes)), hint=_HINT) from error


def _report(where: str, mistakes: Mapping[str, list[str]]) -> list[str]:
    lines = [f"{where}: {key}: {' or '.join(dict.fromkeys(_merge(texts)))}." for key, texts in mistakes.items()]
    more = len(lines) - _MOST_MISTAKES
    return lines if more <= 0 else [*lines[:_MOST_MISTAKES], f"{where}: {more:,} more mistakes."]


def _merge(texts: Sequence[str]) -> list[str]:
    """Say the shared beginning of several complaints about one value once."""
    head = texts[0].rpartition(" it ")[0] + " it "
    return [texts[0], *(text.removeprefix(head) for text in texts[1:])]


def _resolve(values: dict[str, Any]) -> None:
    """Make local paths absolute and put a template file's text in place, so that the run folder stands alone."""
    for part in ("train", "eval"):
        source = values.get("data", {}).get(part) if isinstance(values.get("data"), dict) else None
        if isinstance(source, dict) and isinstance(source.get("path"), str):
            source["path"] = resolve_data_path(source["path"])
    model, task = values.get("model"), values.get("task")
    if (
        isinstance(model, dict)
        and model.get("name")
        and isinstance(model["name"], str)
        and _local(model["name"]).is_dir()
    ):
        model["name"] = str(_local(model["name"]))
    template = task.get("chat_template") if isinstance(task, dict) else None
    if isinstance(task, dict) and isinstance(template, str) and "{" not in template:
        if not Path(template).is_file():
            raise RecipeError(
                f"task.chat_template {template!r} is neither a file nor Jinja text.",
                hint="Give a file's path, Jinja text, or null for the tokenizer's own.",
            )
        task["chat_template"] = _read_text(Path(template))


def resolve_data_path(path: str) -> str:
    """A local data file's absolute path; a hub id or an embedded dataset's name as it is."""
    return str(_local(path)) if path.endswith(LOCAL_SUFFIXES) else path


def _local(path: str) -> Path:
    # pathlib's own raise where there is no such user, and where links lead in a circle
    return Path(os.path.realpath(os.path.expanduser(path)))  # noqa: PTH111


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read, override and validate a recipe.

    Args:
        path: a YAML file.
        overrides: `section.key=value`, the value in YAML.

    Raises:
        RecipeError: with one line for each mistake.
    """
    values = _read(path)
    for assignment in overrides:
        _override(values, assignment)
    _refuse_no_text(values, path.name)
    _resolve(values)
    return _validate(values, path.name)


def dump_recipe(recipe: Recipe) -> str:
    """The recipe as YAML that `load_recipe` reads back to an equal recipe."""
    return dump_yaml(recipe.model_dump(mode="json"))


def as_assignment(key: str, value: Any) -> str:
    """What `--set` is given for a plain value to be read back under the dotted key."""
    return f"{key}={value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}"


def differences(one: Recipe, other: Recipe) -> dict[str, Any]:
    """The dotted keys in which two recipes differ, in the order of the recipe, with what `other` has under them.

    Values are plain: JSON and YAML can write them.
    """

    def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
        flattened = {}
        for name, value in values.items():
            is_section = isinstance(value, dict) and f"{prefix}{name}" not in known
            flattened.update(flat(value, f"{prefix}{name}.") if is_section else {f"{prefix}{name}": value})
        return flattened

    known = {key for key, _, _ in fields()}
    ours, theirs = flat(one.model_dump(mode="json")), flat(other.model_dump(mode="json"))
    return {key: theirs[key] for key in ours if ours[key] != theirs[key]}


def json_schema() -> str:
    """The JSON Schema of a recipe, for editors; `python -m toolkit.recipe_file` prints it."""
    return json.dumps(Recipe.model_json_schema(), ensure_ascii=False, indent=2) + "\n"


if __name__ == "__main__":
    print(json_schema(), end="")
