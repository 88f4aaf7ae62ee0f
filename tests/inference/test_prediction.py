"""Prediction of files: the same results as row by row, in every format, and complete after any interruption."""

import csv
import json
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from toolkit.api.run import Run
from toolkit.cli.flags import with_flags
from toolkit.data.sources import stream_file
from toolkit.errors import DataError, RunError, SealError, ToolkitError
from toolkit.inference import classifier as classifiers
from toolkit.inference import prediction, resumable_output
from toolkit.inference.classifier import Classifier
from toolkit.inference.prediction import load_temperature, predict_file, predict_row
from toolkit.runs.model_ref import ModelRef
from toolkit.runs.run_folder import RunFolder
from toolkit.runs.seal import add_content_seal
from toolkit.runs.trained_run import TrainedRun
from toolkit.utils.atomic_io import file_sha256, write_json
from toolkit.utils.progress import progress_bar, show_progress

ROWS = [
    {"premise": f"Il a {i} « chats »,\net \"{i}\" chiens.", "hypothesis": f"Il a {i * i} chats.", "n": str(i)}
    for i in range(10)
]  # fmt: skip
LABELS = ["entailment", "neutral", "contradiction"]


class FakeScorer:
    """A scorer whose log-probabilities depend only on a row's tokens, and that fails after `limit` rows."""

    def __init__(self, edges: int, limit: int, error: type[BaseException]) -> None:
        self.edges, self.limit, self.error = edges, limit, error
        self.scored: list[int] = []

    def score(self, prompts: list[tuple[int, ...]]) -> np.ndarray:
        assert progress_bar(total=1).disable, "two bars would overwrite each other"
        if sum(self.scored) + len(prompts) > self.limit:
            raise self.error
        self.scored.append(len(prompts))
        return np.array([-np.random.default_rng(sum(p)).random(self.edges) * 5 for p in prompts])


@pytest.fixture(autouse=True)
def shown_progress() -> Iterator[None]:
    """Show progress bars, as commands do."""
    with show_progress(True):
        yield


@pytest.fixture
def scorers(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[FakeScorer]]:
    """A function that installs a fake engine, which fails after `limit` rows, and returns a list of opened scorers."""
    monkeypatch.setattr(classifiers, "_CHUNK_ROWS", {"cpu": 3, "cuda": 3})

    def install(limit: int = 1000, error: type[BaseException] = KeyboardInterrupt) -> list[FakeScorer]:
        opened: list[FakeScorer] = []

        def fake_scorer(_model: Any, _recipe: Any, trie: Any) -> FakeScorer:
            opened.append(FakeScorer(len(trie.edges), limit, error))
            return opened[-1]

        monkeypatch.setattr(classifiers, "load_torch_model", lambda *_: None)
        monkeypatch.setattr(classifiers, "make_torch_scorer", fake_scorer)
        return opened

    return install


def open_classifier(run: RunFolder, *overrides: str, model: str = "adapter") -> Classifier:
    return Classifier(TrainedRun.open(run.path, overrides), ModelRef.parse(model))


def write(path: Path, rows: list[dict[str, str]] = ROWS) -> Path:
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    elif path.suffix == ".parquet":
        table = pyarrow.Table.from_pylist([{**row, "n": int(row["n"]), "many": [1, 2]} for row in rows])
        pyarrow.parquet.write_table(table.cast(table.schema.set(2, pyarrow.field("n", pyarrow.int16()))), path)
    else:
        flat = [{key: " ".join(text.split()) for key, text in row.items()} for row in rows]
        with path.open("w", encoding="utf-8-sig", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), delimiter="\t" if path.suffix == ".tsv" else ",")
            writer.writeheader()
            writer.writerows(rows if path.suffix == ".csv" else flat)
    return path


