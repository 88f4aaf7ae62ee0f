"""`--text [NAME=]VALUE`: values keep their equals signs, and mistakes list the inputs."""

import pytest

from toolkit.cli.input_texts import check_is_input, parse_texts
from toolkit.errors import DataError

QA = ("question", "context", "answer_text")


@pytest.mark.parametrize(
    ("texts", "inputs", "expected"),
    [
        (["Un film."], ("text",), {"text": "Un film."}),
        (["text=Un film."], ("text",), {"text": "Un film."}),
        (["x = y, a=b"], ("text",), {"text": "x = y, a=b"}),
        (["text=text=5"], ("text",), {"text": "text=5"}),
        (["context=a=b", "answer_text=", "question=="], QA, {"question": "=", "context": "a=b", "answer_text": ""}),
    ],
)
def test_texts_are_assigned_to_inputs(texts: list[str], inputs: tuple[str, ...], expected: dict[str, str]) -> None:
    parsed = parse_texts(texts, inputs)
    assert parsed == expected and tuple(parsed) == inputs


@pytest.mark.parametrize(
    ("texts", "inputs", "sentence"),
    [
        (["a", "b"], ("text",), "The input text is given twice; the input is text."),
        ([], ("text",), "The input text is missing; the input is text."),
        (["Un film."], QA, "'Un film.' does not start with the name of an input; the inputs are question, context"),
        (["title=x"], QA, "'title=x' does not start with the name of an input; the inputs are question, context"),
        (["question=a", "context=b"], QA, "The input answer_text is missing; the inputs are question, context, answ"),
        (["question=a", "question=b"], QA, "The input question is given twice; the inputs are question, context"),
    ],
)
def test_wrong_texts_list_the_inputs(texts: list[str], inputs: tuple[str, ...], sentence: str) -> None:
    with pytest.raises(DataError) as raised:
        parse_texts(texts, inputs)
    assert str(raised.value).startswith(sentence) and raised.value.hint is not None
    assert all(f"{name}=VALUE" in raised.value.hint for name in inputs if len(inputs) > 1)


def test_premise_flag_needs_a_premise() -> None:
    check_is_input("premise", ("premise", "claim"))
    with pytest.raises(DataError, match="A row of this run has no input premise; the input is text"):
        check_is_input("premise", ("text",))
