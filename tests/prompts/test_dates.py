"""The date of the recipe in chat templates: it takes the place of the clock, however a template asks for it."""

from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toolkit.embedded import MODEL_FOLDER
from toolkit.errors import RecipeError
from toolkit.export.gguf_writer import write_gguf
from toolkit.inference.llama_cpp import LlamaCpp
from toolkit.prompts.chat_template import ChatTemplate
from toolkit.prompts.dates import pin_date
from toolkit.prompts.tokenizer import load_tokenizer

MESSAGES = [{"role": "user", "content": "Il pleut."}]
TURNS = "{% for m in messages %}{{ m.role }}: {{ m.content }}<|eot_id|>{% endfor %}"
TURNS += "{% if add_generation_prompt %}assistant: {% endif %}"
TEMPLATES = {
    "Llama 3.2": """{%- if not date_string is defined %}
    {%- if strftime_now is defined %}{%- set date_string = strftime_now("%d %b %Y") %}
    {%- else %}{%- set date_string = "26 Jul 2024" %}{%- endif %}
{%- endif %}{{- "Today Date: " + date_string }}""",
    "SmolLM3": '{%- set today = strftime_now("%d %B %Y") -%}{{- "Today Date: " ~ today -}}',
    "Granite": "{{- \"Today's Date: \" + strftime_now('%B %d, %Y') + '.' }}",
    "Mistral Small": '{%- set today = strftime_now("%Y-%m-%d") %}{{- "The current date is " + today }}',
    "macro": '{%- macro header() %}{{ strftime_now("%A %-d %b %y, %H:%M %%") }}{% endmacro %}{{ header() }}',
    "keyword": '{%- set f = "%F %e" %}{{ strftime_now(format=f) }}',
    "line breaks": '\n\n  {% if true %}x {{ strftime_now("%j") }}{% endif %}',
    "blanks": "  {% if true %}{{ date_string }}{% endif %}",
}


@pytest.fixture
def tokenizer() -> Any:
    """A tokenizer whose template a test can replace."""
    return load_tokenizer(MODEL_FOLDER)


def render(tokenizer: Any, template: str, date_string: str | None) -> str:
    tokenizer.chat_template = template + TURNS
    return ChatTemplate(tokenizer, ("user", "assistant"), date_string=date_string).render(
        MESSAGES, add_generation_prompt=True
    )


def freeze_clock(monkeypatch: pytest.MonkeyPatch, now: datetime) -> None:
    """Set the date that transformers' `strftime_now` reads."""

    class Clock(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:
            return now

    monkeypatch.setattr("transformers.utils.chat_template_utils.datetime", Clock)


@pytest.mark.parametrize("name", TEMPLATES)
def test_date_replaces_the_clock(name: str, tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The prompt is the one that transformers renders on that day, and the same on any other day."""
    day = datetime(2024, 7, 6)
    freeze_clock(monkeypatch, day)
    tokenizer.chat_template = TEMPLATES[name] + TURNS
    variables = {"date_string": "6 Jul 2024"} if "date_string }}" in TEMPLATES[name] else {}
    expected = tokenizer.apply_chat_template(MESSAGES, tokenize=False, add_generation_prompt=True, **variables)
    freeze_clock(monkeypatch, datetime(2031, 1, 2))
    for text in ("6 Jul 2024", "2024-07-06", "July 6, 2024", "06.07.2024", " 6 July 2024 "):
        rendered = render(tokenizer, TEMPLATES[name], text)
        if "date_string" not in TEMPLATES[name]:  # those print the date as it is written
            assert rendered == expected
        assert "2031" not in rendered
    assert ChatTemplate(tokenizer, ("user", "assistant"), date_string="6 Jul 2024").prints_date


@pytest.mark.parametrize("name", TEMPLATES)
def test_gguf_file_prints_the_same_date(name: str, tokenizer: Any, tiny_model: Path, tmp_path: Path) -> None:
    """llama.cpp renders the file's template with its own Jinja, and without anything from the recipe."""
    for file in tiny_model.iterdir():
        (tmp_path / file.name).symlink_to(file)
    (tmp_path / "chat_template.jinja").unlink()
    (tmp_path / "chat_template.jinja").write_text(TEMPLATES[name] + TURNS, encoding="utf-8")
    write_gguf(tmp_path, tmp_path / "dated.gguf", "f16", date_string="6 Jul 2024", name="dated")
    with LlamaCpp(tmp_path / "dated.gguf", context_length=64, sequences=1, use_chat_template=True) as model:
        rendered = model._post("/apply-template", messages=MESSAGES)["prompt"]
    assert rendered == render(tokenizer, TEMPLATES[name], "6 Jul 2024")


def test_date_that_cannot_be_formatted_is_refused(tokenizer: Any) -> None:
    with pytest.raises(RecipeError, match=r"task\.date_string '26 juillet' is not a date such as 26 Jul 2024") as error:
        render(tokenizer, TEMPLATES["SmolLM3"], "26 juillet")
    assert "26 Jul 2024" in str(error.value.hint)
    assert "Date: 26 juillet" in render(tokenizer, TEMPLATES["Llama 3.2"], "26 juillet"), "it only prints the text"


def test_no_date_leaves_the_template_unchanged(tokenizer: Any) -> None:
    assert pin_date(TEMPLATES["SmolLM3"], None) == TEMPLATES["SmolLM3"]
    assert f"{datetime.now():%Y}" in render(tokenizer, TEMPLATES["SmolLM3"], None)


@settings(deadline=None)
@given(date=st.text(st.characters(codec="utf-8", exclude_characters="\ue000\ue001"), max_size=20))
def test_any_text_is_printed_as_it_is(date: str) -> None:
    assert f"[{date}]" in render(load_tokenizer(MODEL_FOLDER), "[{{ date_string }}]", date)
