"""What a row is, and how it becomes a conversation: instruction and question in, one label's words out."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from toolkit.recipe import Task


@dataclass(frozen=True)
class Example:
    """One checked row; `slices` holds the values of the columns that the evaluation is sliced by."""

    id: str
    premise: str
    hypothesis: str
    label: str
    slices: Mapping[str, str] = field(default_factory=dict)


def prompt_messages(task: Task, premise: str, hypothesis: str) -> list[dict[str, str]]:
    """The conversation up to the answer, as `{"role", "content"}` messages without outer white space."""
    system = [{"role": "system", "content": task.system.strip()}] if task.system else []
    user = task.user.format(premise=premise.strip(), hypothesis=hypothesis.strip()).strip()
    return [*system, {"role": "user", "content": user}]


def answer(task: Task, label: str) -> str:
    """The assistant's whole answer for a label."""
    return task.verbalizers[label].strip()
