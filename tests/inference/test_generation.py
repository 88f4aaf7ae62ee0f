"""Free generation against a greedy loop by hand, one row against many, and llama.cpp against torch."""

from pathlib import Path
from typing import Any

import pytest
import torch

from toolkit.inference.generation import LlamaCppGenerator, TorchGenerator, cut_at_stop_token
from toolkit.models.backend import AutoModelForCausalLM
from toolkit.prompts.messages import match_verbalizer
from toolkit.prompts.tokenizer import load_tokenizer

PROMPTS = [(1, 5, 9), (1, 5, 9, 12, 40, 41, 42), (1,), (7, 7, 7, 7), (1, *range(60, 100)), (1, 5, 9)]
LONGEST = 6


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32).eval()


@torch.inference_mode()
def by_hand(model: Any, prompt: tuple[int, ...]) -> list[int]:
    ids = list(prompt)
    for _ in range(LONGEST):
        ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
    return ids[len(prompt) :]


def end_that_is_said(model: Any) -> int:
    """A token that the second answer holds, not at its beginning."""
    said = by_hand(model, PROMPTS[1])
    return next(token for token in said[1:] if token != said[0])


def test_answers_are_the_likeliest_tokens_one_after_the_other(model: Any) -> None:
    expected = [by_hand(model, prompt) for prompt in PROMPTS]
    assert len({tuple(said) for said in expected}) > 3, "a model that always says the same would show nothing"
    assert TorchGenerator(model, [2], max_new_tokens=LONGEST).generate(PROMPTS) == expected


def test_one_row_and_many_give_the_same_answers_in_their_order(model: Any) -> None:
    together = TorchGenerator(model, [2], max_new_tokens=LONGEST).generate(PROMPTS)
    assert [TorchGenerator(model, [2], max_new_tokens=LONGEST).generate([prompt])[0] for prompt in PROMPTS] == together
    assert TorchGenerator(model, [2], max_new_tokens=LONGEST, batch_tokens=20).generate(PROMPTS) == together
    assert TorchGenerator(model, [2], max_new_tokens=LONGEST).generate(PROMPTS[::-1]) == together[::-1]


def test_an_answer_stops_before_the_end_of_turn_and_the_others_go_on(model: Any) -> None:
    end = end_that_is_said(model)
    answers = TorchGenerator(model, [end], max_new_tokens=LONGEST).generate(PROMPTS)
    assert answers == [cut_at_stop_token(by_hand(model, prompt), [end]) for prompt in PROMPTS]
    assert 0 < len(answers[1]) < LONGEST and any(len(said) == LONGEST for said in answers)


def test_an_answer_stops_at_the_ends_that_the_models_own_generation_config_names_too(
    model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    end = end_that_is_said(model)
    expected = [cut_at_stop_token(by_hand(model, prompt), [end]) for prompt in PROMPTS]
    for named in (end, [2, end]):
        monkeypatch.setattr(model.generation_config, "eos_token_id", named)
        assert TorchGenerator(model, [2], max_new_tokens=LONGEST).generate(PROMPTS) == expected


def test_llama_cpp_says_what_torch_says(model: Any, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    from toolkit.export.gguf_writer import write_gguf
    from toolkit.inference.llama_cpp import LlamaCpp

    file = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    write_gguf(tiny_model, file, "f32", date_string=None, name="tiny")
    server = LlamaCpp(file, context_length=256, sequences=1)
    prompts = [*PROMPTS, *((1, 5, first, second) for first in range(100, 110) for second in (30, 160, 400))]
    for ends in ([2], [end_that_is_said(model)]):
        expected = TorchGenerator(model, ends, max_new_tokens=LONGEST).generate(prompts)
        assert LlamaCppGenerator(server, ends, max_new_tokens=LONGEST).generate(prompts) == expected
    part_of_a_character = range(*load_tokenizer(tiny_model).convert_tokens_to_ids(["¡", "Ā"]))
    assert any(token in part_of_a_character for said in expected for token in said), "llama.cpp may leave these out"


@pytest.mark.parametrize(
    ("text", "label"),
    [("oui", "yes"), (" oui\n", "yes"), ("oui mais", "but"), ("Oui", None), ("oui.", None), ("", None), ("yes", None)],
)
def test_an_answer_counts_when_it_is_a_verbalizer_and_nothing_more(text: str, label: str | None) -> None:
    assert match_verbalizer(text, {"yes": "oui", "but": " oui mais ", "no": "non"}) == label
