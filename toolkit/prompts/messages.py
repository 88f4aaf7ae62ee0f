"""Chat messages of a row: the instruction, the shots and the question, answered by the verbalizer of a label."""

import re
from collections.abc import Mapping, Sequence

from toolkit.data.example import Example
from toolkit.recipe.labels import normalize_text
from toolkit.recipe.schema import TaskSection


def prompt_messages(
    task: TaskSection, inputs: Mapping[str, str], shots: Sequence[Example] = ()
) -> list[dict[str, str]]:
    """Return the conversation up to the answer, as messages with `role` and `content`, without surrounding whitespace.

    Args:
        task: The wording of the prompt.
        inputs: The text of each input of the row.
        shots: Labeled examples, each a turn of the user and one of the assistant before the question.
    """
    messages = [{"role": "system", "content": _instruction(task, inputs)}] if task.system else []
    for shot in shots:
        messages.append(_question(task, shot.inputs))
        messages.append({"role": "assistant", "content": answer_text(task, shot.label)})
    return [*messages, _question(task, inputs)]


def _instruction(task: TaskSection, inputs: Mapping[str, str]) -> str:
    # One pass: a placeholder that a row's text spells out is not replaced. Other braces, e.g. of JSON, stay text.
    placeholders = "|".join(re.escape(name) for name in task.inputs)
    return re.sub(f"{{({placeholders})}}", lambda match: inputs[match[1]].strip(), task.system or "").strip()


def _question(task: TaskSection, inputs: Mapping[str, str]) -> dict[str, str]:
    text = task.user.format(**{name: inputs[name].strip() for name in task.inputs})
    return {"role": "user", "content": text.strip()}


def answer_text(task: TaskSection, label: str) -> str:
    """Return the assistant's complete answer for a label."""
    return task.verbalizers[label].strip()


def match_verbalizer(text: str, verbalizers: Mapping[str, str]) -> str | None:
    """Return the label whose verbalizer equals the text except for outer whitespace and Unicode's form, or None."""
    answer = normalize_text(text)
    return next((label for label, verbalizer in verbalizers.items() if normalize_text(verbalizer) == answer), None)
