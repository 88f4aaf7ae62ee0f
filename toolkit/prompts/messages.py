"""Chat messages of a row: the instruction, the shots and the question, answered by the verbalizer of a label."""

from collections.abc import Mapping, Sequence

from toolkit.data.example import Example
from toolkit.recipe.labels import normalize_label
from toolkit.recipe.schema import TaskSection


def prompt_messages(
    task: TaskSection, premise: str, hypothesis: str, shots: Sequence[Example] = ()
) -> list[dict[str, str]]:
    """Return the conversation up to the answer, as messages with `role` and `content`, without surrounding whitespace.

    Args:
        task: The wording of the prompt.
        premise: The premise of the row.
        hypothesis: The hypothesis of the row.
        shots: Labeled examples, each a turn of the user and one of the assistant before the question.
    """
    messages = [{"role": "system", "content": task.system.strip()}] if task.system else []
    for shot in shots:
        messages.append(_question(task, shot.premise, shot.hypothesis))
        messages.append({"role": "assistant", "content": answer_text(task, shot.label)})
    return [*messages, _question(task, premise, hypothesis)]


def _question(task: TaskSection, premise: str, hypothesis: str) -> dict[str, str]:
    text = task.user.format(premise=premise.strip(), hypothesis=hypothesis.strip())
    return {"role": "user", "content": text.strip()}


def answer_text(task: TaskSection, label: str) -> str:
    """Return the assistant's complete answer for a label."""
    return task.verbalizers[label].strip()


def match_verbalizer(text: str, verbalizers: Mapping[str, str]) -> str | None:
    """Return the label whose verbalizer equals the text except for outer whitespace and Unicode's form, or None."""
    answer = normalize_label(text)
    return next((label for label, verbalizer in verbalizers.items() if normalize_label(verbalizer) == answer), None)
