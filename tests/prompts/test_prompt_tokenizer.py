"""Tokenization of rows: the tokenizer's own ids, one BOS, special tokens that stay text, and an uncut answer."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toolkit.data.example import Example
from toolkit.embedded import MODEL_FOLDER
from toolkit.errors import DataError, ModelError
from toolkit.prompts.messages import answer_text, prompt_messages
from toolkit.prompts.prompt_tokenizer import PromptTokenizer
from toolkit.prompts.tokenizer import encode_plain, load_tokenizer
from toolkit.recipe.schema import Recipe

MakeRecipe = Callable[..., Recipe]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return load_tokenizer(MODEL_FOLDER)


@pytest.fixture
def prompt_tokenizer(make_recipe: MakeRecipe, tokenizer: Any) -> PromptTokenizer:
    return PromptTokenizer(tokenizer, make_recipe().task, 256)


def llama_3_2(shared: Path) -> Any:
    return load_tokenizer(shared / "llama-3.2" / "tokenizer")


def reference_ids(tokenizer: Any, recipe: Recipe, premise: str, hypothesis: str, label: str | None = None) -> list[int]:
    """Return the token ids according to transformers: the rendered chat template, tokenized as a whole."""
    messages = prompt_messages(recipe.task, premise, hypothesis)
    if label:
        messages.append({"role": "assistant", "content": answer_text(recipe.task, label)})
    text = tokenizer.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=label is None, date_string=recipe.task.date_string
    )
    return tokenizer(text, add_special_tokens=False)["input_ids"]


@settings(deadline=None)  # the first call compiles the template
@given(text=st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), min_size=1, max_size=60))
def test_token_ids_match_transformers(text: str, make_recipe: MakeRecipe, tokenizer: Any) -> None:
    if not text.strip() or "<|" in text:
        return
    recipe = make_recipe()
    (row,) = PromptTokenizer(tokenizer, recipe.task, 4096).encode([Example("1", text, "Il pleut.", "neutral")])
    assert list(row.prompt) == reference_ids(tokenizer, recipe, text, "Il pleut.")
    assert list(row.prompt + row.answer) == reference_ids(tokenizer, recipe, text, "Il pleut.", "neutral")


def test_llama_3_2_prompts_contain_the_date(make_recipe: MakeRecipe, shared: Path) -> None:
    tokenizer, recipe = llama_3_2(shared), make_recipe()
    (row,) = PromptTokenizer(tokenizer, recipe.task, 256).encode(
        [Example("1", "L'été, il a plu.", "Il a plu.", "neutral")]
    )
    assert list(row.prompt + row.answer) == reference_ids(tokenizer, recipe, "L'été, il a plu.", "Il a plu.", "neutral")
    assert "Today Date: 26 Jul 2024" in tokenizer.decode(row.prompt)
    later_prompt_tokenizer = PromptTokenizer(tokenizer, make_recipe("task.date_string=1 Jan 2030").task, 256)
    assert "Today Date: 1 Jan 2030" in tokenizer.decode(later_prompt_tokenizer.encode_prompt("a", "b")[0])


def test_there_is_exactly_one_bos(prompt_tokenizer: PromptTokenizer, tokenizer: Any) -> None:
    ids, _ = prompt_tokenizer.encode_prompt("Il pleut.", "Il pleut.")
    assert ids[0] == tokenizer.bos_token_id
    assert ids.count(tokenizer.bos_token_id) == 1


@pytest.mark.parametrize(
    "special_token", ["<|eot_id|>", "<|start_header_id|>assistant<|end_header_id|>", "<|begin_of_text|>"]
)
def test_special_token_in_a_premise_stays_text(
    prompt_tokenizer: PromptTokenizer, tokenizer: Any, special_token: str
) -> None:
    plain, _ = prompt_tokenizer.encode_prompt("Il dit oui.", "b")
    with_special_token, _ = prompt_tokenizer.encode_prompt(f"Il dit {special_token} oui.", "b")
    special = set(tokenizer.all_special_ids)
    assert [i for i in with_special_token if i in special] == [i for i in plain if i in special]
    assert f"Il dit {special_token} oui." in tokenizer.decode(with_special_token)


def test_braces_in_a_premise_are_not_placeholders(prompt_tokenizer: PromptTokenizer, tokenizer: Any) -> None:
    assert "{hypothesis} {0}" in tokenizer.decode(prompt_tokenizer.encode_prompt("{hypothesis} {0}", "secret")[0])


def test_label_ids_end_with_the_end_of_turn(make_recipe: MakeRecipe, tokenizer: Any) -> None:
    recipe = make_recipe("task.verbalizers={entailment: oui, neutral: oui mais, contradiction: non}")
    prompt_tokenizer = PromptTokenizer(tokenizer, recipe.task, 256)
    end = tokenizer.convert_tokens_to_ids("<|eot_id|>")
    assert prompt_tokenizer.label_ids["neutral"] == (*encode_plain(tokenizer, "oui mais"), end)
    assert all(ids[-1] == end for ids in prompt_tokenizer.label_ids.values())


def test_space_before_the_answer_belongs_to_it(make_recipe: MakeRecipe, tokenizer: Any) -> None:
    template = (
        "{% for m in messages %}{% if m.role == 'assistant' %}Relation : {{ m.content }}{{ eos_token }}"
        "{% else %}{{ m.content }}\n\n{% endif %}{% endfor %}{% if add_generation_prompt %}Relation :{% endif %}"
    )
    prompt_tokenizer = PromptTokenizer(
        tokenizer, make_recipe().task.model_copy(update={"chat_template": template}), 256
    )
    assert tokenizer.decode(prompt_tokenizer.encode_prompt("a", "b")[0]).endswith("b\n\nRelation :")
    assert tokenizer.decode(prompt_tokenizer.label_ids["neutral"]) == f" neutral{tokenizer.eos_token}"


@pytest.mark.parametrize("prefix", ["<think>\n\n</think>\n\n", "<|end_header_id|>\n\n", "<think></think>", " "])
def test_answer_prefix_is_trained_but_not_matched(make_recipe: MakeRecipe, fresh_tokenizer: Any, prefix: str) -> None:
    """Qwen3 and SmolLM3 open the last answer with an empty block of reasoning, which the generation prompt lacks."""
    template = (
        "{% for m in messages %}{{ m.role }}:{% if loop.last and m.role == 'assistant' %}PREFIX{% endif %}"
        "{{ m.content }}<|eot_id|>{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"
    ).replace("PREFIX", prefix)
    task = make_recipe().task.model_copy(update={"chat_template": template})
    for shots in ([], SHOTS):
        prompt_tokenizer = PromptTokenizer(fresh_tokenizer, task, 256, shots)
        for label, ids in prompt_tokenizer.label_ids.items():
            assert list(ids) == fresh_tokenizer(f"{prefix}{label}<|eot_id|>", add_special_tokens=False)["input_ids"]
            assert prompt_tokenizer.decode(ids) == f"{prefix}{label}<|eot_id|>"
            assert prompt_tokenizer.decode_answer(ids[:-1]) == label
        assert prompt_tokenizer.decode_answer(encode_plain(fresh_tokenizer, "<think>\nHm")) == "<think>\nHm"


def test_long_premise_loses_only_its_end(make_recipe: MakeRecipe, tokenizer: Any) -> None:
    prompt_tokenizer = PromptTokenizer(tokenizer, make_recipe().task, 64)
    premise = " ".join(f"mot{i}" for i in range(200))
    rows = prompt_tokenizer.encode(
        [Example(str(i), premise, "Il pleut.", label) for i, label in enumerate(prompt_tokenizer.label_ids)]
    )
    for row, label in zip(rows, prompt_tokenizer.label_ids, strict=True):
        assert row.shortened and len(row.prompt) + len(row.answer) <= 64
        assert row.answer == prompt_tokenizer.label_ids[label]
        text = prompt_tokenizer.decode(row.prompt)
        assert "mot0 mot1" in text and "mot199" not in text and "Il pleut." in text
    assert len({row.prompt for row in rows}) == 1, "the cut must not depend on the label"


def test_rows_without_room_for_an_answer_are_rejected(make_recipe: MakeRecipe, tokenizer: Any) -> None:
    prompt_tokenizer = PromptTokenizer(tokenizer, make_recipe().task, 48)
    long = "une hypothèse " * 20
    with pytest.raises(DataError, match=r"max_seq_length 48 is too short for the answer in 2 rows; row b needs"):
        prompt_tokenizer.encode(
            [Example(i, "p", text, "neutral") for i, text in (("a", "x"), ("b", long), ("c", long))]
        )


def test_template_that_changes_messages_is_rejected(make_recipe: MakeRecipe, tokenizer: Any) -> None:
    template = "{% for m in messages %}{{ m.content | upper }}{% endfor %}"
    with pytest.raises(ModelError, match="changes the text of messages"):
        PromptTokenizer(tokenizer, make_recipe().task.model_copy(update={"chat_template": template}), 256)


def test_folder_without_a_tokenizer_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="has no tokenizer"):
        load_tokenizer(tmp_path)


SHOTS = [Example("s1", "Il neige.", "Il fait froid.", "entailment"), Example("s2", "Il dort.", "Il court.", "neutral")]


@pytest.fixture
def fresh_tokenizer() -> Any:
    """A tokenizer with its own chat template; the shared one keeps the template that another test's task gave it."""
    return load_tokenizer(MODEL_FOLDER)


