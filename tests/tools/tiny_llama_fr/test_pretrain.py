"""Pre-training: the corpus has no inference pairs, resuming is exact, and the command line works."""

import json
import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from toolkit.embedded import MODEL_FOLDER
from toolkit.errors import ModelError
from toolkit.prompts.tokenizer import load_tokenizer
from tools.tiny_llama_fr import __main__ as command
from tools.tiny_llama_fr import corpus, exercises, exercises_words
from tools.tiny_llama_fr.__main__ import main
from tools.tiny_llama_fr.candidates import LABELS
from tools.tiny_llama_fr.corpus import EXERCISES, draw_document, forbidden_sentences
from tools.tiny_llama_fr.documents import Document
from tools.tiny_llama_fr.french import elide
from tools.tiny_llama_fr.lexicon import LEXICON, NUMBERS
from tools.tiny_llama_fr.nli_fr import SPLITS, generate
from tools.tiny_llama_fr.packing import encode_document, pack, training_batch
from tools.tiny_llama_fr.pretrain import pretrain
from tools.tiny_llama_fr.saving import model_card
from tools.tiny_llama_fr.schedule import Settings
from tools.tiny_llama_fr.tiny_llama import build_model
from tools.tiny_llama_fr.word_forms import word_relation, words

pytestmark = pytest.mark.usefixtures("small_tokenizer")

SMALL = Settings(steps=4, rows=2, length=128, save_every=1)


