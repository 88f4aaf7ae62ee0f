"""YAML as recipes use it: version 1.2's scalars, no tags, no aliases, no repeated keys, and nothing that unfolds."""

import re
from typing import Any, ClassVar

import yaml

from toolkit.errors import RecipeError, first_line

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
_HINTS = {
    "aliases": "Write the value out in each place.",
    "tags": "Write the plain value.",
    "twice": "Keep one of the two.",
    "tab": "Indent with spaces.",
}
_HINT = "Compare with a file in recipes/; a text with special characters stands in quotation marks."
_LONGEST = 200_000
"""Characters; a recipe has a few thousand."""
_MOST_DIGITS = 100


class _Loader(yaml.SafeLoader):
    """A SafeLoader with YAML 1.2's scalars, that refuses repeated keys, aliases and tags."""

    yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {}

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent):
            raise yaml.MarkedYAMLError(problem="aliases are not used in recipes", problem_mark=event.start_mark)
        if tag := getattr(
            event, "tag", None
        ):  # each calls a constructor of its own, some of which raise what they like
            raise yaml.MarkedYAMLError(
                problem=f"tags such as {tag!r} are not used in recipes", problem_mark=event.start_mark
            )
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, (list, dict)):
                raise yaml.MarkedYAMLError(problem="a key is no plain word", problem_mark=key_node.start_mark)
            if key in keys:
                problem = f"the key {key!r} stands twice in one section"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key_node.start_mark)
            keys.add(key)
        return super().construct_mapping(node, deep=deep)


class _Dumper(yaml.SafeDumper):
    """The loader's twin: quotes exactly the strings that the loader would take for something else."""

    yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {}


def _integer(_: Any, node: Any) -> int:
    if len(node.value) > _MOST_DIGITS:
        problem = f"a number has {len(node.value):,} digits"
        raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)
    return int(node.value)  # 1.1: a leading 0 is octal


_Loader.add_constructor("tag:yaml.org,2002:int", _integer)
for _tag, (_pattern, _first) in _CORE_SCHEMA.items():
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(_tag, re.compile(f"^(?:{_pattern})$"), _first)
_Dumper.add_representer(
    str,
    lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None),
)


def parse_yaml(text: str, where: str) -> Any:
    """The value of a YAML text.

    Args:
        text: one document.
        where: what it is called in a message.

    Raises:
        RecipeError: it is no YAML, or uses what recipes do not.
    """
    if len(text) > _LONGEST:
        raise RecipeError(
            f"{where} has {len(text):,} characters, which no recipe has.", hint="Rows belong into a data file."
        )
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader subclass
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        position = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = error.problem or "it cannot be parsed"
        if "\\t" in problem:
            problem = "a tab is used for indentation"
        hint = next((hint for word, hint in _HINTS.items() if word in problem), _HINT)
        raise RecipeError(f"{where}{position} is not valid YAML: {problem}.", hint=hint) from error
    except RecursionError as error:
        raise RecipeError(f"{where} is not valid YAML: it is nested too deeply.", hint="Close each bracket.") from error
    except (yaml.YAMLError, ValueError) as error:
        raise RecipeError(f"{where} is not valid YAML: {first_line(error)}.", hint=_HINT) from error


def dump_yaml(value: Any) -> str:
    """A plain value as YAML that `parse_yaml` reads back to an equal one."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)
