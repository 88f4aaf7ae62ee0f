"""XNLI-fr on Llama 3.2's tokenizer and shape, where ../shared has them: no token differs, f16 scores are torch's."""

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
from toolkit.prompts.encoder import PromptEncoder
from toolkit.prompts.tokenizer import load_tokenizer
from toolkit.recipe.loading import load_recipe


@pytest.fixture(scope="module")
def encoder_and_rows(nano: Path, shared: Path) -> tuple[PromptEncoder, list[Example]]:
    rows = shared / "data" / "xnli_fr" / "test.jsonl"
    recipe = load_recipe(Path("recipes/nli_fr.yaml"), [f"model.name={nano}", f"data.eval.path={rows}"])
    encoder = PromptEncoder(load_tokenizer(nano), recipe.task, recipe.model.max_seq_length)
    return encoder, load_examples(recipe, recipe.data.eval)


@pytest.fixture(scope="module")
def f16(nano: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("f16") / "nano-f16.gguf"
    write_gguf(nano, file, "f16", date_string="26 Jul 2024", name="nano")
    return file


def test_a_chat_call_reads_our_tokens_in_all_rows(
    f16: Path, encoder_and_rows: tuple[PromptEncoder, list[Example]]
) -> None:
    encoder, examples = encoder_and_rows
    assert len(examples) == 2490
    rows = encoder.encode(examples)
    assert not any(row.shortened for row in rows)
    with LlamaCppScorer(f16, LabelTrie(encoder.label_ids), context_length=384) as scorer:
        assert compare_chat_tokens(scorer.model, encoder, examples, rows) == (0, "")


def test_f16_probabilities_are_those_of_torch_on_the_same_weights(
    f16: Path, nano: Path, encoder_and_rows: tuple[PromptEncoder, list[Example]]
) -> None:
    plain, examples = encoder_and_rows
    # Random weights find the label of the fewest tokens certain; these two have one each.
    words = {"entailment": "oui", "neutral": "peut", "contradiction": "non"}
    encoder = PromptEncoder(plain.tokenizer, plain.task.model_copy(update={"verbalizers": words}), 384)
    prompts = [row.prompt for row in encoder.encode(examples[:200])]
    trie = LabelTrie(encoder.label_ids)
    model = AutoModelForCausalLM.from_pretrained(nano, dtype=torch.float16).float().eval()
    expected = label_probabilities(trie, TorchScorer(model, trie, batch_tokens=512).score(prompts))
    with LlamaCppScorer(f16, trie, context_length=384) as scorer:
        found = label_probabilities(trie, scorer.score(prompts))
    assert np.ptp(expected, axis=0).max() > 0.05
    np.testing.assert_allclose(found, expected, atol=1e-3)
