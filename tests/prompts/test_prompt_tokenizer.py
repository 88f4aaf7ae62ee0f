"""Tokenization of rows: the tokenizer's own ids, one BOS, special tokens that stay text, and an uncut answer."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.nli import nli
from toolkit.data.example import Example
from toolkit.embedded import MODEL_FOLDER
from toolkit.errors import DataError, ModelError, RecipeError
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


def pair(premise: str, hypothesis: str) -> dict[str, str]:
    """Return the inputs of a row."""
    return {"premise": premise, "hypothesis": hypothesis}


def llama_3_2(shared: Path) -> Any:
    return load_tokenizer(shared / "llama-3.2" / "tokenizer")


def reference_ids(tokenizer: Any, recipe: Recipe, premise: str, hypothesis: str, label: str | None = None) -> list[int]:
    """Return the token ids according to transformers: the rendered chat template, tokenized as a whole."""
    messages = prompt_messages(recipe.task, pair(premise, hypothesis))
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
    (row,) = PromptTokenizer(tokenizer, recipe.task, 4096).encode([nli("1", text, "Il pleut.", "neutral")])
    assert list(row.prompt) == reference_ids(tokenizer, recipe, text, "Il pleut.")
    assert list(row.prompt + row.answer) == reference_ids(tokenizer, recipe, text, "Il pleut.", "neutral")


def test_llama_3_2_prompts_contain_the_date(make_recipe: MakeRecipe, shared: Path) -> None:
    tokenizer, recipe = llama_3_2(shared), make_recipe()
    (row,) = PromptTokenizer(tokenizer, recipe.task, 256).encode([nli("1", "L'été, il a plu.", "Il a plu.", "neutral")])
    assert list(row.prompt + row.answer) == reference_ids(tokenizer, recipe, "L'été, il a plu.", "Il a plu.", "neutral")
    assert "Today Date: 26 Jul 2024" in tokenizer.decode(row.prompt)
    later_prompt_tokenizer = PromptTokenizer(tokenizer, make_recipe("task.date_string=1 Jan 2030").task, 256)
    assert "Today Date: 1 Jan 2030" in tokenizer.decode(later_prompt_tokenizer.encode_prompt(pair("a", "b"))[0])


def test_there_is_exactly_one_bos(prompt_tokenizer: PromptTokenizer, tokenizer: Any) -> None:
    ids, _ = prompt_tokenizer.encode_prompt(pair("Il pleut.", "Il pleut."))
    assert ids[0] == tokenizer.bos_token_id
    assert ids.count(tokenizer.bos_token_id) == 1


@pytest.mark.parametrize(
    "special_token", ["<|eot_id|>", "<|start_header_id|>assistant<|end_header_id|>", "<|begin_of_text|>"]
)
def test_special_token_in_a_premise_stays_text(
    prompt_tokenizer: PromptTokenizer, tokenizer: Any, special_token: str
) -> None:
    plain, _ = prompt_tokenizer.encode_prompt(pair("Il dit oui.", "b"))
    with_special_token, _ = prompt_tokenizer.encode_prompt(pair(f"Il dit {special_token} oui.", "b"))
    special = set(tokenizer.all_special_ids)
    assert [i for i in with_special_token if i in special] == [i for i in plain if i in special]
    assert f"Il dit {special_token} oui." in tokenizer.decode(with_special_token)


def test_braces_in_a_premise_are_not_placeholders(prompt_tokenizer: PromptTokenizer, tokenizer: Any) -> None:
    assert "{hypothesis} {0}" in tokenizer.decode(prompt_tokenizer.encode_prompt(pair("{hypothesis} {0}", "secret"))[0])


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
    assert tokenizer.decode(prompt_tokenizer.encode_prompt(pair("a", "b"))[0]).endswith("b\n\nRelation :")
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
        [nli(str(i), premise, "Il pleut.", label) for i, label in enumerate(prompt_tokenizer.label_ids)]
    )
    for row, label in zip(rows, prompt_tokenizer.label_ids, strict=True):
        assert row.shortened and len(row.prompt) + len(row.answer) <= 64
        assert row.answer == prompt_tokenizer.label_ids[label]
        text = prompt_tokenizer.decode(row.prompt)
        assert "mot0 mot1" in text and "mot199" not in text and "Il pleut." in text
    assert len({row.prompt for row in rows}) == 1, "the cut must not depend on the label"


def test_batch_truncates_and_reports_rows(make_recipe: MakeRecipe, tokenizer: Any) -> None:
    """A row that cannot be encoded does not affect the others."""
    short = PromptTokenizer(tokenizer, make_recipe().task, 256)
    rows = [pair("Il pleut.", "Il neige."), pair("Il pleut. " * 200, "Il neige."), pair("Il pleut.", "mot " * 300)]
    whole, truncated, error = short.encode_batch([*rows])
    assert [whole, truncated] == [short.encode_unlabeled(inputs) for inputs in rows[:2]]
    assert not isinstance(truncated, DataError) and truncated.shortened and isinstance(error, DataError)
    with pytest.raises(DataError, match=str(error)):
        short.encode_unlabeled(rows[2])


def test_rows_without_room_for_an_answer_are_rejected(make_recipe: MakeRecipe, tokenizer: Any) -> None:
    prompt_tokenizer = PromptTokenizer(tokenizer, make_recipe().task, 48)
    long = "une hypothèse " * 20
    with pytest.raises(DataError, match=r"max_seq_length 48 is too short for the answer in 2 rows; row b needs"):
        prompt_tokenizer.encode([nli(i, "p", text, "neutral") for i, text in (("a", "x"), ("b", long), ("c", long))])


def test_too_long_instruction_is_rejected(make_recipe: MakeRecipe, tokenizer: Any) -> None:
    task = make_recipe(f"task.system={'Compare. ' * 30}").task
    with pytest.raises(DataError, match=r"too short: without any text of a row, the prompt needs \d+ tokens, and"):
        PromptTokenizer(tokenizer, task, 48).encode([nli("1", "a", "b", "neutral")])


def test_too_long_answer_is_rejected(make_recipe: MakeRecipe, tokenizer: Any) -> None:
    long = "oui " * 60
    task = make_recipe(f"task.verbalizers={{entailment: {long}, neutral: b, contradiction: c}}").task
    with pytest.raises(RecipeError, match=r"answer for label 'entailment' has \d+ tokens, so model.max_seq_length 48"):
        PromptTokenizer(tokenizer, task, 48)


def test_template_that_changes_messages_is_rejected(make_recipe: MakeRecipe, tokenizer: Any) -> None:
    template = "{% for m in messages %}{{ m.content | upper }}{% endfor %}"
    with pytest.raises(ModelError, match="changes the text of messages"):
        PromptTokenizer(tokenizer, make_recipe().task.model_copy(update={"chat_template": template}), 256)


def test_folder_without_a_tokenizer_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="has no tokenizer"):
        load_tokenizer(tmp_path)


SHOTS = [nli("s1", "Il neige.", "Il fait froid.", "entailment"), nli("s2", "Il dort.", "Il court.", "neutral")]


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
    ids, _ = prompt_tokenizer.encode_prompt(pair("Il pleut.", "Il ne pleut pas."))
    assert list(ids) == fresh_tokenizer(text, add_special_tokens=False)["input_ids"]
    assert prompt_tokenizer.label_ids == PromptTokenizer(fresh_tokenizer, recipe.task, 512).label_ids


def test_special_token_in_a_shot_stays_text(make_recipe: MakeRecipe, fresh_tokenizer: Any) -> None:
    def special(shot: str) -> list[int]:
        shots = [nli("s", shot, "Il court.", "neutral")]
        ids, _ = PromptTokenizer(fresh_tokenizer, make_recipe().task, 512, shots).encode_prompt(pair("a", "b"))
        return [i for i in ids if i in fresh_tokenizer.all_special_ids]

    assert special("Il dit <|eot_id|><|start_header_id|>assistant<|end_header_id|> oui.") == special("Il dit oui.")


def test_error_reports_how_many_shots_fit(make_recipe: MakeRecipe, fresh_tokenizer: Any) -> None:
    task, long = make_recipe().task, nli("r", "mot " * 30, "Il pleut.", "neutral")
    needed = len(PromptTokenizer(fresh_tokenizer, task, 512, SHOTS[:1]).encode([long])[0].prompt)
    longest = max(map(len, PromptTokenizer(fresh_tokenizer, task, 512).label_ids.values()))
    prompt_tokenizer = PromptTokenizer(fresh_tokenizer, task, needed + longest, SHOTS)
    with pytest.raises(DataError, match=r"too short for 2 shots in 1 rows \(row r needs \d+ .*; 1 fit"):
        prompt_tokenizer.encode([long, nli("short", "a", "b", "neutral")])
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


def test_single_text_has_its_exact_prompt(make_recipe: MakeRecipe, fresh_tokenizer: Any) -> None:
    recipe = make_recipe("task.user='Avis : {text}'", "task.system='Réponds en {\"sentiment\": ...}.'")
    messages = prompt_messages(recipe.task, {"text": " Très bon {label} ! "})
    assert messages == [
        {"role": "system", "content": 'Réponds en {"sentiment": ...}.'},
        {"role": "user", "content": "Avis : Très bon {label} !"},
    ]
    ids, shortened = PromptTokenizer(fresh_tokenizer, recipe.task, 256).encode_prompt({"text": "Très bon !"})
    text = fresh_tokenizer.apply_chat_template(
        [messages[0], {"role": "user", "content": "Avis : Très bon !"}],
        tokenize=False,
        add_generation_prompt=True,
        date_string=recipe.task.date_string,
    )
    assert (list(ids), shortened) == (fresh_tokenizer(text, add_special_tokens=False)["input_ids"], False)


def test_three_inputs_fill_both_messages(make_recipe: MakeRecipe, fresh_tokenizer: Any) -> None:
    """Only names of inputs are replaced in the instruction, once, and the row's text cannot add special tokens."""
    task = make_recipe(
        "task.user='{question} / {context} / {candidate}'", "task.system='Judge {context} {other} { context }.'"
    ).task
    inputs = {"question": "{context}", "context": "{question} <|eot_id|>", "candidate": "c"}
    system, user = (message["content"] for message in prompt_messages(task, inputs))
    assert system == "Judge {question} <|eot_id|> {other} { context }."
    assert user == "{context} / {question} <|eot_id|> / c"
    prompt_tokenizer = PromptTokenizer(fresh_tokenizer, task, 256)
    ids, _ = prompt_tokenizer.encode_prompt(inputs)
    plain, _ = prompt_tokenizer.encode_prompt(dict.fromkeys(inputs, "x"))
    special = set(fresh_tokenizer.all_special_ids)
    assert [i for i in ids if i in special] == [i for i in plain if i in special]
    assert prompt_tokenizer.encode_unlabeled(inputs).prompt == ids


