"""Prediction on a Ray cluster of two nodes: killed drivers, killed workers and removed nodes lose and repeat no row."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pytest
from pyarrow import parquet

import toolkit
from tests.conftest import ROOT
from toolkit.embedded import nli_fr
from toolkit.runs.run_folder import RunFolder

pytest.importorskip("ray")
Call = Callable[..., tuple[int, str, str]]
SHARDS, ROWS = 8, 1250


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A cluster of two nodes with one CPU core each, on this machine."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    cluster.test_nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
    cluster.wait_for_nodes()
    yield cluster
    cluster.shutdown()


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """10,000 pairs in 8 Parquet files; no two rows are equal."""
    folder = tmp_path_factory.mktemp("shards")
    texts = [(row["premise"], row["hypothesis"]) for row in nli_fr.load_split("train")]
    for shard in range(SHARDS):
        numbers = range(shard * ROWS, (shard + 1) * ROWS)
        rows = [
            {"number": n, "premise": texts[n % 3000][0], "hypothesis": f"{texts[n % 3000][1]} {n // 3000}"}
            for n in numbers
        ]
        parquet.write_table(pa.Table.from_pylist(rows), folder / f"part-{shard}.parquet")
    return folder


def wait_for(condition: Callable[[], Any], seconds: float = 240) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it takes too long"
        time.sleep(0.05)


def done(output: Path) -> int:
    return len(list((output / "_done").glob("*.json")))


def test_every_row_is_labeled_once(cluster: Any, shards: Path, trained: RunFolder, tmp_path: Path) -> None:
    """The driver is killed, then a worker, and then a node is removed; the output is that of a single process."""
    output = tmp_path / "labeled"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [
        sys.executable, "scripts/predict.py", str(trained.path), "--input", f"{shards}/*.parquet",
        "--output", str(output), "--ray", cluster.address,
    ]  # fmt: skip
    driver = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE)
    wait_for(lambda: done(output) >= 1 or driver.poll() is not None)
    assert driver.poll() is None, driver.communicate()[1].decode()
    driver.send_signal(signal.SIGKILL)
    driver.communicate()
    after_kill = done(output)
    assert after_kill < SHARDS
    driver = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE)
    wait_for(lambda: done(output) > after_kill or driver.poll() is not None)
    workers = [process for process in psutil.process_iter(["cmdline"])
               if any("MapWorker" in part for part in process.info["cmdline"] or [])]  # fmt: skip
    workers[0].kill()
    cluster.remove_node(cluster.test_nodes.pop(), allow_graceful=False)
    assert driver.poll() is None and done(output) < SHARDS, "both happened in the middle"
    error = driver.communicate(timeout=400)[1].decode()
    assert driver.returncode == 0, error
    manifest = json.loads((output / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["rows"] == SHARDS * ROWS and len(manifest["shards"]) == SHARDS
    code = (
        "import sys, toolkit; from pathlib import Path\n"
        "from toolkit.inference.prediction import predict_file\n"
        "with toolkit.open_run(sys.argv[1]).load() as classifier:\n"
        "    for file in sorted(Path(sys.argv[2]).iterdir()):\n"
        "        predict_file(classifier, file, Path(sys.argv[3]) / file.name)\n"
    )
    single = tmp_path / "single"
    single.mkdir()
    arguments = [sys.executable, "-c", code, trained.path, shards, single]
    subprocess.run(arguments, cwd=ROOT, env=environment, check=True, capture_output=True)
    numbers: list[int] = []
    for shard in range(SHARDS):
        name = f"part-{shard}.parquet"
        numbers += parquet.read_table(output / name)["number"].to_pylist()
        assert parquet.read_table(output / name).equals(parquet.read_table(single / name))
    assert numbers == list(range(SHARDS * ROWS))
    repeated = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert repeated.returncode == 0 and "10,000 rows in 8 shards" in repeated.stdout
    assert sorted(path.name for path in output.iterdir()) == [
        "_done", "manifest.json", *(f"part-{shard}.parquet" for shard in range(SHARDS))
    ]  # fmt: skip


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "nonsense", "127.0.0.1:x", "http://a:1"])
def test_cluster_that_does_not_answer_is_refused(
    address: str, shards: Path, trained: RunFolder, tmp_path: Path, call: Call
) -> None:
    start = time.monotonic()
    arguments = (trained.path, "--input", f"{shards}/*.parquet", "--output", tmp_path / "out", "--ray", address)
    code, _, error = call("predict", *arguments)
    assert code == 2 and ("does not answer" in error or "is not the address" in error)
    assert time.monotonic() - start < 10 and not (tmp_path / "out").exists()


def test_failing_worker_is_one_sentence(cluster: Any, shards: Path, trained: RunFolder, tmp_path: Path) -> None:
    """A worker on a node with another version of the toolkit cannot start."""
    code = (
        "import sys; from pathlib import Path\n"
        "from toolkit.distributed import ray_prediction as prediction\n"
        "from toolkit.distributed.locations import Location\n"
        "from toolkit.distributed.shards import list_shards\n"
        "from toolkit.errors import WorkerError\n"
        "run, pattern, output, address = sys.argv[1:]\n"
        "options = prediction.ModelOptions(run, version='0')\n"
        "try:\n"
        "    prediction._label_shards(\n"
        "        options, list_shards(pattern), Location(output), {}, prediction.connect(address)\n"
        "    )\n"
        "except WorkerError as error:\n"
        "    print(error)\n"
    )
    arguments = [trained.path, f"{shards}/*.parquet", tmp_path / "out", cluster.address]
    done = subprocess.run([sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True)
    assert f"A worker has failed: This node has toolkit {toolkit.__version__}, but the driver has 0." in done.stdout


def test_missing_temperature_is_one_sentence(shards: Path, trained: RunFolder, tmp_path: Path, call: Call) -> None:
    """It is found before a worker starts, whose errors would be tracebacks."""
    arguments = (trained.path, "--input", f"{shards}/*.parquet", "--output", tmp_path / "out", "--ray", "local")
    code, _, error = call("predict", *arguments, "--calibrated")
    assert code == 2 and "needs the temperature of adapter" in error and "Traceback" not in error


def test_missing_ray_is_explained(
    shards: Path, trained: RunFolder, tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    arguments = (trained.path, "--input", f"{shards}/*.parquet", "--output", tmp_path / "out", "--ray", "local")
    code, _, error = call("predict", *arguments)
    assert code == 2 and "Ray is not installed" in error and "pip install" in error


def test_prediction_without_ray_never_imports_it(trained: RunFolder, shards: Path, tmp_path: Path) -> None:
    code = (
        "import sys, toolkit; run = toolkit.open_run(sys.argv[1]); "
        "run.predict_file(sys.argv[2], sys.argv[3]); assert 'ray' not in sys.modules"
    )
    arguments = [sys.executable, "-c", code, trained.path, shards / "part-0.parquet", tmp_path / "out.parquet"]
    subprocess.run(arguments, cwd=ROOT, check=True, capture_output=True)
