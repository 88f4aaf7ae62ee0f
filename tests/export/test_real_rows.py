"""XNLI-fr with Llama 3.2's tokenizer and a model of its shape, from ../shared: equal tokens, equal f16 scores."""

from pathlib import Path

import numpy as np
import pytest
import torch

from toolkit.data.example import Example
from toolkit.data.examples import load_examples
from toolkit.export.agreement import label_probabilities
from toolkit.export.chat_tokens import compare_chat_tokens
from toolkit.export.gguf_writer import write_gguf
from toolkit.inference.label_trie import LabelTrie
from toolkit.inference.llama_cpp_scorer import LlamaCppScorer
from toolkit.inference.torch_scorer import TorchScorer
from toolkit.models.backend import AutoModelForCausalLM
from toolkit.prompts.prompt_tokenizer import PromptTokenizer
from toolkit.prompts.tokenizer import load_tokenizer
from toolkit.recipe.loading import load_recipe


@pytest.fixture(scope="module")
def tokenizer_and_rows(nano: Path, shared: Path) -> tuple[PromptTokenizer, list[Example]]:
    rows = shared / "data" / "xnli_fr" / "test.jsonl"
    recipe = load_recipe(Path("recipes/nli_fr.yaml"), [f"model.name={nano}", f"data.eval.path={rows}"])
    prompt_tokenizer = PromptTokenizer(load_tokenizer(nano), recipe.task, recipe.model.max_seq_length)
    return prompt_tokenizer, load_examples(recipe, recipe.data.eval)


@pytest.fixture(scope="module")
def f16(nano: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("f16") / "nano-f16.gguf"
    write_gguf(nano, file, "f16", date_string="26 Jul 2024", name="nano")
    return file


def test_chat_calls_give_the_same_tokens(f16: Path, tokenizer_and_rows: tuple[PromptTokenizer, list[Example]]) -> None:
    prompt_tokenizer, examples = tokenizer_and_rows
    assert len(examples) == 2490
    rows = prompt_tokenizer.encode(examples)
    assert not any(row.shortened for row in rows)
    with LlamaCppScorer(f16, LabelTrie(prompt_tokenizer.label_ids), context_length=384) as scorer:
        assert compare_chat_tokens(scorer.model.gguf, prompt_tokenizer, examples, rows) == (0, "")


def test_f16_probabilities_match_torch(
    f16: Path, nano: Path, tokenizer_and_rows: tuple[PromptTokenizer, list[Example]]
) -> None:
    plain, examples = tokenizer_and_rows
    # A random model is almost certain of the label with the fewest tokens, so two of these have one token each.
    words = {"entailment": "oui", "neutral": "peut", "contradiction": "non"}
    prompt_tokenizer = PromptTokenizer(plain.tokenizer, plain.task.model_copy(update={"verbalizers": words}), 384)
    prompts = [row.prompt for row in prompt_tokenizer.encode(examples[:200])]
    trie = LabelTrie(prompt_tokenizer.label_ids)
    model = AutoModelForCausalLM.from_pretrained(nano, dtype=torch.float16).float().eval()
    expected = label_probabilities(trie, TorchScorer(model, trie, batch_tokens=512).score(prompts))
    with LlamaCppScorer(f16, trie, context_length=384) as scorer:
        actual = label_probabilities(trie, scorer.score(prompts))
    assert np.ptp(expected, axis=0).max() > 0.05
    np.testing.assert_allclose(actual, expected, atol=1e-3)
