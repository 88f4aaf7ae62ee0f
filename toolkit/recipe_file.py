"""Recipes on disk: YAML in, every mistake in one report, the resolved recipe and its JSON Schema out."""

import difflib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import yaml
from pydantic import BaseModel, ValidationError

from toolkit.errors import RecipeError
from toolkit.recipe import Recipe

LOCAL_SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".parquet")

# YAML 1.2's core schema: PyYAML's own rules are 1.1's, where 1e-4 is a string, `no` is false and 12:30 a number.
_CORE_SCHEMA = {
    "tag:yaml.org,2002:null": (r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    "tag:yaml.org,2002:bool": (r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    "tag:yaml.org,2002:int": (r"[-+]?[0-9]+", list("-+0123456789")),
    "tag:yaml.org,2002:float": (
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
}


# What other trainers call these keys.
_SYNONYMS = {
    "lr": "learning_rate", "rank": "r", "lora_r": "r", "lora_alpha": "alpha", "lora_dropout": "dropout",
    "num_train_epochs": "epochs", "num_epochs": "epochs", "model_name": "name", "max_length": "max_seq_length",
    "per_device_train_batch_size": "micro_batch_size", "lr_scheduler_type": "scheduler", "optim": "optimizer",
}  # fmt: skip


class _Loader(yaml.SafeLoader):
    """A SafeLoader with YAML 1.2's scalars, that refuses repeated keys and aliases."""

    yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {}

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.MarkedYAMLError(
                problem="aliases are not used in recipes", problem_mark=self.peek_event().start_mark
            )
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for position, key in enumerate(keys):
            if key in keys[:position]:
                mark = node.value[position][0].start_mark
                raise yaml.MarkedYAMLError(problem=f"the key {key!r} stands twice in one section", problem_mark=mark)
        return super().construct_mapping(node, deep=deep)


class _Dumper(yaml.SafeDumper):
    """The loader's twin: quotes exactly the strings that the loader would take for something else."""

    yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {}


_Loader.add_constructor("tag:yaml.org,2002:int", lambda loader, node: int(node.value))  # 1.1: a leading 0 is octal
for _tag, (_pattern, _first) in _CORE_SCHEMA.items():
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(_tag, re.compile(f"^(?:{_pattern})$"), _first)
_Dumper.add_representer(
    str,
    lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None),
)


def _parse_yaml(text: str, where: str) -> Any:
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader subclass
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = error.problem or "it cannot be parsed"
        if "\\t" in problem:
            problem = "a tab is used for indentation"
        raise RecipeError(f"{where}{place} is not valid YAML: {problem}.", hint="Indent with spaces.") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise RecipeError(f"{where} is not valid YAML: {error}.") from error


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        known = ", ".join(sorted(str(p) for p in Path("recipes").glob("*.yaml")))
        raise RecipeError(f"There is no recipe file {path}.", hint=f"Recipes here: {known}" if known else None)
    values = _parse_yaml(_read_text(path), str(path))
    if not isinstance(values, dict):
        found = "nothing" if values is None else f"a {type(values).__name__}"
        raise RecipeError(f"{path} holds {found}, not sections such as `task:` and `model:`.")
    return values


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path} is not UTF-8 text (byte {error.start}).", hint="Save it as UTF-8.") from error


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
    values[last] = _parse_yaml(text, f"--set {key}")


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
    return ".".join(location), f"{error['input']!r} cannot be used; it {wanted[0].lower()}{wanted[1:]}"


def _unknown(location: Sequence[str], known: Sequence[str]) -> str:
    section, name = ".".join(location[:-1]), location[-1]
    wanted = _SYNONYMS.get(name, name)
    here = [key for key in known if key.rpartition(".")[0] == section]
    for keys in (here, known):
        names = {key.rsplit(".", 1)[-1]: key for key in reversed(keys)}
        if close := difflib.get_close_matches(wanted, names, n=1, cutoff=0.7):
            return f"not a key of {f'section {section}' if section else 'a recipe'}; you meant {names[close[0]]}"
    there = [key.rsplit(".", 1)[-1] for key in here] if section else list(Recipe.model_fields)
    return f"not a known key; {f'section {section}' if section else 'a recipe'} has {', '.join(there)}"


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
        lines = [f"{where}: {key}: {' or '.join(dict.fromkeys(_merge(texts)))}." for key, texts in mistakes.items()]
        raise RecipeError("\n".join(lines)) from error


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
    return Path(os.path.expanduser(path)).resolve()  # noqa: PTH111 - pathlib's raises where there is no such user


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
    _resolve(values)
    return _validate(values, path.name)


def dump_recipe(recipe: Recipe) -> str:
    """The recipe as YAML that `load_recipe` reads back to an equal recipe."""
    return yaml.dump(recipe.model_dump(mode="json"), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


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
