"""Examples of natural language inference for tests."""

from collections.abc import Mapping

from toolkit.data.example import Example


def nli(id: str, premise: str, hypothesis: str, label: str, slices: Mapping[str, str] | None = None) -> Example:
    """Return an example with a premise and a hypothesis."""
    return Example(id, {"premise": premise, "hypothesis": hypothesis}, label, slices or {})
