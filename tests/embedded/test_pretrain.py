"""Pre-training: its corpus keeps to the words, and a resumed run ends where an uninterrupted one does."""

import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from toolkit.embedded import corpus, exercises, exercises_words
from toolkit.embedded.candidates import LABELS
from toolkit.embedded.corpus import EXERCISES, draw_document, forbidden_sentences
from toolkit.embedded.documents import Document
from toolkit.embedded.french import elide
from toolkit.embedded.lexicon import LEXICON, NUMBERS
from toolkit.embedded.nli_fr import SPLITS, generate
from toolkit.embedded.packing import encode_document, pack, training_batch
from toolkit.embedded.pretrain import pretrain
from toolkit.embedded.schedule import Settings
from toolkit.embedded.tiny_llama import MODEL_FOLDER, build_model
from toolkit.embedded.word_forms import word_relation, words
from toolkit.errors import ModelError
from toolkit.prompts import load_tokenizer

pytestmark = pytest.mark.usefixtures("small_tokenizer")

SMALL = Settings(steps=4, rows=2, length=128, save_every=1)


@pytest.fixture
def small_tokenizer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Train the tokenizer on few documents and measure little, which takes a fraction of a second."""
    monkeypatch.setattr("toolkit.embedded.pretrain._TOKENIZER_DOCUMENTS", 300)
    monkeypatch.setattr("toolkit.embedded.pretrain.PROBES", 3)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return load_tokenizer(MODEL_FOLDER)


def test_no_line_of_the_corpus_is_a_sentence_of_the_inference_data() -> None:
    rng = random.Random(11)
    held_back = {text for split in SPLITS for row in generate(split) for text in list(row.values())[1:3]}
    assert len(held_back) > 6000
    assert forbidden_sentences() == held_back
    for _ in range(3000):
        assert held_back.isdisjoint(draw_document(rng).lines)


def test_a_sentence_of_the_inference_data_is_drawn_again(monkeypatch: pytest.MonkeyPatch) -> None:
    held_back = generate("train")[0]["premise"]
    drawn = iter([Document(held_back, held_back), Document("Un texte.", "Un texte.")])
    monkeypatch.setattr(corpus, "_draw", lambda rng, name: next(drawn))
    assert draw_document(random.Random(0)).user == "Un texte."


def test_labels_are_answers_only_where_the_question_is_the_same_word() -> None:
    rng = random.Random(12)
    documents = [draw_document(rng) for _ in range(3000)]
    with_label = [document for document in documents if set(LABELS) & set(document.answer.split())]
    assert with_label
    assert all(document.user == document.answer for document in with_label)


def test_the_words_of_test_lexical_occur_in_the_corpus() -> None:
    rng = random.Random(13)
    seen = {word for _ in range(4000) for word in words(" ".join(draw_document(rng).lines))}
    assert {"gorille", "sculpte", "Solène", "contemplé"} <= seen


def test_exercises_agree_with_the_sentences_they_ask_about() -> None:
    text, sibling = "Léa dessine un labrador noir.", "Luc a dessiné un chien blanc."
    for seed in range(200):
        question, ordered = exercises.word_order(random.Random(seed), LEXICON, text, sibling) or ("", "")
        assert sorted(question.split("\n")[1].split()) == sorted(ordered.split())
        assert ordered.split() == sorted(ordered.split(), key=text.index)
    assert exercises.copying(random.Random(0), LEXICON, text, sibling) == (text, text)


@pytest.mark.parametrize(
    ("word", "others", "answer"),
    [
        ("labrador", ["chien"], "dans"),
        ("animal", ["labrador"], "contient"),
        ("chat", ["chien"], "autre"),
        ("chiens", ["chien"], "même"),
        ("invitée", ["invite"], "même"),
        ("grande", ["petits"], "contraire"),
        ("ouverte", ["fermé"], "complément"),
        ("emprunte", ["prêté"], "contraire"),
        ("trois", ["cinq"], "moins"),
        ("six", ["cinq"], "plus"),
        ("avant", ["après"], "contraire"),
    ],
)
def test_words_relate_as_a_dictionary_says(word: str, others: list[str], answer: str) -> None:
    assert word_relation(word, others, LEXICON) == answer


def test_roles_and_ranks_are_those_of_the_sentence() -> None:
    seen: Counter[str] = Counter()
    for seed in range(300):
        text, answer = exercises.role(random.Random(seed), LEXICON, "", "")
        if "patient" in answer and "par" in text.split():
            agent = answer.removeprefix("agent ").split(" patient ")[0]
            seen["passive"] += elide(f"par {agent}").lower() in text.lower()
        question, answer = exercises.rank(random.Random(seed), LEXICON, "", "")
        text, asked = question.split("\n")
        if asked == "premier" and " avant " in text:
            assert answer.split()[0] == text.split()[0]
            seen["first"] += 1
        if asked == "dernier" and " avant " in text:
            assert answer.split()[-1] == text.split()[0]
            seen["last"] += 1
    assert min(seen["passive"], seen["first"], seen["last"]) >= 20


def test_bounds_allow_the_numbers_they_name() -> None:
    allowed = {"au moins": {3, 4, 5}, "au plus": {1, 2, 3}, "exactement": {3}}
    checked = 0
    for seed in range(3000):
        question, answer = exercises_words.bounds(random.Random(seed), LEXICON, "", "")
        bound, asked = question.split("\n")
        if bound.endswith(" trois"):
            for word, verdict in zip(asked.split(), answer.split()[1::2], strict=True):
                if NUMBERS.index(word) <= 5:
                    assert (verdict == "oui") == (NUMBERS.index(word) in allowed[bound.removesuffix(" trois")])
                    checked += 1
    assert checked > 200


def test_every_document_fits_into_a_row(tokenizer: Any) -> None:
    rng = random.Random(14)
    for name in EXERCISES:
        drawn = [corpus.draw_exercise(rng, name) for _ in range(40)]
        assert max(len(encode_document(tokenizer, document).ids) for document in drawn) <= Settings.length


def test_the_first_steps_see_lists_copies_and_pairs_alone() -> None:
    rng = random.Random(16)
    assert {document.system for document in (draw_document(rng, step=0) for _ in range(100))} == {"", "mots"}
    for stage in range(3):
        assert len({document.system for document in (draw_document(rng, stage=stage) for _ in range(600))}) > 12


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
    first, again = (training_batch(tokenizer, 3, 500, 0, 2, 128) for _ in range(2))
    assert first.input_ids.equal(again.input_ids)
    for step, stage in ((501, 0), (500, 1)):
        assert not first.input_ids.equal(training_batch(tokenizer, 3, step, stage, 2, 128).input_ids)


def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    pretrain(whole, SMALL)
    for step in (1, 2, 3):  # at the end of the first stage, of the second, in the third
        assert pretrain(parts, SMALL, resume=step > 1, stop_after=step) == {}
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
        pretrain(tmp_path / "run", Settings(steps=5, rows=2, length=128, save_every=1), resume=True)


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
