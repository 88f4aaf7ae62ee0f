"""Free generation compared with a hand-written greedy loop, single rows with batches, and llama.cpp with torch."""

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
def decode_greedily(model: Any, prompt: tuple[int, ...]) -> list[int]:
    ids = list(prompt)
    for _ in range(LONGEST):
        ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
    return ids[len(prompt) :]


def pick_stop_token(model: Any) -> int:
    """Return a token that occurs in the second answer, but not as its first token."""
    answer = decode_greedily(model, PROMPTS[1])
    return next(token for token in answer[1:] if token != answer[0])


def test_answers_equal_greedy_decoding(model: Any) -> None:
    expected = [decode_greedily(model, prompt) for prompt in PROMPTS]
    assert len({tuple(answer) for answer in expected}) > 3, "equal answers would make this test pass for any order"
    assert TorchGenerator(model, [2], max_new_tokens=LONGEST).generate(PROMPTS) == expected


def test_batching_does_not_change_answers(model: Any) -> None:
    together = TorchGenerator(model, [2], max_new_tokens=LONGEST).generate(PROMPTS)
    assert [TorchGenerator(model, [2], max_new_tokens=LONGEST).generate([prompt])[0] for prompt in PROMPTS] == together
    assert TorchGenerator(model, [2], max_new_tokens=LONGEST, batch_tokens=20).generate(PROMPTS) == together
    assert TorchGenerator(model, [2], max_new_tokens=LONGEST).generate(PROMPTS[::-1]) == together[::-1]


def test_answer_stops_before_end_of_turn(model: Any) -> None:
    """The other answers of the batch continue."""
    stop_token = pick_stop_token(model)
    answers = TorchGenerator(model, [stop_token], max_new_tokens=LONGEST).generate(PROMPTS)
    assert answers == [cut_at_stop_token(decode_greedily(model, prompt), [stop_token]) for prompt in PROMPTS]
    assert 0 < len(answers[1]) < LONGEST and any(len(answer) == LONGEST for answer in answers)


def test_generation_config_adds_stop_tokens(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    stop_token = pick_stop_token(model)
    expected = [cut_at_stop_token(decode_greedily(model, prompt), [stop_token]) for prompt in PROMPTS]
    for eos_token_id in (stop_token, [2, stop_token]):
        monkeypatch.setattr(model.generation_config, "eos_token_id", eos_token_id)
        assert TorchGenerator(model, [2], max_new_tokens=LONGEST).generate(PROMPTS) == expected


def test_llama_cpp_generates_like_torch(model: Any, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    from toolkit.export.gguf_writer import write_gguf
    from toolkit.inference.llama_cpp import LlamaCpp

    file = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    write_gguf(tiny_model, file, "f32", date_string=None, name="tiny")
    llama_cpp = LlamaCpp(file, context_length=256, sequences=1)
    prompts = [*PROMPTS, *((1, 5, first, second) for first in range(100, 110) for second in (30, 160, 400))]
    for stop_token_ids in ([2], [pick_stop_token(model)]):
        expected = TorchGenerator(model, stop_token_ids, max_new_tokens=LONGEST).generate(prompts)
        assert LlamaCppGenerator(llama_cpp, stop_token_ids, max_new_tokens=LONGEST).generate(prompts) == expected
    byte_tokens = range(*load_tokenizer(tiny_model).convert_tokens_to_ids(["¡", "Ā"]))
    assert any(token in byte_tokens for answer in expected for token in answer), "llama.cpp may omit partial characters"


@pytest.mark.parametrize(
    ("text", "label"),
    [("oui", "yes"), (" oui\n", "yes"), ("oui mais", "but"), ("Oui", None), ("oui.", None), ("", None), ("yes", None)],
)
def test_only_an_exact_verbalizer_counts(text: str, label: str | None) -> None:
    assert match_verbalizer(text, {"yes": "oui", "but": " oui mais ", "no": "non"}) == label


def test_verbalizers_match_in_any_unicode_form() -> None:
    assert match_verbalizer("ve\u0301rite\u0301", {"yes": "v\u00e9rit\u00e9", "no": "non"}) == "yes"
    assert match_verbalizer("v\u00e9rit\u00e9", {"yes": "ve\u0301rite\u0301", "no": "non"}) == "yes"
