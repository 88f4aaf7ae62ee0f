"""Memory and speed of scripts/predict.py on many rows, with an extrapolation to a million.

    python benchmarks/predicting.py outputs/nli_fr --input test.jsonl --rows 10000 --out outputs/bench

The rows of the file are repeated until there are enough of them. In each repetition after the first, the first input of
a row starts with the number of the repetition, so that its prompt shares no more with its copies than with other rows.
"""

import argparse
import json
import resource
import sys
import time
from collections.abc import Iterator
from itertools import count, islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil
from side_by_side import versions

from toolkit.api.run import Run, open_run
from toolkit.data.columns import get_column
from toolkit.data.sources import stream_file

_SAMPLES = 100


class Recorder:
    """A progress callback that records the resident memory and the time of a prediction.

    Args:
        rows: The number of rows.
    """

    def __init__(self, rows: int) -> None:
        self.samples: list[dict[str, float]] = []
        self.checked: list[tuple[int, float]] = []  # rows that were checked, and the time
        self.started = 0.0  # when the first sample was taken
        self._step = rows / _SAMPLES
        self._process = psutil.Process()

    def __call__(self, work: str, done: int, total: int | None) -> None:
        """Record a sample, at most once per percent of the rows."""
        now = time.perf_counter()
        if work == "checking":
            self.checked.append((done, now))
            return
        previous = self.samples[-1]["rows"] if self.samples else -self._step
        if done - previous >= self._step or previous < done == total:
            self.started = self.started if self.samples else now
            resident = round(self._process.memory_info().rss / 1e9, 4)
            self.samples.append({"rows": done, "seconds": round(now - self.started, 3), "resident_gb": resident})


def repeat_rows(source: Path, columns: dict[str, str]) -> Iterator[dict[str, Any]]:
    """Yield the inputs of the rows of a file repeatedly, with the number of the repetition in the first input."""
    for repetition in count():
        for row in stream_file(source, columns=list(columns.values())):
            inputs = {column: get_column(row, column) for column in columns.values()}
            first = next(iter(inputs))
            yield {**inputs, first: f"{repetition} {inputs[first]}" if repetition else inputs[first]}


def predict(run: Run, model: str, source: Path, rows: int, out: Path) -> dict[str, Any]:
    """Label rows as scripts/predict.py does, and return the measurements."""
    columns = dict(run.recipe.columns_of(run.recipe.data.eval).inputs)
    recorder = Recorder(rows)
    with TemporaryDirectory(dir=out) as folder:
        file, labeled = Path(folder) / "rows.jsonl", Path(folder) / "labeled.jsonl"
        with file.open("w", encoding="utf-8") as lines:
            lines.writelines(json.dumps(row) + "\n" for row in islice(repeat_rows(source, columns), rows))
        started = time.perf_counter()
        truncated = run.predict_file(file, labeled, model, progress=recorder)
        finished = time.perf_counter()
    first, last = recorder.samples[0], recorder.samples[-1]
    if first is last:
        sys.exit("All rows were scored in one chunk, so there is no rate. Give a larger --rows.")
    rate = (last["rows"] - first["rows"]) / (last["seconds"] - first["seconds"])
    # The time to load the model does not depend on the number of rows, so neither rate nor extrapolation includes it.
    begin, end = recorder.checked[0] if len(recorder.checked) > 2 else (0, started), recorder.checked[-1]
    checking = (end[1] - begin[1]) * rows / (rows - begin[0])
    writing = finished - recorder.started - last["seconds"]
    return {
        "rows": rows,
        "truncated_rows": truncated,
        "seconds": round(finished - started, 2),
        "seconds_checking": round(checking, 2),
        "seconds_writing": round(writing, 2),
        "rows_per_second": round(rate, 2),
        "extrapolated_hours_per_million": round(1e6 * ((checking + writing) / rows + 1 / rate) / 3600, 3),
        # On Linux ru_maxrss is in KiB, see getrusage(2).
        "peak_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9, 4),
        "samples": recorder.samples,
    }


def main() -> None:
    """Run the benchmark and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a finished run")
    parser.add_argument("--model", default="adapter", help="adapter (default), base, merged or a GGUF file")
    parser.add_argument("--input", type=Path, required=True, metavar="FILE", help="file with the columns of data.eval")
    parser.add_argument("--rows", type=int, default=10_000, help="number of rows to label")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="write DIR/predicting.json")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    run = open_run(arguments.run)
    results = predict(run, arguments.model, arguments.input, arguments.rows, arguments.out)
    title = f"Prediction of {arguments.rows:,} rows, {run.path.name}"
    report = {"title": title, "versions": versions(), "device": device_name(), **results}
    text = json.dumps(report, ensure_ascii=False, indent=2)
    (arguments.out / "predicting.json").write_text(text + "\n", encoding="utf-8")
    print(json.dumps({key: value for key, value in results.items() if key != "samples"}, indent=2))


def device_name() -> str:
    """Return the name of the device that scored the rows."""
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"


if __name__ == "__main__":
    main()