def read(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    if path.suffix == ".parquet":
        return pyarrow.parquet.read_table(path).to_pylist()
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t" if path.suffix == ".tsv" else ","))


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".tsv", ".parquet"])
def test_every_format_keeps_its_columns(
    trained: RunFolder, tmp_path: Path, suffix: str, scorers: Callable[..., Any]
) -> None:
    """Predictions are added as new columns, and equal those of single pairs."""
    scorers()
    source, target = write(tmp_path / f"in{suffix}"), tmp_path / f"out{suffix}"
    classifier = open_classifier(trained)
    assert predict_file(classifier, source, target) == 0
    before, after = read(source), read(target)
    assert len(after) == len(before) == 10
    for old, new in zip(before, after, strict=True):
        assert list(new)[: len(old)] == [key.removeprefix("\ufeff") for key in old]
        assert [new[key] for key in list(new)[: len(old)]] == list(old.values())
        names = [f"probability_{label}" for label in LABELS]
        assert list(new)[len(old) :] == ["prediction", *(["probabilities"] if suffix == ".jsonl" else names)]
        probabilities = (
            new["probabilities"] if suffix == ".jsonl" else {k: float(new[f"probability_{k}"]) for k in LABELS}
        )
        expected = predict_row(classifier, {name: new[name] for name in ("premise", "hypothesis")})
        assert new["prediction"] == expected.label and list(probabilities.values()) == expected.probabilities
        assert sum(probabilities.values()) == pytest.approx(1)
    if suffix == ".parquet":
        schema = pyarrow.parquet.read_schema(target)
        assert schema.field("n").type == pyarrow.int16() and schema.field("many").type == pyarrow.list_(pyarrow.int64())
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([source.name, target.name])


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_interrupted_file_resumes(
    trained: RunFolder, tmp_path: Path, suffix: str, error: type[BaseException], scorers: Callable[..., Any]
) -> None:
    """The output is identical to that of an uninterrupted call."""
    scorers()
    source, expected, target = write(tmp_path / f"in{suffix}"), tmp_path / f"whole{suffix}", tmp_path / f"out{suffix}"
    predict_file(open_classifier(trained), source, expected)
    target.write_text("an older file", encoding="utf-8")
    scorers(7, error)
    with pytest.raises(error) as interruption:
        predict_file(open_classifier(trained), source, target)
    if error is KeyboardInterrupt:
        assert f"6 of 10 rows are saved in {target}.partial. Run the" in str(interruption.value)
    assert target.read_text(encoding="utf-8") == "an older file"
    opened = scorers()
    predict_file(open_classifier(trained), source, target)
    assert opened[0].scored == [3, 1], "six rows were saved"
    assert target.read_bytes() == expected.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([source.name, expected.name, target.name])


