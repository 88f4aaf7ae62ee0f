"""The seal: a run whose files were replaced, edited or removed is refused; a run that was moved or copied is not."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import toolkit
from toolkit.errors import SealError
from toolkit.recipe.schema import Recipe
from toolkit.runs import digests
from toolkit.runs.digests import file_digest
from toolkit.runs.run_folder import RunFolder
from toolkit.runs.trained_run import TrainedRun
from toolkit.utils.atomic_io import file_sha256
from toolkit.utils.storage import folder_lock

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def finished(
    trained: RunFolder, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory, make_recipe: Callable[..., Recipe]
) -> Iterator[tuple[Path, Path, Path]]:
    """Two complete runs with evaluations and exports that differ only in their seed, and their base model."""
    from toolkit.training.training_run import TrainingOptions, train_run

    folder = tmp_path_factory.mktemp("sealed")
    base = folder / "base"
    shutil.copytree(tiny_model, base)
    for name, seed in (("ours", 1), ("theirs", 2)):
        recipe = make_recipe(
            f"model.name={base}", "training.learning_rate=0.02", "lora.dropout=0.0", f"seed={seed}",
            "data.eval.limit=6", "evaluation.baselines=false",
        )  # fmt: skip
        train_run(recipe, RunFolder(folder / name), TrainingOptions())
        run = toolkit.open_run(folder / name)
        run.evaluate()
        run.evaluate("base")
        run.export("f32", verify=3, min_agreement=0.01)
    yield folder / "ours", folder / "theirs", base


@pytest.fixture
def ours(finished: tuple[Path, Path, Path], tmp_path: Path) -> Path:
    """A copy of the first run, which a test can change."""
    shutil.copytree(finished[0], tmp_path / "ours")
    return tmp_path / "ours"


def commands(run: Path) -> dict[str, list[Any]]:
    """Return the command lines that read a run, by name."""
    pair = ["--premise", "Un chat dort.", "--hypothesis", "Un animal dort."]
    gguf = run / "gguf" / "ours-f32.gguf"
    return {
        "predict": ["predict", run, *pair],
        "predict base": ["predict", run, "--model", "base", *pair],
        "predict merged": ["predict", run, "--model", "merged", *pair],
        "predict gguf": ["predict", run, "--model", gguf, *pair],
        "evaluate": ["eval_generate", run, "--limit", "3"],
        "compare": ["compare", run / "eval" / "adapter", run / "eval" / "base"],
        "export": ["export_gguf", run, "--quant", "f32", "--verify", "3", "--min-agreement", "0.01"],
    }


# The files of a run, and the commands that read them. Every other command must work as if nothing had happened.
EVERYTHING = ["predict", "predict base", "predict merged", "predict gguf", "evaluate", "export"]
READERS = {
    "adapter/adapter_model.safetensors": EVERYTHING,
    "adapter/adapter_config.json": EVERYTHING,
    "adapter/tokenizer.json": EVERYTHING,
    "adapter/tokenizer_config.json": EVERYTHING,
    "recipe.yaml": EVERYTHING,
    "merged/model.safetensors": ["predict merged"],
    "merged/config.json": ["predict merged"],
    "gguf/ours-f32.gguf": ["predict gguf", "evaluate"],
    "gguf/parity.json": ["predict gguf", "evaluate", "export"],
    "eval/adapter/metrics.json": ["evaluate", "compare", "export"],
    "eval/adapter/predictions.jsonl": ["evaluate", "compare", "export"],
    "train_log.jsonl": ["evaluate", "export"],
}


def edit(path: Path) -> None:
    """Change a file in a way that the toolkit could not notice without a digest."""
    data = path.read_bytes()
    if path.name == "recipe.yaml":
        data = data.replace(b"r: 4", b"r: 4\n  use_rslora: true").replace(b"use_rslora: false\n", b"")
    elif path.name == "adapter_config.json":
        data = data.replace(b'"lora_alpha": 8', b'"lora_alpha": 640')
    elif path.name == "metrics.json":
        metrics = json.loads(data)
        data = json.dumps({**metrics, "accuracy": 0.999}).encode()
    elif path.name == "parity.json":
        parity = json.loads(data)
        data = json.dumps({**parity, "rows": 600}).encode()
    elif path.suffix == ".json":
        data = data.replace(b"}", b' , "extra": 1}', 1) if path.name == "config.json" else data + b"\n"
    elif path.suffix == ".jsonl":
        key = b'"loss": ' if path.name == "train_log.jsonl" else b'"prediction": '
        data = data.replace(key, key + b" ", 1)
    else:
        data = data[:-4] + bytes([data[-4] ^ 1, *data[-3:]])
    assert data != path.read_bytes()
    path.write_bytes(data)


@pytest.mark.parametrize("how", ["replaced", "edited", "deleted"])
@pytest.mark.parametrize("name", READERS)
def test_no_change_of_a_file_is_silent(
    name: str, how: str, ours: Path, finished: tuple[Path, Path, Path], call: Call
) -> None:
    """Every command that reads a changed file names it; results of the other commands are those of the intact run."""
    path, other = ours / name, finished[1] / name.replace("ours", "theirs")
    if how == "replaced":
        if path.read_bytes() == other.read_bytes():
            pytest.skip("the file is the same in both runs")
        shutil.copyfile(other, path)
    elif how == "edited":
        edit(path)
    else:
        path.unlink()
    for command, arguments in commands(ours).items():
        code, _, error = call(*arguments)
        if command in READERS[name] and not (how == "deleted" and code == 0):
            assert code in (2, 3) and "error: " in error, f"{command}: {code} {error}"
            assert path.name in error, f"{command} does not name the file: {error}"
        elif how == "deleted" and code:
            assert path.name in error or "contains no merged" in error or "is not a finished run" in error, error
        else:
            assert code == 0, f"{command}: {error}"


def test_accepted_changes_are_recorded(ours: Path, call: Call) -> None:
    edit(ours / "adapter" / "adapter_config.json")
    assert call("eval_generate", ours, "--limit", "3")[0] == 3
    code, _, error = call("eval_generate", ours, "--limit", "3", "--accept-changes")
    assert code == 0 and "adapter_config.json has changed since it was recorded. It is used nevertheless." in error
    (metrics,) = [json.loads(path.read_text()) for path in (ours / "eval").glob("*limit3/metrics.json")]
    assert [str(ours / "adapter" / "adapter_config.json") in change for change in metrics["accepted_changes"]] == [True]


def test_results_with_accepted_changes_say_so(ours: Path, call: Call) -> None:
    """They are shown with a warning, and left out once the original adapter is back."""
    config = ours / "adapter" / "adapter_config.json"
    original = config.read_bytes()
    edit(config)
    run = toolkit.open_run(ours, accept_changes=True)
    run.evaluate()
    sentence = "Files of the model had changed, which was accepted"
    assert sentence in run.report_path.read_text() and sentence in run.model_card_path.read_text()
    code, _, error = call("compare", ours / "eval" / "adapter", ours / "eval" / "base")
    assert code == 0 and "metrics.json describes a model with accepted changes: " in error
    config.write_bytes(original)
    for command in ("evaluate", "export"):
        code, _, error = call(*commands(ours)[command])
        assert code == 0 and "metrics.json describes a model with accepted changes: " in error
        assert "It is left out." in error and sentence not in run.report_path.read_text()
    with pytest.raises(SealError, match="describes a model with accepted changes"):
        toolkit.open_run(ours).load(calibrated=True)
    assert call("eval_generate", ours)[0] == 0, "the same evaluation replaces it"
    assert sentence not in run.report_path.read_text()


def test_evaluation_keeps_its_name(ours: Path, call: Call) -> None:
    evaluations = ours / "eval"
    (evaluations / "adapter").rename(evaluations / "x")
    (evaluations / "base").rename(evaluations / "adapter")
    (evaluations / "x").rename(evaluations / "base")
    for command in ("evaluate", "compare", "export"):
        code, _, error = call(*commands(ours)[command])
        assert code == 3 and "metrics.json was written as the evaluation " in error, error


@pytest.mark.parametrize(
    ("name", "change", "sentence"),
    [
        ("adapter/additional_chat_templates/rag.jinja", lambda _: "{{ x }}", "rag.jinja was added later"),
        ("run.json", lambda text: text.replace('"seed": 1', '"seed": 7'), "run.json has changed since training"),
        ("recipe.yaml", lambda text: text.replace("split: dev", "split: test"), "data.eval.split has changed since"),
        ("eval/adapter/metrics.json", lambda text: text.replace('"seconds": ', '"seconds": 1'), "has changed since it"),
    ],
)  # fmt: skip
def test_no_field_is_silent(ours: Path, call: Call, name: str, change: Callable[[str], str], sentence: str) -> None:
    path = ours / name
    path.parent.mkdir(exist_ok=True)
    before = path.read_text() if path.is_file() else ""
    path.write_text(change(before))
    assert path.read_text() != before
    code, _, error = call("eval_generate", ours, "--limit", "3")
    assert code == 3 and sentence in error, error


@pytest.mark.parametrize(
    "name", [".digests.json", "adapter/tokenizer.json", "eval/base/metrics.json", "train_log.jsonl"]
)
@pytest.mark.parametrize("kind", ["folder", "pipe"])
def test_folders_and_pipes_in_place_of_files(ours: Path, call: Call, name: str, kind: str) -> None:
    """A pipe is never waited for."""
    (ours / name).unlink(missing_ok=True)
    (ours / name).mkdir() if kind == "folder" else os.mkfifo(ours / name)
    code, _, error = call("eval_generate", ours, "--limit", "3")
    assert code == 0 or (code in (2, 3) and Path(name).name in error and "Traceback" not in error), error


def test_deleted_run_is_one_sentence(ours: Path) -> None:
    classifier = toolkit.open_run(ours).load()
    shutil.rmtree(ours)
    with pytest.raises(toolkit.RunError, match="ours does not exist any more"):
        classifier.predict([("Un chat dort.", "Un animal dort.")])
    assert not ours.exists()


def test_changed_rows_cause_a_warning(ours: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("toolkit.evaluation.evaluator.fingerprint", lambda _: "other")
    assert "The evaluation rows have changed since training." in toolkit.open_run(ours).evaluate().warnings


def test_accepted_changes_of_a_gguf_are_recorded(ours: Path) -> None:
    """They are not recorded with the results of other models, whose files are intact."""
    edit(ours / "gguf" / "ours-f32.gguf")
    run = toolkit.open_run(ours, accept_changes=True)
    changed = run.evaluate(ours / "gguf" / "ours-f32.gguf", limit=3)
    assert "ours-f32.gguf has changed since it was exported" in changed.metrics["accepted_changes"][0]
    assert "accepted_changes" not in run.evaluate(limit=3).metrics


def test_other_file_of_same_name_stays_apart(ours: Path, finished: tuple[Path, Path, Path], tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere" / "ours-f32.gguf"
    elsewhere.parent.mkdir()
    shutil.copyfile(ours / "gguf" / "ours-f32.gguf", elsewhere)
    evaluation = toolkit.open_run(ours).evaluate(elsewhere, limit=3)
    assert evaluation.metrics["model"] == "gguf-ours-f32"
    assert "The GGUF file was made from this run's adapter, but was not compared with it" in evaluation.warnings[-1]
    # Without its metadata nobody knows where a file is from.
    data = (finished[1] / "gguf" / "theirs-f32.gguf").read_bytes()
    elsewhere.write_bytes(data.replace(b"toolkit.adapter_sha256", b"toolkit.adapter_sha25x"))
    evaluation = toolkit.open_run(ours).evaluate(elsewhere, limit=3)
    assert "The GGUF file does not say which model it was made from" in evaluation.warnings[-1]
    assert evaluation.metrics["seal"]["adapter"] is None
    assert evaluation.name in [other.name for other in toolkit.open_run(ours).evaluations]


@pytest.mark.parametrize("accept", [False, True])
@pytest.mark.parametrize("change", [shutil.rmtree, lambda adapter: edit(adapter / "adapter_model.safetensors")])
def test_adapter_changed_while_scoring(
    ours: Path, monkeypatch: pytest.MonkeyPatch, accept: bool, change: Callable[[Path], None]
) -> None:
    from toolkit.evaluation import evaluator

    predict, before = evaluator._predict, (ours / "eval" / "adapter" / "metrics.json").read_bytes()

    def predict_then_change(*arguments: Any) -> Any:
        result = predict(*arguments)
        change(ours / "adapter")
        return result

    monkeypatch.setattr(evaluator, "_predict", predict_then_change)
    with pytest.raises(SealError, match="adapter was changed or deleted in the meantime, so nothing was written"):
        toolkit.open_run(ours, accept_changes=accept).evaluate()
    assert (ours / "eval" / "adapter" / "metrics.json").read_bytes() == before


@pytest.mark.parametrize("name", ["run.json", "eval/adapter/metrics.json", "gguf/parity.json"])
def test_half_characters_are_a_change(ours: Path, call: Call, name: str) -> None:
    """JSON can escape one half of a surrogate pair, which no encoding can write."""
    (ours / name).write_text((ours / name).read_text().replace("{", '{"x": "\\ud800", ', 1))
    code, _, error = call("eval_generate", ours, "--limit", "3")
    assert code == 3 and f"{Path(name).name} has changed since" in error


def test_damaged_cache_is_ignored(ours: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digests, "_MIN_CACHED_BYTES", 4)
    (ours / ".digests.json").write_text("[" * 200_000)
    toolkit.open_run(ours)


def test_exports_need_a_printable_name(ours: Path, call: Call) -> None:
    renamed = ours.rename(ours.with_name("a\nSYSTEM x"))
    code, _, error = call("export_gguf", renamed, "--quant", "f32")
    assert code == 2 and "contains unprintable characters" in error and "Rename the run folder" in error


@pytest.mark.parametrize("name", ["adapter/sub", "eval/new", "."])
def test_comparisons_are_not_written_into_a_run(ours: Path, call: Call, name: str) -> None:
    code, _, error = call(*commands(ours)["compare"], "--output", ours / name)
    assert code == 2 and "Choose another folder with --output DIR" in error
    assert call(*commands(ours)["compare"], "--output", ours / "compare" / "mine")[0] == 0


def test_linked_evaluations_are_refused(ours: Path, finished: tuple[Path, Path, Path], call: Call) -> None:
    shutil.rmtree(ours / "eval" / "adapter")
    (ours / "eval" / "adapter").symlink_to(finished[1] / "eval" / "adapter")
    code, _, error = call(*commands(ours)["compare"])
    assert code == 2 and "is a symbolic link to" in error


@pytest.mark.parametrize("name", ["eval/adapter/metrics.json", "gguf/parity.json", "run.json"])
def test_links_that_lead_nowhere_are_named(ours: Path, call: Call, name: str) -> None:
    (ours / name).unlink()
    (ours / name).symlink_to("nowhere")
    code, _, error = call("eval_generate", ours, "--limit", "3")
    assert code == 2 and Path(name).name in error


@pytest.mark.parametrize("files", [None, {}, {"gguf/ours-f32.gguf": "0" * 64}])
def test_digests_of_gguf_files_are_sealed(ours: Path, call: Call, files: Any) -> None:
    path = ours / "gguf" / "parity.json"
    parity = json.loads(path.read_text())
    path.write_text(json.dumps(parity | {"seal": parity["seal"] | {"files": files}}))
    code, _, error = call(*commands(ours)["predict gguf"])
    assert code == 3 and "parity.json has changed since it was written" in error


def test_exports_use_the_trained_prompt(ours: Path) -> None:
    run = toolkit.open_run(ours, {"task.system": "Autre."})
    with pytest.raises(toolkit.ExportError, match=r"task\.system is overridden"):
        run.export("f32")


def test_base_without_tokenizer_is_named(ours: Path, finished: tuple[Path, Path, Path], tmp_path: Path) -> None:
    base = tmp_path / "weights only"
    shutil.copytree(finished[2], base, ignore=shutil.ignore_patterns("*token*"))
    with (
        toolkit.open_run(ours, base=base).load() as classifier,
        pytest.raises(toolkit.ModelError, match="weights only has no tokenizer"),
    ):
        classifier.load()


def test_second_export_is_refused(ours: Path, monkeypatch: pytest.MonkeyPatch, call: Call) -> None:
    monkeypatch.setattr("toolkit.utils.storage._LOCK_TIMEOUT_S", 0.1)
    with folder_lock(ours / "gguf"):
        code, _, error = call(*commands(ours)["export"])
    assert code == 2 and f"Another process is using {ours / 'gguf'}" in error


def test_moved_and_read_only_runs_open(ours: Path, tmp_path: Path) -> None:
    (ours / "adapter" / "README.md").write_text("my own words", encoding="utf-8")
    moved = ours.rename(tmp_path / "moved")
    for path in [moved, *moved.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        with toolkit.open_run(moved).load() as classifier:
            assert classifier.predict([("Un chat dort.", "Un animal dort.")])
    finally:
        for path in [moved, *moved.rglob("*")]:
            path.chmod(0o755)


def test_base_that_moved_is_found_by_its_digests(ours: Path, finished: tuple[Path, Path, Path], tmp_path: Path) -> None:
    base = tmp_path / "moved base"
    shutil.copytree(finished[2], base)
    (base / "README.md").write_text("a model card does not count", encoding="utf-8")
    with toolkit.open_run(ours, base=base).load("base") as classifier:
        classifier.load()
    edit(base / "model.safetensors")
    with (
        toolkit.open_run(ours, base=base).load() as classifier,
        pytest.raises(
            SealError, match=r"is not the base model that .* was trained on: .*model\.safetensors has changed"
        ),
    ):
        classifier.load()


def test_run_without_seal_opens_with_a_warning(ours: Path, caplog: pytest.LogCaptureFixture) -> None:
    record = json.loads((ours / "run.json").read_text())
    del record["seal"]
    (ours / "run.json").write_text(json.dumps(record))
    with toolkit.open_run(ours).load() as classifier:
        assert classifier.predict([("Un chat dort.", "Un animal dort.")])
    assert caplog.text.count("has no seal in run.json") == 1


def test_run_with_the_first_seal_opens(ours: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The first seals lacked the record of run.json and the names of evaluations. That is not a change."""
    names = {"run.json": "record", "eval/adapter/metrics.json": "name", "eval/base/metrics.json": "name"}
    for name, key in names.items():
        record = json.loads((ours / name).read_text())
        del record["seal"][key]
        (ours / name).write_text(json.dumps(record))
    run = toolkit.open_run(ours)
    assert len(run.evaluations) == 2 and caplog.text.count("has no seal in run.json") == 1