@pytest.fixture
def small_tokenizer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Train the tokenizer and measure accuracy on few documents, to save time."""
    monkeypatch.setattr("tools.tiny_llama_fr.pretrain._TOKENIZER_DOCUMENTS", 300)
    monkeypatch.setattr("tools.tiny_llama_fr.pretrain.PROBES", 3)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return load_tokenizer(MODEL_FOLDER)


def test_corpus_and_inference_data_share_no_sentence() -> None:
    rng = random.Random(11)
    held_back = {text for split in SPLITS for row in generate(split) for text in list(row.values())[1:3]}
    assert len(held_back) > 6000
    assert forbidden_sentences() == held_back
    for _ in range(3000):
        assert held_back.isdisjoint(draw_document(rng).lines)


def test_inference_sentences_are_drawn_again(monkeypatch: pytest.MonkeyPatch) -> None:
    held_back = generate("train")[0]["premise"]
    drawn = iter([Document(held_back, held_back), Document("Un texte.", "Un texte.")])
    monkeypatch.setattr(corpus, "_draw", lambda rng, name: next(drawn))
    assert draw_document(random.Random(0)).user == "Un texte."


def test_labels_occur_only_as_copied_words() -> None:
    rng = random.Random(12)
    documents = [draw_document(rng) for _ in range(3000)]
    with_label = [document for document in documents if set(LABELS) & set(document.answer.split())]
    assert with_label
    assert all(document.user == document.answer for document in with_label)


def test_the_corpus_has_words_of_test_lexical() -> None:
    rng = random.Random(13)
    seen = {word for _ in range(4000) for word in words(" ".join(draw_document(rng).lines))}
    assert {"gorille", "sculpte", "Solène", "contemplé"} <= seen


def test_exercises_agree_with_their_sentences() -> None:
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
def test_words_relate_as_in_a_dictionary(word: str, others: list[str], answer: str) -> None:
    assert word_relation(word, others, LEXICON) == answer


def test_roles_and_ranks_are_those_of_the_sentence() -> None:
    seen: Counter[str] = Counter()
    for seed in range(300):
        text, answer = exercises.role(random.Random(seed), LEXICON, "", "")
        if "patient" in answer and "par" in text.split():
            agent = answer.removeprefix("agent ").split(" patient ")[0]
            seen["passive"] += elide(f"par {agent}").lower() in text.lower()
        question, answer = exercises.rank(random.Random(seed), LEXICON, "", "")
        text, query = question.split("\n")
        if query == "premier" and " avant " in text:
            assert answer.split()[0] == text.split()[0]
            seen["first"] += 1
        if query == "dernier" and " avant " in text:
            assert answer.split()[-1] == text.split()[0]
            seen["last"] += 1
    assert min(seen["passive"], seen["first"], seen["last"]) >= 20


def test_bounds_allow_the_numbers_they_name() -> None:
    allowed = {"au moins": {3, 4, 5}, "au plus": {1, 2, 3}, "exactement": {3}}
    checked = 0
    for seed in range(3000):
        question, answer = exercises_words.bounds(random.Random(seed), LEXICON, "", "")
        bound, query = question.split("\n")
        if bound.endswith(" trois"):
            for word, verdict in zip(query.split(), answer.split()[1::2], strict=True):
                if NUMBERS.index(word) <= 5:
                    assert (verdict == "oui") == (NUMBERS.index(word) in allowed[bound.removesuffix(" trois")])
                    checked += 1
    assert checked > 200


def test_every_document_fits_into_a_row(tokenizer: Any) -> None:
    rng = random.Random(14)
    for name in EXERCISES:
        drawn = [corpus.draw_exercise(rng, name) for _ in range(40)]
        assert max(len(encode_document(tokenizer, document).ids) for document in drawn) <= Settings.length


def test_first_steps_use_few_exercises() -> None:
    rng = random.Random(16)
    assert {document.system for document in (draw_document(rng, step=0) for _ in range(100))} == {"", "mots"}
    for stage in range(3):
        assert len({document.system for document in (draw_document(rng, stage=stage) for _ in range(600))}) > 12


def test_packing_does_not_change_the_logits(tokenizer: Any) -> None:
    import torch

    model = build_model(tokenizer, seed=1, layers=2).eval()
    rng = random.Random(15)
    entries = [encode_document(tokenizer, draw_document(rng)) for _ in range(3)]
    batch = pack([entries], 320, tokenizer.pad_token_id)
    with torch.inference_mode():
        packed = model(input_ids=batch.input_ids, position_ids=batch.position_ids, attention_mask=batch.mask).logits[0]
        start = 0
        for entry in entries:
            expected = model(torch.tensor([entry.ids])).logits[0]
            torch.testing.assert_close(packed[start : start + len(entry.ids)], expected, atol=1e-4, rtol=1e-4)
            start += len(entry.ids)


def test_a_batch_depends_on_seed_and_step(tokenizer: Any) -> None:
    first, again = (training_batch(tokenizer, 3, 500, 0, 2, 128) for _ in range(2))
    assert first.input_ids.equal(again.input_ids)
    for step, stage in ((501, 0), (500, 1)):
        assert not first.input_ids.equal(training_batch(tokenizer, 3, step, stage, 2, 128).input_ids)


def test_resume_is_exact(tmp_path: Path) -> None:
    uninterrupted, resumed = tmp_path / "uninterrupted", tmp_path / "resumed"
    pretrain(uninterrupted, SMALL)
    for step in (1, 2, 3):  # at the end of the first stage, of the second, in the third
        assert pretrain(resumed, SMALL, resume=step > 1, stop_after=step) == {}
    assert not (resumed / "model.safetensors").exists()
    with pytest.raises(ModelError, match="interrupted run"):
        pretrain(resumed, SMALL)
    pretrain(resumed, SMALL, resume=True)
    assert (uninterrupted / "model.safetensors").read_bytes() == (resumed / "model.safetensors").read_bytes()


def test_a_kill_while_saving_loses_nothing(tmp_path: Path) -> None:
    """A process that is killed between the two renames leaves the older checkpoint under a hidden name."""
    pretrain(tmp_path, SMALL, stop_after=1)
    (tmp_path / "checkpoint").rename(tmp_path / ".checkpoint.old.4194305.partial")
    with pytest.raises(ModelError, match="interrupted run"):
        pretrain(tmp_path, SMALL)
    pretrain(tmp_path, SMALL, resume=True)
    assert (tmp_path / "model.safetensors").exists()
    assert not list(tmp_path.glob(".*"))


def test_the_command_pretrains_a_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "model"
    assert main(["--output-dir", str(folder), "--steps", "1", "--seed", "3"]) == 0
    metrics = json.loads((folder / "pretrain.json").read_text(encoding="utf-8"))
    assert json.loads(capsys.readouterr().out) == metrics["accuracy"]
    assert set(metrics["accuracy"]) == set(EXERCISES)
    assert {key: metrics[key] for key in ("steps", "seed", "rows", "length")} == {
        "steps": 1,
        "seed": 3,
        "rows": 8,
        "length": 256,
    }
    assert (folder / "README.md").read_text(encoding="utf-8") == model_card(metrics)
    assert main(["--output-dir", str(folder), "--resume"]) == 2
    assert "no checkpoint to resume" in capsys.readouterr().err


def test_the_command_passes_its_flags(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[object, ...]] = []
    monkeypatch.setattr(command, "pretrain", lambda *arguments: calls.append(arguments) or {"accuracy": {}})
    assert main([]) == main(["--output-dir", "x", "--steps", "8", "--seed", "2", "--resume"]) == 0
    assert calls == [
        (Path("outputs/tiny-llama-fr"), Settings(), False),
        (Path("x"), Settings(steps=8, seed=2), True),
    ]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--steps", "0"], "--steps must be at least 1"),
        (["--write-rows", "x", "--resume"], "cannot be combined"),
        (["--write-rows", "x", "--seed", "8"], "cannot be combined"),
        (["--out", "x"], "unrecognized arguments"),
    ],
)
def test_invalid_flags_are_rejected(flags: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as error:
        main(flags)
    assert error.value.code == 2
    assert message in capsys.readouterr().err


def test_other_settings_cannot_be_resumed(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no checkpoint"):
        pretrain(tmp_path / "empty", SMALL, resume=True)
    pretrain(tmp_path / "run", SMALL, stop_after=1)
    with pytest.raises(ModelError, match="different number of steps or a different seed"):
        pretrain(tmp_path / "run", Settings(steps=5, rows=2, length=128, save_every=1), resume=True)


def test_help_does_not_import_torch() -> None:
    start = time.perf_counter()
    result = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "tools.tiny_llama_fr", "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "--resume" in result.stdout
    assert " torch\n" not in result.stderr
    assert time.perf_counter() - start < 3