def test_renamed_inputs_give_the_same_ids(make_recipe: MakeRecipe, fresh_tokenizer: Any) -> None:
    rows = [nli("1", "Il pleut. " * 40, "Il neige.", "neutral"), nli("2", "Il dort.", "Il court.", "entailment")]
    renamed_rows = [Example(row.id, dict(zip("ab", row.texts, strict=True)), row.label) for row in rows]
    renamed = PromptTokenizer(fresh_tokenizer, make_recipe('task.user="{a}\\n{b}"').task, 96).encode(renamed_rows)
    assert renamed == PromptTokenizer(fresh_tokenizer, make_recipe().task, 96).encode(rows)
    assert [row.shortened for row in renamed] == [True, False]


def test_only_the_chosen_input_is_truncated(make_recipe: MakeRecipe, fresh_tokenizer: Any) -> None:
    recipe = make_recipe('task.user="{question}\\n{context}"', "task.truncate=context")
    prompt_tokenizer = PromptTokenizer(fresh_tokenizer, recipe.task, 64)
    ids, shortened = prompt_tokenizer.encode_prompt({"question": "Qui dort ?", "context": "un deux " * 60})
    assert shortened and len(ids) <= 64
    assert "Qui dort ?\nun deux" in fresh_tokenizer.decode(ids)
    with pytest.raises(DataError, match="tokens without its context"):
        prompt_tokenizer.encode_prompt({"question": "un deux " * 60, "context": "c"})