def test_truncated_partial_file_resumes(
    trained: RunFolder, tmp_path: Path, scorers: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever the partial file ends, complete chunks are kept and only the other rows are scored."""
    scorers()
    source, target = write(tmp_path / "in.jsonl"), tmp_path / "out.jsonl"
    partial = tmp_path / "out.jsonl.partial"
    classifier = open_classifier(trained)

    def full_disk(*_: Any) -> None:
        raise OSError("no space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(prediction, "write_predictions", full_disk)
        with pytest.raises(OSError, match="no space left"):
            predict_file(classifier, source, target)
    content = partial.read_bytes()
    predict_file(classifier, source, target)
    expected = target.read_bytes()
    for length in [*range(0, len(content), 41), len(content) - 1, len(content)]:
        partial.write_bytes(content[:length])
        opened = scorers()
        classifier.close()  # the next row that is scored opens a new scorer
        predict_file(classifier, source, target)
        complete_rows = max(0, content[:length].count(b"\n") - 1)
        kept_rows = complete_rows if complete_rows == 10 else complete_rows - complete_rows % 3
        assert sum(sum(scorer.scored) for scorer in opened) == 10 - kept_rows
        assert target.read_bytes() == expected and not partial.exists()
    # A score that has changed on the disk: its chunk and all later ones are scored again.
    lines = content.splitlines(keepends=True)
    lines[5] = lines[5].replace(b"[-", b"[-1", 1)
    partial.write_bytes(b"".join(lines))
    opened = scorers()
    classifier.close()
    predict_file(classifier, source, target)
    assert sum(sum(scorer.scored) for scorer in opened) == 7 and target.read_bytes() == expected


def test_files_of_another_run_are_not_overwritten(trained: RunFolder, tmp_path: Path) -> None:
    (tmp_path / "eval" / "adapter").mkdir(parents=True)
    (tmp_path / "run.json").touch()
    with pytest.raises(RunError, match="which belongs to a run"):
        Run(TrainedRun.open(trained.path)).predict_file(
            write(tmp_path / "in.jsonl"), tmp_path / "eval" / "adapter" / "predictions.jsonl"
        )


@pytest.mark.parametrize("name", ["train_log.jsonl", "eval/adapter/predictions.jsonl", "adapter/rows.jsonl"])
def test_files_of_the_run_are_not_overwritten(trained: RunFolder, tmp_path: Path, name: str) -> None:
    with pytest.raises(RunError, match="which belongs to a run"):
        Run(TrainedRun.open(trained.path)).predict_file(write(tmp_path / "in.jsonl"), trained.path / name)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda path: write(path, ROWS[:-1]), r"it was started with a different input\."),
        (
            lambda path: path.with_name("out.jsonl.partial").write_text("mine\n", encoding="utf-8"),
            r"it was not written by this command\.",
        ),
        (
            lambda path: path.with_name("out.jsonl.partial").write_text("[" * 100_000 + "\n", encoding="utf-8"),
            r"it was not written by this command\.",
        ),
    ],
)
def test_other_partial_file_is_refused(
    trained: RunFolder, tmp_path: Path, scorers: Callable[..., Any], change: Callable[[Path], Any], message: str
) -> None:
    """The partial file is not changed."""
    source, target = write(tmp_path / "in.jsonl"), tmp_path / "out.jsonl"
    scorers(7)
    with pytest.raises(KeyboardInterrupt):
        predict_file(open_classifier(trained), source, target)
    change(source)
    scorers()
    content = (tmp_path / "out.jsonl.partial").read_bytes()
    with pytest.raises(RunError, match=message):
        predict_file(open_classifier(trained), source, target)
    assert (tmp_path / "out.jsonl.partial").read_bytes() == content and not target.exists()


def test_other_model_or_recipe_cannot_resume(trained: RunFolder, tmp_path: Path, scorers: Callable[..., Any]) -> None:
    source, target = write(tmp_path / "in.jsonl"), tmp_path / "out.jsonl"
    scorers(7)
    with pytest.raises(KeyboardInterrupt):
        predict_file(open_classifier(trained), source, target)
    with pytest.raises(RunError, match=r"it was started with a different model\."):
        predict_file(open_classifier(trained, model="base"), source, target)
    with pytest.raises(RunError, match=r"it was started with a different recipe\."):
        predict_file(open_classifier(trained, "task.system=Autre."), source, target)


def test_output_of_another_command_is_refused(trained: RunFolder, tmp_path: Path, scorers: Callable[..., Any]) -> None:
    scorers()
    source, target = write(tmp_path / "in.jsonl"), tmp_path / "out.jsonl"
    with (
        resumable_output.open_journal(tmp_path / "out.jsonl.partial", {"rows": 1}, 3),
        pytest.raises(RunError, match="is being written by another command"),
    ):
        predict_file(open_classifier(trained), source, target)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", '{"premise": "a", "hypothesis": "b"}\n{"premise": " ", "hypothesis": "b"}', "row 2: column 'prem"),
        ("a.csv", 'premise,hypothesis\na,b\nc,"' + "mot " * 300 + '"\n', r"row 2: needs \d+ tokens without its"),
        ("a.csv", "premise,hypothesis\n,b\nc,\n", r"row 1: .*; row 2: .* \(2 rows cannot be scored\)"),
        ("a.csv", "premise,hypothesis,prediction\na,b,c\n", "row 1: it already has a column 'prediction'"),
        ("a.tsv", "premise\thypothesis\tx\tx\na\tb\tc\td\n", "has two columns named 'x'"),
        ("a.csv", "premise,hypothesis\n", "contains no rows"),
        (
            "a.jsonl",
            '{"premise": "a", "hypothesis": "b", "x": ' + "[" * 900 + "1e999" + "]" * 900 + "}",
            "nested too deeply",
        ),
        ("a.csv", "prémisse,hypothesis\n,b\n", "has no column 'premise'"),
        ("a.csv", "premise,hypothesis\na,b\nc\n", r"row 2 \(line 3\) has 1 fields"),
    ],
)
def test_invalid_rows_are_refused_before_scoring(
    trained: RunFolder, tmp_path: Path, scorers: Callable[..., Any], name: str, content: str, message: str
) -> None:
    """Nothing is written either."""
    opened = scorers()
    source, target = tmp_path / name, tmp_path / f"out{Path(name).suffix}"
    source.write_text(content, encoding="utf-8")
    target.write_text("an older file", encoding="utf-8")
    with pytest.raises(DataError, match=message):
        predict_file(open_classifier(trained), source, target)
    assert not opened and target.read_text(encoding="utf-8") == "an older file"
    assert len(list(tmp_path.iterdir())) == 2


def test_nan_scores_are_reported_by_row(
    trained: RunFolder, tmp_path: Path, scorers: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows are counted from the first row of the file, not of the chunk."""
    scorers()
    source = write(tmp_path / "in.jsonl")
    score = FakeScorer.score
    calls: list[int] = []

    def score_with_nan(self: FakeScorer, prompts: list[tuple[int, ...]]) -> np.ndarray:
        calls.append(len(prompts))
        return score(self, prompts) * (np.nan if len(calls) == 3 else 1)

    monkeypatch.setattr(FakeScorer, "score", score_with_nan)
    with pytest.raises(ToolkitError, match=r"\(the first: 7, 8, 9\)"):
        predict_file(open_classifier(trained), source, tmp_path / "out.jsonl")
    assert not (tmp_path / "out.jsonl").exists()


def test_temperature_scales_log_odds(
    trained: RunFolder, tmp_path: Path, scorers: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A temperature of 2 halves the log-odds and keeps the prediction. A missing or unsuitable one is refused."""
    scorers()
    run, adapter = TrainedRun.open(trained.path), ModelRef("adapter")
    folder = tmp_path / "eval"
    monkeypatch.setattr(run.folder, "eval", folder)
    monkeypatch.setattr(run.folder, "parity", tmp_path / "parity.json")  # so that the file counts as exported
    with pytest.raises(RunError, match="calibrated=True needs the temperature of adapter") as error:
        load_temperature(run, adapter)
    assert f"toolkit.open_run({str(run.path)!r}).evaluate('adapter')" in (error.value.hint or "")
    assert with_flags(str(error.value)).startswith("--calibrated needs the temperature of adapter")
    assert f"python scripts/eval_generate.py {run.path} --model adapter" in with_flags(error.value.hint or "")

    def write_metrics(name: str, **metrics: Any) -> None:
        (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / name / "predictions.jsonl").touch()
        digest = file_sha256(folder / name / "predictions.jsonl")
        sealed = add_content_seal(metrics, run.adapter_sha256, name=name, predictions=digest)
        write_json(folder / name / "metrics.json", sealed)

    write_metrics("adapter", calibration=None)
    with pytest.raises(RunError, match="does not have one"):
        load_temperature(run, adapter)
    write_metrics("adapter", calibration={"temperature": 2.0})
    other_prompt = TrainedRun.open(trained.path, ["task.system=Autre."])
    with pytest.raises(RunError, match=r"fitted with the run's own recipe, but task\.system is overridden"):
        load_temperature(other_prompt, adapter)
    gguf = tmp_path / "small-q8_0.gguf"
    gguf.write_bytes(b"GGUF")
    write_metrics("gguf-q8_0", calibration={"temperature": 3.0}, model_sha256=file_sha256(gguf))
    assert load_temperature(run, ModelRef.parse(gguf)) == 3.0
    assert Run(run).load(gguf, calibrated=True).temperature == 3.0
    gguf.write_bytes(b"GGUF exported again")
    with pytest.raises(RunError, match="it was fitted for a different file"):
        load_temperature(run, ModelRef.parse(gguf))
    plain, calibrated = (
        predict_row(Run(run).load(calibrated=calibrated), {"premise": "Il pleut.", "hypothesis": "Il neige."})
        for calibrated in (False, True)
    )
    assert calibrated.label == plain.label
    log_odds, halved = (np.diff(np.log(prediction.probabilities)) for prediction in (plain, calibrated))
    np.testing.assert_allclose(halved, log_odds / 2, rtol=1e-9)
    metrics = json.loads((folder / "adapter" / "metrics.json").read_text())
    write_json(folder / "adapter" / "metrics.json", metrics | {"calibration": {"temperature": 5.0}})
    with pytest.raises(SealError, match=r"metrics\.json has changed since it was written"):
        load_temperature(run, adapter)


@pytest.mark.parametrize("suffix", [".csv", ".tsv"])
@pytest.mark.parametrize(
    "text", ["a\rb", "\r", "a\r", "\ra", 'a"\r"b', "a,\rb", "a;b 'c'", "\u2028x\x0b\x0c\x85y", "\0"]
)
def test_delimited_output_can_be_read_back(
    trained: RunFolder, tmp_path: Path, scorers: Callable[..., Any], suffix: str, text: str
) -> None:
    """Also if a field or a column's name has a lone carriage return."""
    scorers()
    source, target = tmp_path / f"in{suffix}", tmp_path / f"out{suffix}"
    rows = [
        {"premise": f"{a}.", "hypothesis": "Il neige.", f"n{text}": b} for a, b in [(f"Il {text} y", text), ("Il", "x")]
    ]
    with source.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter="\t" if suffix == ".tsv" else ",", quoting=csv.QUOTE_ALL)
        writer.writerows([list(rows[0]), *(row.values() for row in rows)])
    predict_file(open_classifier(trained), source, target)
    assert [{key: row[key] for key in rows[0]} for row in stream_file(target)] == rows


def test_json_output_is_always_json(
    trained: RunFolder, tmp_path: Path, scorers: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    """NaN and infinite numbers, which Python's reader accepts, become null, and a warning counts their rows."""
    scorers()
    values = ["NaN", "-Infinity", "1e999", '[1, {"a": Infinity}]', "1.5", '"NaN"']
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    lines = [f'{{"premise": "Il pleut.", "hypothesis": "Il neige.", "x": {value}}}\n' for value in values]
    source.write_text("".join(lines), encoding="utf-8")

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    with caplog.at_level("WARNING", "toolkit"):
        predict_file(open_classifier(trained), source, target)
    written = [json.loads(line, parse_constant=refuse) for line in target.read_text(encoding="utf-8").splitlines()]
    assert [row["x"] for row in written] == [None, None, None, [1, {"a": None}], 1.5, "NaN"]
    assert "NaN or infinite numbers in 4 rows" in caplog.text


def test_truncated_premise_is_never_silent(
    trained: RunFolder, scorers: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    scorers()
    classifier = open_classifier(trained)
    with caplog.at_level("WARNING", "toolkit"):
        predict_row(classifier, {"premise": "Il pleut.", "hypothesis": "Il neige."})
        classifier.predict([("Il pleut.", "Il neige.")])
        assert not caplog.records
        predict_row(classifier, {"premise": "Il pleut. " * 100_000, "hypothesis": "Il neige."})
        assert "1 of 1 premises were truncated to fit into model.max_seq_length 256" in caplog.text
        classifier.predict([("Il pleut.", "Il neige."), ("Il pleut. " * 500, "Il neige.")])
        assert "1 of 2 premises were truncated" in caplog.text


def test_large_file_is_streamed(trained: RunFolder, tmp_path: Path, scorers: Callable[..., Any]) -> None:
    """Memory does not grow with the number of rows."""
    scorers(10**9)

    def measure_peak(rows: int) -> int:
        source = write(tmp_path / f"{rows}.jsonl", [{**ROWS[0], "n": "x" * 20_000}] * rows)
        tracemalloc.start()
        predict_file(classifier, source, tmp_path / "out.jsonl")
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    classifier = open_classifier(trained)
    measure_peak(15)  # the first call also allocates what later calls reuse
    assert measure_peak(90) < measure_peak(15) + 300_000, "75 more rows are 1.5 MB of text"
