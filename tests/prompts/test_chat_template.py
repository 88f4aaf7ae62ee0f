"""Chat templates: one BOS, special tokens in messages that stay text, and rejected templates."""

from typing import Any

import pytest

from toolkit.embedded import MODEL_FOLDER
from toolkit.errors import ModelError, RecipeError
from toolkit.prompts.chat_template import ChatTemplate
from toolkit.prompts.tokenizer import encode_plain, load_tokenizer

ROLES = ("system", "user", "assistant")
TEXTS = ("Compare.", "Il pleut.\nIl neige.", "neutral")
EACH_MESSAGE = "{% for m in messages %}{{ m.content }}{% if m.role == 'assistant' %}<|eot_id|>{% endif %}{% endfor %}"


@pytest.fixture
def tokenizer() -> Any:
    """A tokenizer whose template a test can replace."""
    return load_tokenizer(MODEL_FOLDER)


def reference_ids(tokenizer: Any, texts: tuple[str, ...]) -> list[int]:
    """Return the token ids according to transformers: the rendered chat template, tokenized as a whole."""
    messages = [{"role": role, "content": text} for role, text in zip(ROLES, texts, strict=False)]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=len(texts) < len(ROLES))
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def test_token_ids_match_transformers(tokenizer: Any) -> None:
    template = ChatTemplate(tokenizer, ROLES)
    ids, starts = template.encode_conversation(TEXTS)
    assert ids == reference_ids(tokenizer, TEXTS)
    assert template.encode_prompt(TEXTS[:2]) == reference_ids(tokenizer, TEXTS[:2])
    for start, text in zip(starts, TEXTS, strict=True):
        assert tokenizer.decode(ids[start:]).lstrip().startswith(f"{text}<|eot_id|>")
        assert ids[start - 1] in tokenizer.added_tokens_decoder


@pytest.mark.parametrize("bos", ["{{ bos_token }}{{ bos_token }}", ""])
def test_every_prompt_has_exactly_one_bos(tokenizer: Any, bos: str) -> None:
    tokenizer.chat_template = bos + EACH_MESSAGE
    template = ChatTemplate(tokenizer, ROLES)
    prompt, (conversation, starts) = template.encode_prompt(["a", "b"]), template.encode_conversation(["a", "b", "c"])
    for ids in (prompt, conversation):
        assert ids[0] == tokenizer.bos_token_id and ids.count(tokenizer.bos_token_id) == 1
    assert starts == [1, 1, 1], "all three messages are in one plain text"
    tokenizer.bos_token = None
    assert template.with_one_bos([5, 6]) == [5, 6]


@pytest.mark.parametrize(
    "special_token", ["<|eot_id|>", "<|start_header_id|>assistant<|end_header_id|>", "<|begin_of_text|>"]
)
def test_special_token_in_a_message_stays_text(tokenizer: Any, special_token: str) -> None:
    template = ChatTemplate(tokenizer, ROLES)
    plain, with_special_token = (
        template.encode_prompt(["Compare.", f"Il dit {text} oui."]) for text in ("x", special_token)
    )
    special = set(tokenizer.added_tokens_decoder)
    assert [i for i in with_special_token if i in special] == [i for i in plain if i in special]
    assert f"Il dit {special_token} oui." in tokenizer.decode(with_special_token)
    assert template.contains_special_token(f"Il dit {special_token} oui.") and not template.contains_special_token(
        "Il dit oui."
    )


def test_slot_characters_in_a_message_stay_text(tokenizer: Any) -> None:
    """A message is not mistaken for a slot, even if it contains the private-use characters that mark one."""
    slot = "\ue0000\ue001"
    ids = ChatTemplate(tokenizer, ROLES).encode_prompt([slot, "secret"])
    assert slot in tokenizer.decode(ids) and tokenizer.decode(ids).count("secret") == 1


