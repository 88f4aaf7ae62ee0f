"""Pre-training: its corpus keeps to the words, and a resumed run ends where an uninterrupted one does."""

import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from toolkit.embedded import corpus, exercises
from toolkit.embedded.candidates import LABELS
from toolkit.embedded.corpus import EVALUATION_SPLITS, EXERCISES, Document, draw_document, forbidden_sentences
from toolkit.embedded.lexicon import LEXICON
from toolkit.embedded.nli_fr import generate
from toolkit.embedded.packing import encode_document, pack, training_batch
from toolkit.embedded.pretrain import Settings, pretrain
from toolkit.embedded.tiny_llama import MODEL_FOLDER, build_model
from toolkit.errors import ModelError
from toolkit.prompts import load_tokenizer

pytestmark = pytest.mark.usefixtures("small_tokenizer")

SMALL = Settings(steps=4, rows=2, length=128, save_every=2)


@pytest.fixture
def small_tokenizer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Train a tokenizer on few documents, which takes a fraction of a second."""
    monkeypatch.setattr("toolkit.embedded.pretrain._TOKENIZER_DOCUMENTS", 300)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return load_tokenizer(MODEL_FOLDER)


def test_no_line_of_the_corpus_is_a_sentence_of_an_evaluation_split() -> None:
    rng = random.Random(11)
    held_back = {text for split in EVALUATION_SPLITS for row in generate(split) for text in list(row.values())[1:3]}
    assert len(held_back) > 2000
    assert forbidden_sentences() == held_back
    for _ in range(3000):
        assert held_back.isdisjoint(draw_document(rng).lines)


def test_a_sentence_of_an_evaluation_split_is_drawn_again(monkeypatch: pytest.MonkeyPatch) -> None:
    held_back = generate("test")[0]["premise"]
    drawn = iter([Document("copie", held_back, held_back), Document("copie", "Léa rit.", "Léa rit.")])
    monkeypatch.setattr(corpus, "_draw", lambda rng: next(drawn))
    assert draw_document(random.Random(0)).user == "Léa rit."


def test_labels_are_answers_only_where_the_question_is_the_same_word() -> None:
    rng = random.Random(12)
    documents = [draw_document(rng) for _ in range(3000)]
    with_label = [document for document in documents if set(LABELS) & set(document.answer.split())]
    assert with_label
    assert all(document.user == document.answer for document in with_label)


def test_the_words_of_test_lexical_occur_in_the_corpus() -> None:
    rng = random.Random(13)
    seen = {word for _ in range(4000) for word in exercises.words(" ".join(draw_document(rng).lines))}
    assert {"gorille", "sculpte", "Solène", "contemplé"} <= seen


@pytest.mark.parametrize(
    ("exercise", "text", "answers"),
    [
        (exercises.copying, "Léa rit.", {"Léa rit."}),
        (exercises.polarity, "Léa ne rit pas.", {"négative"}),
        (exercises.polarity, "Léa rit.", {"positive"}),
    ],
)
def test_an_exercise_has_the_right_answer(exercise: Any, text: str, answers: set[str]) -> None:
    assert exercise(random.Random(0), LEXICON, text, "Luc rit.")[1] in answers


def test_membership_and_order_agree_with_the_sentence() -> None:
    text = "Léa dessine un labrador noir."
    for seed in range(200):
        question, answer = exercises.membership(random.Random(seed), LEXICON, text, text) or ("", "")
        assert answer == ("oui" if question.split("\n")[1] in text[:-1].split() else "non")
        question, answer = exercises.word_order(random.Random(seed), LEXICON, text, text) or ("", "")
        first, second = question.split("\n")[1].split()
        assert answer == min(first, second, key=text.index)


def test_every_document_fits_into_a_row(tokenizer: Any) -> None:
    rng = random.Random(14)
    for name in EXERCISES:
        drawn = [corpus.draw_exercise(rng, name) for _ in range(40)]
        assert {document.system for document in drawn} == {name}
        assert max(len(encode_document(tokenizer, document).ids) for document in drawn) <= Settings.length


def test_packed_documents_are_read_as_if_each_stood_alone(tokenizer: Any) -> None:
    import torch

    model = build_model(tokenizer, seed=1, layers=2).eval()
    rng = random.Random(15)
    entries = [encode_document(tokenizer, draw_document(rng)) for _ in range(3)]
    together = pack([entries], 320, tokenizer.pad_token_id)
    with torch.inference_mode():
        packed = model(
            input_ids=together.input_ids, position_ids=together.position_ids, attention_mask=together.mask
        ).logits[0]
        start = 0
        for entry in entries:
            alone = model(torch.tensor([entry.ids])).logits[0]
            torch.testing.assert_close(packed[start : start + len(entry.ids)], alone, atol=1e-4, rtol=1e-4)
            start += len(entry.ids)


def test_a_batch_depends_on_seed_and_step_alone(tokenizer: Any) -> None:
    first, again = (training_batch(tokenizer, 3, 500, 2, 128) for _ in range(2))
    other = training_batch(tokenizer, 3, 501, 2, 128)
    assert first.input_ids.equal(again.input_ids)
    assert not first.input_ids.equal(other.input_ids)


def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    pretrain(whole, SMALL)
    assert pretrain(parts, SMALL, stop_after=2) == {}
    assert not (parts / "model.safetensors").exists()
    with pytest.raises(ModelError, match="interrupted run"):
        pretrain(parts, SMALL)
    pretrain(parts, SMALL, resume=True)
    assert (whole / "model.safetensors").read_bytes() == (parts / "model.safetensors").read_bytes()


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no checkpoint"):
        pretrain(tmp_path / "empty", SMALL, resume=True)
    pretrain(tmp_path / "run", SMALL, stop_after=1)
    with pytest.raises(ModelError, match="other steps or another seed"):
        pretrain(tmp_path / "run", Settings(steps=5, rows=2, length=128, save_every=2), resume=True)


def test_help_answers_without_importing_torch() -> None:
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "toolkit.embedded.pretrain", "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "--resume" in done.stdout
    assert " torch\n" not in done.stderr
    assert time.perf_counter() - began < 3
