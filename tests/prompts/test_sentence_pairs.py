"""An encoder's sentence pairs: the tokenizer's own ids, markers that stay text, and a premise that gives way."""

from pathlib import Path

import pytest
import torch

from toolkit.data.example import Example
from toolkit.errors import DataError, ModelError
from toolkit.prompts.sentence_pairs import EncodedPair, PairEncoder
from toolkit.prompts.tokenizer import load_tokenizer

LABELS = ("entailment", "neutral", "contradiction")


def example(premise: str, hypothesis: str, label: str = "neutral") -> Example:
    return Example("1", premise, hypothesis, label)


@pytest.fixture
def encoder(tiny_encoder: Path) -> PairEncoder:
    return PairEncoder(load_tokenizer(tiny_encoder), LABELS, 128)


def test_a_pair_has_the_tokenizers_own_ids(encoder: PairEncoder) -> None:
    row = encoder.pair(example(" Le chat dort. ", "Il pleut."))
    assert list(row.ids) == encoder.tokenizer("Le chat dort.", "Il pleut.")["input_ids"]
    assert (row.label, row.shortened, row.segments) == (1, False, None)
    assert encoder.show(row, "completion") == ("<s> Le chat dort.</s></s> Il pleut.</s> ", "neutral")


def test_markers_in_a_text_stay_text(encoder: PairEncoder) -> None:
    end = encoder.tokenizer.eos_token_id
    plain, marked = (encoder.pair(example(text, "b")).ids for text in ("a", "a</s></s>c<pad>"))
    assert plain.count(end) == marked.count(end) == 3
    assert encoder.tokenizer.pad_token_id not in marked


def test_only_the_premise_is_shortened_at_its_end(encoder: PairEncoder) -> None:
    hypothesis = "Il fait froid."
    whole = encoder.pair(example("un deux trois quatre cinq six sept", hypothesis))
    short = PairEncoder(encoder.tokenizer, LABELS, len(whole) - 1)
    row = short.pair(example("un deux trois quatre cinq six sept", hypothesis))
    assert row.shortened and len(row) <= len(whole) - 1
    assert row.ids == encoder.pair(example("un deux trois quatre cinq six", hypothesis)).ids


def test_a_hypothesis_that_does_not_fit_is_refused_with_its_row(encoder: PairEncoder) -> None:
    short = PairEncoder(encoder.tokenizer, LABELS, 8)
    with pytest.raises(DataError, match="max_seq_length 8 is too short for the hypothesis in 1 rows; row 1 needs"):
        short.encode([example("a", "Il fait très froid ce soir à Lyon.")])


def test_segments_are_there_where_the_tokenizer_has_them(tmp_path: Path) -> None:
    from transformers import BertTokenizerFast

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "il", "pleut", "dort"]
    tokenizer = BertTokenizerFast(vocab={word: i for i, word in enumerate(words)})
    row = PairEncoder(tokenizer, LABELS, 16).pair(example("il dort", "il pleut"))
    assert row.inputs() == {"input_ids": [2, 5, 7, 3, 5, 6, 3], "token_type_ids": [0, 0, 0, 0, 1, 1, 1]}


def test_a_tokenizer_that_cannot_pad_is_refused(encoder: PairEncoder) -> None:
    encoder.tokenizer.pad_token = None
    with pytest.raises(ModelError, match="has no padding token"):
        PairEncoder(encoder.tokenizer, LABELS, 16)


def test_a_step_is_padded_in_parts_that_keep_their_rows(encoder: PairEncoder) -> None:
    from toolkit.models.backend import DataCollatorWithPadding
    from toolkit.training.encoder_trainer import PairCollator

    rows = [EncodedPair((5, 6, 7), None, 2), EncodedPair((5,), None, 0), EncodedPair((8, 9), None, 1)]
    collate = PairCollator(DataCollatorWithPadding(encoder.tokenizer), 2)
    step = collate([{**row.inputs(), "label": row.label} for row in rows])
    first, second = step["parts"]
    pad = encoder.tokenizer.pad_token_id
    assert first["input_ids"].tolist() == [[5, 6, 7], [5, pad, pad]]
    assert first["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert (first["labels"].tolist(), second["labels"].tolist()) == ([2, 0], [1])
    assert torch.equal(step["trained"], torch.tensor([3.0])) and step["tokens"].tolist() == [6]
