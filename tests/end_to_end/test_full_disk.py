"""A full disk ends in one error message and exit code 1, leaves no partial file and keeps older files unchanged."""

import errno
import json
import os
import resource
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from toolkit.cli.command_line import explain_os_error, run_command
from toolkit.runs.model_ref import ModelRef
from toolkit.runs.run_folder import RunFolder
from toolkit.runs.trained_run import TrainedRun
from toolkit.utils.atomic_io import write_text

Call = Callable[..., tuple[int, str, str]]


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """Make every write beyond `size` bytes of a file fail, as on a full disk. Existing files stay readable."""
    # Python ignores SIGXFSZ, so a write beyond the limit raises an OSError (EFBIG) instead of killing the process.
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture(scope="module")
def run(trained: RunFolder, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run with two evaluations."""
    from toolkit.evaluation.evaluator import evaluate
    from toolkit.evaluation.request import EvaluationRequest

    copy = RunFolder(tmp_path_factory.mktemp("full") / "small")
    shutil.copytree(trained.path, copy.path)
    for model in ("adapter", "base"):
        evaluate(TrainedRun.open(copy.path), EvaluationRequest(ModelRef.parse(model)))
    return copy


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("size", [10, 1_000, 4_000])
@pytest.mark.parametrize("is_new", [True, False])
def test_evaluation_is_complete_or_absent(call: Call, run: RunFolder, size: int, is_new: bool) -> None:
    before = contents(run.path)
    with file_size_limit(size):
        code, _, err = call("eval_generate", run.path, *(["--set", "task.system=Juge."] if is_new else []))
    assert code == 1 and "the file exceeds the size limit (see `ulimit -f`)" in err and "Traceback" not in err
    assert f"error: {run.eval}" in err
    assert contents(run.path) == before and not list(run.path.rglob("*.partial"))


def test_results_survive_without_space_for_plots(call: Call, run: RunFolder) -> None:
    from toolkit.evaluation.evaluation import load_evaluation

    with file_size_limit(12_000):
        code, _, err = call("eval_generate", run.path, "--set", "task.system=Juge.")
    (folder,) = run.eval.glob("adapter@*set*")
    assert sorted(path.name for path in folder.iterdir()) == ["metrics.json", "predictions.jsonl"]
    for name in ("confusion_matrix.png", "reliability.png"):
        assert f"WARNING     {folder / name} was not drawn: {folder / name} could not be written" in err
    # The report and the model card need space, too; they are written again by the next evaluation.
    assert code == 1 and f"error: {run.path}" in err and not list(run.path.rglob("*.partial"))
    assert len(load_evaluation(folder).report()) > 100


@pytest.mark.parametrize("size", [10, 900])
def test_comparison_is_complete_or_absent(call: Call, run: RunFolder, size: int, tmp_path: Path) -> None:
    arguments = ("compare", run.eval / "adapter", run.eval / "base", "--output", tmp_path / "new")
    with file_size_limit(size):
        code, _, err = call(*arguments)
    assert code == 1 and f"{tmp_path / 'new'}" in err and "ulimit" in err
    assert list(tmp_path.iterdir()) == []
    assert call(*arguments)[0] == 0
    before = contents(tmp_path)
    with file_size_limit(size):
        assert call(*arguments)[0] == 1
    assert contents(tmp_path) == before


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
@pytest.mark.parametrize("size", [100, 1_500, 3_800])
def test_prediction_is_complete_or_resumable(
    call: Call, run: RunFolder, size: int, suffix: str, tmp_path: Path
) -> None:
    """A prediction that fails leaves the older output file, and running it again completes it."""
    rows = [{"premise": f"Le chat {i} dort.", "hypothesis": "Il dort."} for i in range(48)]
    source, target = tmp_path / f"in{suffix}", tmp_path / f"out{suffix}"
    if suffix == ".jsonl":
        source.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    elif suffix == ".csv":
        source.write_text("premise,hypothesis\n" + "".join(",".join(row.values()) + "\n" for row in rows))
    else:
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), source)
    target.write_text("older", encoding="utf-8")
    arguments = ("predict", run.path, "--input", source, "--output", target)
    with file_size_limit(size):
        code, _, err = call(*arguments)
    if code == 0:  # a small Parquet file fits within the limit
        assert suffix == ".parquet"
        return
    assert code == 1 and "ulimit" in err and "Traceback" not in err, err
    assert target.read_text(encoding="utf-8") == "older"
    assert {path.name for path in tmp_path.iterdir()} <= {source.name, target.name, f"{target.name}.partial"}
    assert call(*arguments)[0] == 0
    assert {path.name for path in tmp_path.iterdir()} == {source.name, target.name}


def test_full_device_error_names_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def write() -> None:
        with Path("/dev/full").open("wb", buffering=0) as file:
            file.write(b"x")

    def write_atomically() -> None:
        from toolkit.utils.atomic_io import atomic_path

        with atomic_path(tmp_path / "metrics.json"):
            write()

    assert run_command(write_atomically) == 1
    message = f"error: {tmp_path / 'metrics.json'} could not be written: the disk is full."
    assert message in capsys.readouterr().err and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("number", "code", "words"),
    [
        (errno.ENOSPC, 1, "/a/b: No space left on device"),
        (errno.EROFS, 1, "Cannot write /a/b: the file system is read-only"),
        (errno.EACCES, 1, "Cannot open /a/b: permission denied"),
        (errno.EIO, 1, "/a/b: Input/output error"),
        (errno.ENAMETOOLONG, 2, "/a/b is too long"),
        (errno.ELOOP, 2, "Cannot open /a/b: too many levels of symbolic links"),
        (errno.ENOTDIR, 2, "Cannot open /a/b: a part of this path is a file"),
    ],
)
def test_os_errors_become_messages_with_the_path(number: int, code: int, words: str) -> None:
    message, exit_code = explain_os_error(OSError(number, os.strerror(number), "/a/b"))
    assert exit_code == code and words in message and message.endswith(".") and "Errno" not in message


def test_failed_write_keeps_the_older_file(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    write_text(path, "older")
    with file_size_limit(100), pytest.raises(OSError, match=r"run\.json"):
        write_text(path, "x" * 1000)
    assert path.read_text(encoding="utf-8") == "older" and [entry.name for entry in tmp_path.iterdir()] == ["run.json"]
