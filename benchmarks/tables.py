"""Write the tables and figures of the documentation from the results in benchmarks/results.

    python benchmarks/tables.py          # after adding or replacing a folder of results
    python benchmarks/tables.py --check  # exit with 1 if a document or a figure differs from the results

In a document, a table is between `<!-- table: FOLDER -->` and `<!-- end -->`. FOLDER is a folder in benchmarks/results
to which a benchmark has written. Its NAME.json is rendered by the function `table` of benchmarks/NAME.py, or by
`VIEW_table` for `<!-- table: FOLDER/VIEW -->`. The rows of table.json, which no benchmark has written, are rendered as
they are. Between `<!-- figure: NAME -->` and `<!-- end -->` is a figure from figures.py. All other text is kept.

The results of trained runs, from benchmarks/runs.py, are also written to docs/results.json as one list.
"""

import argparse
import importlib
import json
import re
import sys
from pathlib import Path
from typing import Any

from figures import FIGURES
from side_by_side import ENVIRONMENT, Table, markdown

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
DOCUMENTS = sorted((ROOT / "docs").glob("*.md"))
BLOCK = re.compile(
    r"<!-- (?P<kind>table|figure): (?P<name>[\w.-]+)(?:/(?P<view>\w+))? -->\n"
    # An opening without an end must not reach the end of the next block.
    r"(?:(?!<!-- (?:table|figure):).)*?<!-- end -->\n",
    re.DOTALL,
)
NOT_MEASURED = "Not measured yet.\n"


def read_results(folder: Path) -> tuple[str, Any]:
    """Return the name of a benchmark and its results."""
    files = [path for path in sorted(folder.glob("*.json")) if path.name != ENVIRONMENT]
    if len(files) != 1:
        sys.exit(f"{folder} must contain the results of one benchmark, but has {len(files)}. Keep one NAME.json.")
    return files[0].stem, json.loads(files[0].read_text(encoding="utf-8"))


def plain_table(rows: list[dict[str, str]]) -> Table:
    """Return the rows of a table.json, whose cells are text, as a table."""
    return [list(rows[0]), *(list(row.values()) for row in rows)]


def predicting_table(result: dict[str, Any]) -> Table:
    """Return the speed and memory of a prediction, extrapolated to a million rows."""
    first, last = result["samples"][0], result["samples"][-1]
    return [
        [
            "rows",
            "seconds",
            "rows per second",
            "resident GB, first and last row",
            "peak GB",
            "hours for a million rows",
        ],
        [
            f"{result['rows']:,}",
            f"{result['seconds']:,.0f}",
            f"{result['rows_per_second']:,.1f}",
            f"{first['resident_gb']:.2f}, {last['resident_gb']:.2f}",
            f"{result['peak_gb']:.2f}",
            f"{result['extrapolated_hours_per_million']:.1f}",
        ],
    ]


def render_table(folder: Path, view: str | None) -> str:
    """Return the table of a folder as Markdown, with a link to the results; see the module for `view`."""
    if not folder.is_dir():
        return NOT_MEASURED
    name, results = read_results(folder)
    if name == "table":
        make_table = plain_table
    elif name == "predicting":
        make_table = predicting_table
    else:
        make_table = getattr(importlib.import_module(name), f"{view}_table" if view else "table")
    if (folder / ENVIRONMENT).is_file():
        environment = json.loads((folder / ENVIRONMENT).read_text(encoding="utf-8"))
    else:
        environment = results
    device = environment.get("device", "CPU")
    machine = environment["versions"].get("cpu") if device == "CPU" else device
    source = environment.get("source") or environment.get("date")
    facts = [f"[{folder.name}](../benchmarks/results/{folder.name})", *filter(None, (source, machine))]
    return f"{markdown(make_table(results))}\nResults: {', '.join(facts)}.\n"


def render(text: str) -> str:
    """Return the text of a document with its tables and figures generated from the results."""

    def replace(block: re.Match[str]) -> str:
        name, view = block["name"], block["view"]
        opening = block[0].split("\n", 1)[0]
        if block["kind"] == "table":
            content = render_table(RESULTS / name, view)
        else:
            drawing, description = FIGURES[name]
            content = f"![{description}](images/{name}.svg)\n" if drawing(RESULTS) else NOT_MEASURED
        return f"{opening}\n{content}<!-- end -->\n"

    return BLOCK.sub(replace, text)


def list_runs() -> str:
    """Return all results of trained runs as JSON: model, data, protocol, seed, n, accuracy, interval, nll, ece, ..."""
    entries = [
        entry for file in sorted(RESULTS.glob("*/runs.json")) for entry in json.loads(file.read_text(encoding="utf-8"))
    ]
    return json.dumps(entries, ensure_ascii=False, indent=1) + "\n"


def main() -> None:
    """Write or check the documents and the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing, exit with 1 if a file differs")
    arguments = parser.parse_args()
    contents = {path: render(path.read_text(encoding="utf-8")) for path in DOCUMENTS}
    contents[ROOT / "docs" / "results.json"] = list_runs()
    for name, (draw, _) in FIGURES.items():
        if drawing := draw(RESULTS):
            contents[ROOT / "docs" / "images" / f"{name}.svg"] = drawing
    differing = [
        path for path, content in contents.items() if not path.is_file() or path.read_text(encoding="utf-8") != content
    ]
    for path in differing:
        if not arguments.check:
            path.write_text(contents[path], encoding="utf-8")
        print(f"{path.relative_to(ROOT)} {'differs from its results' if arguments.check else 'written'}")
    if arguments.check and differing:
        sys.exit(1)


if __name__ == "__main__":
    main()
