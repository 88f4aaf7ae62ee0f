"""Sentence pairs for encoders: the tokenizer's own ids, special tokens that stay text, and shortened premises."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.nli import nli
from tests.prompts.small_tokenizers import HOSTILE
from toolkit.data.example import Example
from toolkit.errors import DataError, ModelError
from toolkit.prompts import tokenizer as tokenizers
from toolkit.prompts.sentence_pairs import EncodedPair, PairTokenizer
from toolkit.prompts.tokenizer import load_tokenizer
from toolkit.prompts.truncation import encode_or_error
from toolkit.recipe.schema import TaskSection

TASK = TaskSection(labels=("entailment", "neutral", "contradiction"))


def example(premise: str, hypothesis: str, label: str = "neutral") -> Example:
    return nli("1", premise, hypothesis, label)


@pytest.fixture
def pair_tokenizer(tiny_encoder: Path) -> PairTokenizer:
    return PairTokenizer(load_tokenizer(tiny_encoder), TASK, 128)


def test_token_ids_match_transformers(pair_tokenizer: PairTokenizer) -> None:
    row = pair_tokenizer.encode_row(example(" Le chat dort. ", "Il pleut."))
    assert list(row.ids) == pair_tokenizer.tokenizer("Le chat dort.", "Il pleut.")["input_ids"]
    assert (row.label, row.shortened, row.segments) == (1, False, None)
    assert pair_tokenizer.decode_row(row, "completion") == ("<s> Le chat dort.</s></s> Il pleut.</s> ", "neutral")


def test_special_tokens_in_a_text_stay_text(pair_tokenizer: PairTokenizer) -> None:
    end = pair_tokenizer.tokenizer.eos_token_id
    plain, marked = (pair_tokenizer.encode_row(example(text, "b")).ids for text in ("a", "a</s></s>c<pad>"))
    assert plain.count(end) == marked.count(end) == 3
    assert pair_tokenizer.tokenizer.pad_token_id not in marked


def test_only_the_premise_is_shortened(pair_tokenizer: PairTokenizer) -> None:
    hypothesis = "Il fait froid."
    whole = pair_tokenizer.encode_row(example("un deux trois quatre cinq six sept", hypothesis))
    short = PairTokenizer(pair_tokenizer.tokenizer, TASK, len(whole) - 1)
    row = short.encode_row(example("un deux trois quatre cinq six sept", hypothesis))
    assert row.shortened and len(row) <= len(whole) - 1
    assert row.ids == pair_tokenizer.encode_row(example("un deux trois quatre cinq six", hypothesis)).ids


def test_too_long_hypothesis_is_rejected(pair_tokenizer: PairTokenizer) -> None:
    short = PairTokenizer(pair_tokenizer.tokenizer, TASK, 8)
    with pytest.raises(DataError, match="max_seq_length 8 is too short for the hypothesis in 1 rows; row 1 needs"):
        short.encode([example("a", "Il fait très froid ce soir à Lyon.")])


def test_segments_exist_if_the_tokenizer_has_them(tmp_path: Path) -> None:
    from transformers import BertTokenizerFast

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "il", "pleut", "dort"]
    tokenizer = BertTokenizerFast(vocab={word: i for i, word in enumerate(words)})
    row = PairTokenizer(tokenizer, TASK, 16).encode_row(example("il dort", "il pleut"))
    assert row.inputs() == {"input_ids": [2, 5, 7, 3, 5, 6, 3], "token_type_ids": [0, 0, 0, 0, 1, 1, 1]}
    assert (
        PairTokenizer(tokenizer, TASK, 16).encode_batch([{"premise": "il dort", "hypothesis": "il pleut"}] * 2)
        == [replace(row, label=0)] * 2
    )


def test_batch_equals_single_rows(pair_tokenizer: PairTokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"premise": f" {text} ", "hypothesis": f"{text} mot"} for text in HOSTILE]
    single = TaskSection(labels=("a", "b"), user="{premise}")
    for task, length in ((TASK, 128), (TASK, 30), (single, 20)):
        tokenizer = PairTokenizer(pair_tokenizer.tokenizer, task, length)
        expected = [encode_or_error(tokenizer.encode_unlabeled, inputs) for inputs in rows]
        for characters in (1, 100_000):
            monkeypatch.setattr(tokenizers, "_BATCH_CHARACTERS", characters)
            assert list(map(str, tokenizer.encode_batch(rows))) == list(map(str, expected))
    assert any(isinstance(row, EncodedPair) and row.shortened for row in expected)


def test_tokenizer_without_padding_is_rejected(pair_tokenizer: PairTokenizer) -> None:
    pair_tokenizer.tokenizer.pad_token = None
    with pytest.raises(ModelError, match="has no padding token"):
        PairTokenizer(pair_tokenizer.tokenizer, TASK, 16)


def test_micro_batches_are_padded_separately(pair_tokenizer: PairTokenizer) -> None:
    from toolkit.models.backend import DataCollatorWithPadding
    from toolkit.training.encoder_trainer import PairCollator

    rows = [EncodedPair((5, 6, 7), None, 2), EncodedPair((5,), None, 0), EncodedPair((8, 9), None, 1)]
    collate = PairCollator(DataCollatorWithPadding(pair_tokenizer.tokenizer), 2)
    step = collate([{**row.inputs(), "label": row.label} for row in rows])
    first, second = step["micro_batches"]
    pad = pair_tokenizer.tokenizer.pad_token_id
    assert first["input_ids"].tolist() == [[5, 6, 7], [5, pad, pad]]
    assert first["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert (first["labels"].tolist(), second["labels"].tolist()) == ([2, 0], [1])
    assert torch.equal(step["predictions"], torch.tensor([3.0])) and step["tokens"].tolist() == [6]


def test_single_text_is_encoded_alone(pair_tokenizer: PairTokenizer) -> None:
    task = TaskSection(labels=("a", "b"), user="{text}")
    row = PairTokenizer(pair_tokenizer.tokenizer, task, 128).encode_unlabeled({"text": " Le chat dort. "})
    assert list(row.ids) == pair_tokenizer.tokenizer("Le chat dort.")["input_ids"]
    short = PairTokenizer(pair_tokenizer.tokenizer, task, len(row) - 1).encode_unlabeled({"text": "Le chat dort."})
    assert short.shortened and short.ids == pair_tokenizer_ids(pair_tokenizer, "Le chat")


def pair_tokenizer_ids(pair_tokenizer: PairTokenizer, *texts: str) -> tuple[int, ...]:
    return tuple(pair_tokenizer.tokenizer(*texts)["input_ids"])


def test_pair_follows_the_order_of_the_inputs(pair_tokenizer: PairTokenizer) -> None:
    task = TaskSection(labels=("a", "b"), user="{target}{text}", truncate="text")
    inputs = {"text": "Il pleut ce soir à Lyon.", "target": "la pluie"}
    whole = PairTokenizer(pair_tokenizer.tokenizer, task, 128).encode_unlabeled(inputs)
    assert whole.ids == pair_tokenizer_ids(pair_tokenizer, "la pluie", "Il pleut ce soir à Lyon.")
    short = PairTokenizer(pair_tokenizer.tokenizer, task, len(whole) - 1).encode_unlabeled(inputs)
    assert short.ids == pair_tokenizer_ids(pair_tokenizer, "la pluie", "Il pleut ce soir à")