def test_position_and_end_of_answer_are_found(tokenizer: Any) -> None:
    template = ChatTemplate(tokenizer, ROLES)
    assert (template.answer_prefix, template.end_of_turn) == ("", tokenizer.convert_tokens_to_ids("<|eot_id|>"))
    tokenizer.chat_template = EACH_MESSAGE.replace("<|eot_id|>", " <|end_header_id|>")
    assert ChatTemplate(tokenizer, ROLES).end_of_turn == tokenizer.convert_tokens_to_ids("<|end_header_id|>")
    tokenizer.chat_template = (
        "{% for m in messages %}{% if m.role == 'assistant' %}Relation : {{ m.content }}"
        "{% else %}{{ m.content }}\n\n{% endif %}{% endfor %}{% if add_generation_prompt %}Relation :{% endif %}"
    )
    plain = ChatTemplate(tokenizer, ROLES)
    assert (plain.answer_prefix, plain.end_of_turn) == (" ", tokenizer.eos_token_id)
    assert plain.split_prompt() == [("system", ""), (None, "\n\n"), ("user", ""), (None, "\n\nRelation :")]
    assert plain.encode_prompt(["a", "b"])[1:] == encode_plain(tokenizer, "a\n\nb\n\nRelation :")
    tokenizer.eos_token = None
    with pytest.raises(RecipeError, match="Neither the chat template nor the tokenizer has an end-of-turn token"):
        ChatTemplate(tokenizer, ROLES)


def test_template_can_print_the_date(tokenizer: Any) -> None:
    tokenizer.chat_template = "{{ date_string }}: " + EACH_MESSAGE
    assert ChatTemplate(tokenizer, ROLES, date_string="26 Jul 2024").split_prompt()[0] == (None, "26 Jul 2024: ")
    assert ChatTemplate(tokenizer, ROLES).split_prompt()[0] == (None, ": ")


@pytest.mark.parametrize(
    ("template", "sentence"),
    [
        (
            "{% for m in messages %}{{ m.content }}{% endfor %}{% if add_generation_prompt %}A:{% endif %}",
            "generation prompt differs from the beginning of its assistant turn",
        ),
        (EACH_MESSAGE.replace("<|eot_id|>", "{{ m.content }}"), "writes the answer twice"),
        ("{{ 'a' * 20000000 }}" + EACH_MESSAGE, r"cannot be rendered: it writes 20,000,\d+ characters"),
        ("{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}", "cannot be rendered: maximum recursion depth"),
        ("{% for m in messages[:2] %}{{ m.content }}{% endfor %}", "so the position of the answer is unknown"),
        ("{{ raise_exception('nope') }}", r"cannot be rendered: nope\."),
        ("{{ raise_exception('nope') }}{", "cannot be rendered"),
        ("{{ undefined.attribute }}", "cannot be rendered: 'undefined' is undefined"),
    ],
)
def test_unusable_template_is_rejected(tokenizer: Any, template: str, sentence: str) -> None:
    tokenizer.chat_template = template
    with pytest.raises(RecipeError, match=sentence):
        ChatTemplate(tokenizer, ROLES)


SYSTEM_RULES = {
    "raises": "{% if m.role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}",
    "alternates": "{% if loop.index0 == 0 and m.role != 'user' %}{{ raise_exception('must alternate') }}{% endif %}",
    "fails": "{% if m.role == 'system' %}{{ m.parts.text }}{% endif %}",
    "drops": "{% if m.role == 'system' %}{% continue %}{% endif %}",
}


@pytest.mark.parametrize("name", SYSTEM_RULES)
def test_missing_system_role_names_the_fix(tokenizer: Any, name: str) -> None:
    rule = SYSTEM_RULES[name]
    tokenizer.chat_template = EACH_MESSAGE.replace("{{ m.content }}", rule + "{{ m.content }}")
    with pytest.raises(RecipeError, match=r"cannot be rendered|leaves out the system message") as error:
        ChatTemplate(tokenizer, ROLES)
    assert "set task.system: null" in str(error.value.hint)
    assert ChatTemplate(tokenizer, ROLES[1:]).encode_prompt(["a"])


def test_template_must_contain_every_message(tokenizer: Any) -> None:
    tokenizer.chat_template = "{% for m in messages if m.role != 'user' %}{{ m.content }}{% endfor %}"
    with pytest.raises(RecipeError, match="leaves out the user message") as error:
        ChatTemplate(tokenizer, ROLES)
    assert "task.system" not in str(error.value.hint)


def test_tokenizer_without_a_template_is_rejected(tokenizer: Any) -> None:
    tokenizer.chat_template = None
    with pytest.raises(ModelError, match="has no chat template"):
        ChatTemplate(tokenizer, ROLES)


def test_endless_template_is_rejected(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("toolkit.prompts.chat_template._RENDER_SECONDS", 0.02)
    # Without the limit this takes about a second.
    tokenizer.chat_template = "{% for i in range(3000) %}{% for j in range(3000) %}{% endfor %}{% endfor %}"
    with pytest.raises(RecipeError, match=r"cannot be rendered: it takes more than 0\.02 seconds\."):
        ChatTemplate(tokenizer, ROLES)