def test_gguf_of_another_run_is_refused(
    ours: Path, finished: tuple[Path, Path, Path], call: Call, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "other.gguf"
    shutil.copyfile(finished[1] / "gguf" / "theirs-f32.gguf", elsewhere)
    code, _, error = call("eval_generate", ours, "--model", elsewhere)
    assert code == 3 and f"{elsewhere} was exported from another adapter than that of {ours}." in error


def test_gguf_of_an_accepted_adapter_stays_foreign(
    ours: Path, finished: tuple[Path, Path, Path], call: Call, tmp_path: Path
) -> None:
    """A file that was exported from a changed adapter is refused once the original adapter is back."""
    weights = ours / "adapter" / "adapter_model.safetensors"
    original = weights.read_bytes()
    shutil.copyfile(finished[1] / "adapter" / weights.name, weights)
    toolkit.open_run(ours, accept_changes=True).export("f32", verify=3, min_agreement=0.01)
    weights.write_bytes(original)
    code, _, error = call("eval_generate", ours, "--model", ours / "gguf" / "ours-f32.gguf", "--limit", "3")
    assert code == 3 and "was exported from another adapter than that of" in error
    # The file is written again, so its earlier state does not matter.
    code, _, error = call("export_gguf", ours, "--quant", "f32", "--verify", "3", "--min-agreement", "0.01")
    assert code == 0, error


def test_requantized_file_is_derived(ours: Path, tmp_path: Path, call: Call) -> None:
    """A file with our metadata that export did not write is accepted, with a warning that it is unmeasured."""
    derived = tmp_path / "derived.gguf"
    shutil.copyfile(ours / "gguf" / "ours-f32.gguf", derived)
    code, _, error = call("eval_generate", ours, "--model", derived, "--limit", "3")
    assert code == 0 and "but was not compared with it by export" in error


def test_run_that_was_replaced_meanwhile_gets_no_result(
    ours: Path, finished: tuple[Path, Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from toolkit.evaluation import evaluator

    predict = evaluator._predict

    def replace_then_predict(*arguments: Any) -> Any:
        result = predict(*arguments)
        shutil.rmtree(ours)
        shutil.copytree(finished[1], ours)
        return result

    monkeypatch.setattr(evaluator, "_predict", replace_then_predict)
    before = sorted(path.name for path in (finished[1] / "eval").iterdir())
    with pytest.raises(SealError, match="was replaced by another training in the meantime"):
        toolkit.open_run(ours).evaluate(limit=3)
    assert sorted(path.name for path in (ours / "eval").iterdir()) == before


def test_locks_exclude_writers_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("toolkit.utils.storage._LOCK_TIMEOUT_S", 0.1)
    is_refused = pytest.raises(toolkit.RunError, match="Another process")
    with folder_lock(tmp_path, shared=True), folder_lock(tmp_path, shared=True), is_refused, folder_lock(tmp_path):
        pass
    with folder_lock(tmp_path), is_refused, folder_lock(tmp_path, shared=True):
        pass


def test_large_files_are_hashed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cache is used until size, time or inode change, also by another process (an empty memory here)."""
    monkeypatch.setattr(digests, "_MIN_CACHED_BYTES", 4)
    hashed: list[Path] = []
    monkeypatch.setattr(digests, "file_sha256", lambda path: hashed.append(path) or file_sha256(path))
    path = tmp_path / "weights.safetensors"
    path.write_bytes(b"12345")
    for _ in range(2):
        monkeypatch.setattr(digests, "_known_digests", {})
        assert file_digest(path, tmp_path) == file_sha256(path)
    assert len(hashed) == 1
    path.write_bytes(b"12346")
    assert file_digest(path, tmp_path) == file_sha256(path) and len(hashed) == 2


def test_opened_run_remembers_its_seal(ours: Path) -> None:
    run = TrainedRun.open(ours)
    assert run.seal is not None and run.adapter_sha256 == run.seal.adapter_sha256
    edit(ours / "adapter" / "adapter_model.safetensors")
    with pytest.raises(SealError, match=r"adapter_model\.safetensors has changed since it was recorded"):
        run.verify_adapter()