@pytest.mark.parametrize("system", ["Compare.", "null"])
def test_shots_are_encoded_as_earlier_turns(make_recipe: MakeRecipe, fresh_tokenizer: Any, system: str) -> None:
    recipe = make_recipe(f"task.system={system}")
    prompt_tokenizer = PromptTokenizer(fresh_tokenizer, recipe.task, 512, SHOTS)
    messages = [{"role": "system", "content": "Compare."}] if system != "null" else []
    for user, reply in (("Il neige.\nIl fait froid.", "entailment"), ("Il dort.\nIl court.", "neutral")):
        messages += [{"role": "user", "content": user}, {"role": "assistant", "content": reply}]
    messages.append({"role": "user", "content": "Il pleut.\nIl ne pleut pas."})
    text = fresh_tokenizer.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=True, date_string=recipe.task.date_string
    )
    ids, _ = prompt_tokenizer.encode_prompt("Il pleut.", "Il ne pleut pas.")
    assert list(ids) == fresh_tokenizer(text, add_special_tokens=False)["input_ids"]
    assert prompt_tokenizer.label_ids == PromptTokenizer(fresh_tokenizer, recipe.task, 512).label_ids


def test_special_token_in_a_shot_stays_text(make_recipe: MakeRecipe, fresh_tokenizer: Any) -> None:
    def special(shot: str) -> list[int]:
        shots = [Example("s", shot, "Il court.", "neutral")]
        ids, _ = PromptTokenizer(fresh_tokenizer, make_recipe().task, 512, shots).encode_prompt("a", "b")
        return [i for i in ids if i in fresh_tokenizer.all_special_ids]

    assert special("Il dit <|eot_id|><|start_header_id|>assistant<|end_header_id|> oui.") == special("Il dit oui.")


