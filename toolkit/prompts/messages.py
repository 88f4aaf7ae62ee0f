"""How a row becomes a conversation: instruction and question in, one label's words out."""

from collections.abc import Mapping, Sequence

from toolkit.data.example import Example
from toolkit.recipe.schema import Task


def prompt_messages(task: Task, premise: str, hypothesis: str, shots: Sequence[Example] = ()) -> list[dict[str, str]]:
    """The conversation up to the answer, as `{"role", "content"}` messages without outer white space.

    Args:
        shots: solved examples, each a user's turn and the assistant's before the question.
    """
    messages = [{"role": "system", "content": task.system.strip()}] if task.system else []
    for shot in shots:
        messages.append(_question(task, shot.premise, shot.hypothesis))
        messages.append({"role": "assistant", "content": answer(task, shot.label)})
    return [*messages, _question(task, premise, hypothesis)]


def _question(task: Task, premise: str, hypothesis: str) -> dict[str, str]:
    text = task.user.format(premise=premise.strip(), hypothesis=hypothesis.strip())
    return {"role": "user", "content": text.strip()}


def answer(task: Task, label: str) -> str:
    """The assistant's whole answer for a label."""
    return task.verbalizers[label].strip()


def match_verbalizer(text: str, verbalizers: Mapping[str, str]) -> str | None:
    """Return the label whose verbalizer is the whole answer, white space around it aside; None where it is none."""
    return next((label for label, verbalizer in verbalizers.items() if verbalizer.strip() == text.strip()), None)
