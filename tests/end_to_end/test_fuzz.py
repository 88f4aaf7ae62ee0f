"""Arbitrary recipes, rows, GGUF files and results of a run are read or rejected with an error message, quickly."""

import json
import random
import struct
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.conftest import RECIPE, ROOT
from tests.evaluation.run_files import make_run, write_evaluation, write_log
from toolkit.data.examples import fingerprint, load_examples
from toolkit.data.sources import read_rows
from toolkit.errors import DataError, ModelError, RecipeError, RunError
from toolkit.evaluation.prediction_files import read_evaluation
from toolkit.export.gguf_writer import write_gguf
from toolkit.inference.gguf_file import read_gguf_header
from toolkit.recipe.data_section import Source
from toolkit.recipe.loading import dump_recipe, load_recipe
from toolkit.recipe.schema import Recipe
from toolkit.reporting.html_report import write_report
from toolkit.runs.run_folder import RunFolder
from toolkit.runs.trained_run import TrainedRun


def fuzz(examples: int) -> settings:
    """Return settings for reproducible examples that take at most five seconds each."""
    return settings(
        max_examples=examples,
        deadline=timedelta(seconds=5),
        derandomize=True,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
KEYS = [(section, key) for section, keys in RECIPE.items() for key in keys] + [("lora", "x"), ("export", "gguf")]


def assert_recipe_or_rejected(path: Path) -> None:
    try:
        recipe = load_recipe(path)
    except RecipeError as error:
        assert str(error) and len(str(error)) < 5000
        return
    path.write_text(dump_recipe(recipe), encoding="utf-8")
    assert load_recipe(path) == recipe


@fuzz(150)
@given(content=st.text(max_size=200).map(str.encode) | st.binary(max_size=200))
def test_any_text_is_a_recipe_or_rejected(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_bytes(content)
    assert_recipe_or_rejected(path)


@fuzz(250)
@given(changes=st.lists(st.tuples(st.sampled_from(KEYS), VALUES), min_size=1, max_size=3))
def test_any_value_is_accepted_or_rejected(changes: list[tuple[tuple[str, str], Any]], tmp_path: Path) -> None:
    values: dict[str, Any] = {section: dict(keys) for section, keys in RECIPE.items()}
    for (section, key), value in changes:
        values.setdefault(section, {})[key] = value
    path = tmp_path / "recipe.yaml"
    # JSON is a subset of YAML, except that YAML reads NaN and Infinity as strings.
    path.write_text(json.dumps(values), encoding="utf-8")
    assert_recipe_or_rejected(path)


YAML_PIECES = [
    "task:",
    "\n",
    "  ",
    "- ",
    "&a",
    "*a",
    "!!",
    "? ",
    ": ",
    "|",
    "{",
    "}",
    "[",
    "]",
    '"',
    "'",
    "#",
    "x",
    "\t",
]


@fuzz(200)
@given(pieces=st.lists(st.sampled_from(YAML_PIECES), max_size=25))
def test_any_yaml_is_a_recipe_or_rejected(pieces: list[str], tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("".join(pieces), encoding="utf-8")
    assert_recipe_or_rejected(path)


def valid_file(path: Path) -> bytes:
    rows = [{"premise": f"p{i}", "hypothesis": 'h,\n"é"', "label": "neutral", "n": i} for i in range(5)]
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
        return path.read_bytes()
    if path.suffix in (".csv", ".tsv"):
        sep = "," if path.suffix == ".csv" else "\t"
        return sep.join(rows[0]).encode() + b"\n" + f'"a"{sep}b{sep}neutral{sep}1\n'.encode() * 5
    text = json.dumps(rows) if path.suffix == ".json" else "".join(json.dumps(row) + "\n" for row in rows)
    return text.encode()


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".tsv", ".parquet"])
@fuzz(80)
@given(data=st.data())
def test_any_bytes_are_rows_or_rejected(suffix: str, data: st.DataObject, make_recipe: Any, tmp_path: Path) -> None:
    path = tmp_path / f"rows{suffix}"
    content = bytearray(valid_file(path))
    if data.draw(st.booleans()):
        content = bytearray(data.draw(st.binary(max_size=100)))
    for _ in range(data.draw(st.integers(0, 3)) if content else 0):
        offset, new = data.draw(st.integers(0, len(content) - 1)), data.draw(st.binary(min_size=1, max_size=8))
        content[offset : offset + len(new)] = new
    path.write_bytes(content)
    try:
        rows, columns = read_rows(Source(path=str(path)))
    except DataError as error:
        assert str(path) in str(error)
        return
    assert rows and set(columns) == {column for row in rows for column in row}
    assert_examples_or_rejected(make_recipe("data.columns.id=null", "evaluation.slice_by=[]"), path)


def assert_examples_or_rejected(recipe: Recipe, path: Path) -> None:
    try:
        examples = load_examples(recipe, Source(path=str(path)))
    except DataError:
        return
    assert len(fingerprint(examples)) == 64


@fuzz(150)
@given(
    rows=st.lists(st.dictionaries(st.sampled_from(["premise", "hypothesis", "label", "id", "n"]), VALUES), max_size=4)
)
def test_any_row_is_an_example_or_rejected(rows: list[dict[str, Any]], make_recipe: Any, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    good = {"premise": "p", "hypothesis": "h", "label": "neutral", "id": "1", "n": 1}
    path.write_text("".join(json.dumps(good | row) + "\n" for row in rows), encoding="utf-8")
    assert_examples_or_rejected(make_recipe("evaluation.slice_by=[n]"), path)


@pytest.fixture(scope="module")
def gguf(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("fuzz") / "tiny.gguf"
    write_gguf(tiny_model, path, "f16", date_string=None, name="tiny")
    return path


NUMBERS = [0, 1, 3, 7, 31, 255, 65_536, 2**31 - 1, 2**31, 2**32 - 1]
FIELDS = ["block_count", "context_length", "embedding_length", "feed_forward_length", "head_count", "head_count_kv",
          "freq_base", "rms_epsilon", "key_length", "value_length", "dimension_count", "bos_token_id"]  # fmt: skip


def mutate(content: bytes, rng: random.Random) -> bytearray:
    """Return a GGUF file with changed bytes, numbers or fields in its header, or with its end removed."""
    changed, header = bytearray(content), content.rindex(b"output_norm.weight") + 48
    for _ in range(rng.randint(1, 3)):
        kind, at = rng.choice(["byte", "u32", "u64", "field", "field", "cut"]), rng.randrange(4, header)
        if kind == "byte":
            changed[at] = rng.randrange(256)
        elif kind == "u32":
            changed[at : at + 4] = struct.pack("<I", rng.choice(NUMBERS))
        elif kind == "u64":
            changed[at : at + 8] = struct.pack("<Q", rng.choice([0, 1, 2**33, 2**63, 2**64 - 1]))
        elif kind == "field":
            name = rng.choice(FIELDS).encode()
            at = content.index(name) + len(name) + 4
            changed[at : at + 4] = struct.pack("<I", rng.choice(NUMBERS))
        elif rng.random() < 0.2:
            del changed[at:]
            break
    return changed


@fuzz(300)
@given(seed=st.integers(0, 2**32))
def test_any_gguf_header_is_read_or_rejected(seed: int, gguf: Path, tmp_path: Path) -> None:
    path = tmp_path / "other.gguf"
    path.write_bytes(mutate(gguf.read_bytes(), random.Random(seed)))
    try:
        header = read_gguf_header(path)
    except ModelError as error:
        assert "other.gguf" in str(error) and error.hint
        return
    assert header.tensors and header.fields


LOAD = """
import sys
from pathlib import Path
from toolkit.inference.llama_cpp import LlamaCpp
from toolkit.errors import ModelError
for path in sorted(Path(sys.argv[1]).glob("*.gguf")):
    print(path.name, flush=True)
    try:
        with LlamaCpp(path, context_length=64, sequences=1, threads=1) as model:
            model.complete([[1, 5, 9]], max_tokens=1, n_probs=2)
    except ModelError as error:
        print(error)
print("alive")
"""


def test_llama_cpp_survives_accepted_headers(gguf: Path, tmp_path: Path) -> None:
    """llama.cpp loads or rejects every file that the header check accepts, but it never crashes."""
    content = gguf.read_bytes()
    accepted = 0
    for seed in range(400):
        path = tmp_path / f"{seed:03}.gguf"
        path.write_bytes(mutate(content, random.Random(seed)))
        try:
            read_gguf_header(path)
            accepted += 1
        except ModelError:
            path.unlink()
        if accepted == 60:
            break
    assert accepted == 60
    command = [sys.executable, "-c", LOAD, str(tmp_path)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0 and result.stdout.endswith("alive\n"), result.stdout[-200:] + result.stderr[-500:]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    run = make_run(tmp_path_factory.mktemp("fuzzed") / "small")
    write_evaluation(run, "adapter", n=12)
    write_log(run, [1.0, 0.5])
    return run


@fuzz(120)
@given(data=st.data())
def test_any_evaluation_is_read_or_rejected(data: st.DataObject, run: RunFolder, tmp_path: Path) -> None:
    for name in ("metrics.json", "predictions.jsonl"):
        content = bytearray((run.eval / "adapter" / name).read_bytes())
        for _ in range(data.draw(st.integers(0, 2))):
            offset, new = data.draw(st.integers(0, len(content) - 1)), data.draw(st.binary(min_size=1, max_size=4))
            content[offset : offset + len(new)] = new
        (tmp_path / name).write_bytes(content)
    try:
        assert len(read_evaluation(tmp_path).row_hashes) > 0
    except (DataError, RunError) as error:
        assert error.hint


@fuzz(60)
@given(
    name=st.sampled_from(["run.json", "eval/adapter/metrics.json", "train_log.jsonl", "gguf/parity.json"]),
    value=VALUES,
    data=st.data(),
)
def test_any_run_file_is_reported_or_rejected(
    name: str, value: Any, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory, run: RunFolder
) -> None:
    path = run.path / name
    before = path.read_bytes() if path.is_file() else None
    record = json.loads(before) if before and name != "train_log.jsonl" else {"models": [{}]}
    record[data.draw(st.sampled_from(sorted(record)))] = value
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(record), encoding="utf-8")
    try:
        write_report(TrainedRun.open(run.path))
    except RunError as error:
        assert error.hint
    finally:
        path.unlink()
        if before is not None:
            path.write_bytes(before)