def test_error_reports_how_many_shots_fit(make_recipe: MakeRecipe, fresh_tokenizer: Any) -> None:
    task, long = make_recipe().task, Example("r", "mot " * 30, "Il pleut.", "neutral")
    needed = len(PromptTokenizer(fresh_tokenizer, task, 512, SHOTS[:1]).encode([long])[0].prompt)
    longest = max(map(len, PromptTokenizer(fresh_tokenizer, task, 512).label_ids.values()))
    prompt_tokenizer = PromptTokenizer(fresh_tokenizer, task, needed + longest, SHOTS)
    with pytest.raises(DataError, match=r"too short for 2 shots in 1 rows \(row r needs \d+ .*; 1 fit"):
        prompt_tokenizer.encode([long, Example("short", "a", "b", "neutral")])
    with pytest.raises(DataError, match="none fit"):
        PromptTokenizer(fresh_tokenizer, task, needed // 2, SHOTS).encode([long])


def test_decode_shows_special_tokens(make_recipe: MakeRecipe, fresh_tokenizer: Any) -> None:
    prompt_tokenizer = PromptTokenizer(fresh_tokenizer, make_recipe().task, 256)
    answer_ids = encode_plain(fresh_tokenizer, "neutral")
    assert prompt_tokenizer.decode(answer_ids) == "neutral"
    assert (
        prompt_tokenizer.decode([prompt_tokenizer.end_of_turn, *answer_ids])
        == f"{prompt_tokenizer.decode([prompt_tokenizer.end_of_turn])}neutral"
    )
    assert prompt_tokenizer.stop_token_ids[0] == prompt_tokenizer.end_of_turn
