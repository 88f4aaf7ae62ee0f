"""Rows of a file as token ids: read by a background thread at most one chunk ahead, and resumable after an error."""

import json
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.inference.test_prediction import FakeScorer, open_classifier, scorers, write  # noqa: F401 - a fixture
from toolkit.data import prediction_input
from toolkit.data.columns import Row
from toolkit.errors import DataError
from toolkit.inference.prediction import predict_file
from toolkit.runs.run_folder import RunFolder

Scorers = Callable[..., list[FakeScorer]]
WAIT_SECONDS = 20


def patch_second_pass(monkeypatch: pytest.MonkeyPatch, change: Callable[[Iterator[Row]], Iterator[Row]]) -> None:
    """Change the rows that are read for scoring; the first pass only checks them."""
    stream_file = prediction_input.stream_file

    def stream(*arguments: Any) -> Iterator[Row]:
        rows = stream_file(*arguments)
        return change(rows) if threading.current_thread().name.startswith("tokenizer") else rows

    monkeypatch.setattr(prediction_input, "stream_file", stream)


def count_threads() -> int:
    return sum(thread.name.startswith("tokenizer") for thread in threading.enumerate())


def test_reader_is_at_most_one_chunk_ahead(
    trained: RunFolder, tmp_path: Path, scorers: Scorers, monkeypatch: pytest.MonkeyPatch  # noqa: F811
) -> None:  # fmt: skip
    """While a chunk is scored, another thread reads the next one and then stops, so memory does not grow."""
    scorers()
    read, scored = [0], [0]
    has_read = threading.Condition()

    def count(rows: Iterator[Row]) -> Iterator[Row]:
        for row in rows:
            with has_read:
                read[0] += 1
                has_read.notify()
            yield row

    patch_second_pass(monkeypatch, count)
    score = FakeScorer.score

    def score_slowly(self: FakeScorer, prompts: list[tuple[int, ...]]) -> np.ndarray:
        scored[0] += len(prompts)
        upcoming = min(10, scored[0] + 3)
        with has_read:
            assert has_read.wait_for(lambda: read[0] >= upcoming, WAIT_SECONDS), "nothing is read during scoring"
            assert not has_read.wait_for(lambda: read[0] > upcoming, 0.05), "more than a chunk is read ahead"
        return score(self, prompts)

    monkeypatch.setattr(FakeScorer, "score", score_slowly)
    predict_file(open_classifier(trained), write(tmp_path / "in.jsonl"), tmp_path / "out.jsonl")
    assert read == scored == [10] and count_threads() == 0


def test_background_thread_changes_no_score(
    trained: RunFolder, tmp_path: Path, scorers: Scorers  # noqa: F811
) -> None:  # fmt: skip
    """The predictions are those of chunks that are encoded row by row and scored one after the other."""
    scorers()
    classifier, source, target = open_classifier(trained), write(tmp_path / "in.jsonl"), tmp_path / "out.jsonl"
    predict_file(classifier, source, target)
    rows = [json.loads(line) for line in source.read_text(encoding="utf-8").splitlines()]
    encoded = [classifier.row_tokenizer.encode_unlabeled(row) for row in rows]
    written = [json.loads(line) for line in target.read_text(encoding="utf-8").splitlines()]
    for start in range(0, len(rows), 3):
        scores = classifier.score_labels(encoded[start : start + 3])
        chunk = written[start : start + 3]
        assert [row["prediction"] for row in chunk] == scores.decoded
        probabilities = classifier.to_probabilities(scores.log_likelihoods).tolist()
        assert [list(row["probabilities"].values()) for row in chunk] == probabilities


def test_error_in_the_thread_is_resumable(
    trained: RunFolder, tmp_path: Path, scorers: Scorers, monkeypatch: pytest.MonkeyPatch  # noqa: F811
) -> None:  # fmt: skip
    """A row that changes after it was checked is named, and the chunks before it are kept."""
    scorers()
    source, expected, target = write(tmp_path / "in.jsonl"), tmp_path / "expected.jsonl", tmp_path / "out.jsonl"
    predict_file(open_classifier(trained), source, expected)

    def damage(rows: Iterator[Row]) -> Iterator[Row]:
        yield from (row | {"premise": None} if number == 8 else row for number, row in enumerate(rows, 1))

    with monkeypatch.context() as patched:
        patch_second_pass(patched, damage)
        with pytest.raises(
            DataError, match=r"in\.jsonl, row 8: column 'premise' must contain text, not None\."
        ) as error:
            predict_file(open_classifier(trained), source, target)
    assert error.value.hint == "Fix or remove these rows." and count_threads() == 0 and not target.exists()
    opened = scorers()
    predict_file(open_classifier(trained), source, target)
    assert opened[0].scored == [3, 1] and target.read_bytes() == expected.read_bytes()


def test_interruption_while_reading_keeps_finished_chunks(
    trained: RunFolder, tmp_path: Path, scorers: Scorers, monkeypatch: pytest.MonkeyPatch  # noqa: F811
) -> None:  # fmt: skip
    """Ctrl-C reaches the main thread while it waits for a slow reader."""
    scorers()

    def interrupt(rows: Iterator[Row]) -> Iterator[Row]:
        for number, row in enumerate(rows, 1):
            if number == 8:
                time.sleep(0.5)  # the main thread has scored both chunks before this one, and waits
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
            yield row

    source, target = write(tmp_path / "in.jsonl"), tmp_path / "out.jsonl"
    with monkeypatch.context() as patched:
        patch_second_pass(patched, interrupt)
        with pytest.raises(KeyboardInterrupt, match="6 of 10 rows are saved"):
            predict_file(open_classifier(trained), source, target)
    assert count_threads() == 0
    opened = scorers()
    predict_file(open_classifier(trained), source, target)
    assert opened[0].scored == [3, 1] and len(target.read_text(encoding="utf-8").splitlines()) == 10


def test_failed_scoring_ends_the_thread(
    trained: RunFolder, tmp_path: Path, scorers: Scorers  # noqa: F811
) -> None:  # fmt: skip
    scorers(4, MemoryError)
    with pytest.raises(MemoryError):
        predict_file(open_classifier(trained), write(tmp_path / "in.jsonl"), tmp_path / "out.jsonl")
    assert count_threads() == 0
