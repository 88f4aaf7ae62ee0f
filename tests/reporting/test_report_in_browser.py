"""report.html in headless Chromium; skipped if it is not installed."""

import json
import re
import shutil
import subprocess
from html import escape
from pathlib import Path

import pytest

from tests.evaluation.run_files import make_run, write_evaluation, write_validations
from tests.reporting.test_html_report import PARITY, Page
from toolkit.reporting.html_report import write_report
from toolkit.runs.trained_run import TrainedRun
from toolkit.utils.atomic_io import write_json

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium")

# Reports contain no scripts. This one is injected: it opens all <details> and passes the elements that overflow to the
# surrounding page.
MEASURE = """<script>
for (const details of document.querySelectorAll("details")) details.open = true;
const wide = [...document.querySelectorAll("body *")].filter(
  (e) => !e.closest(".wide, pre, svg, .quiet") && e.getBoundingClientRect().right > innerWidth + 0.5);
parent.document.documentElement.dataset.measured = JSON.stringify(
  {inner: innerWidth, scroll: document.documentElement.scrollWidth, wide: wide.map((e) => e.outerHTML.slice(0, 80)),
   hidden: [...document.querySelectorAll(".wide")].map((e) => e.scrollWidth - e.clientWidth)});
</script>"""


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = make_run(tmp_path_factory.mktemp("browser") / "small", task={"system": "Mot" * 100})
    write_evaluation(run, "adapter", invalid_answers=[["x" * 300, 2]])
    write_evaluation(run, "base", seed=1, data={"source": "/data/projects/nli/xnli_fr/test.jsonl", "fingerprint": "f"})
    write_validations(run, {10: 1.0, 20: 0.8, 40: 0.9}, kept_step=20)
    write_json(run.path / "gguf" / "parity.json", PARITY)
    return write_report(TrainedRun.open(run.path))


def browse(page: Path, folder: Path, *flags: str) -> tuple[str, str]:
    """Return the DOM after loading, and the browser's log."""
    assert CHROMIUM is not None
    done = subprocess.run(
        [
            CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--dump-dom",
            f"--user-data-dir={folder / 'profile'}", *flags, page.as_uri(),
        ],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    return done.stdout, done.stderr


def test_tables_show_metrics_without_console_errors(report: Path, tmp_path: Path) -> None:
    dom, log = browse(report, tmp_path)
    assert "CONSOLE" not in log
    page = Page(dom)
    for name in ("adapter", "base"):
        metrics = json.loads((report.parent / "eval" / name / "metrics.json").read_text(encoding="utf-8"))
        assert {metrics["accuracy"], metrics["macro"]["f1"], metrics["nll"], metrics["ece"]} <= page.values
        assert {float(n) for row in metrics["confusion_matrix"] for n in row} <= page.values
        cells = re.findall(r"<td[^>]*>(?:<data[^>]*>)?([^<]*)", dom)
        assert f"{metrics['accuracy']:.1%}" in cells and f"{metrics['macro']['f1']:.4f}" in cells
    assert [tag for tag, _ in page.tags].count("svg") >= 3


def test_console_errors_are_noticed(tmp_path: Path) -> None:
    page = tmp_path / "broken.html"
    page.write_text("<script>undefined.x</script>", encoding="utf-8")
    assert "CONSOLE" in browse(page, tmp_path)[1]


@pytest.mark.parametrize("width", [390, 1280])
def test_page_never_scrolls_sideways(report: Path, tmp_path: Path, width: int) -> None:
    # Chromium windows are at least 500 pixels wide, so a phone is simulated by a frame.
    text = report.read_text(encoding="utf-8").replace("</body>", f"{MEASURE}</body>")
    frame = tmp_path / "frame.html"
    frame.write_text(f'<iframe style="width: {width}px; border: 0" srcdoc="{escape(text)}"></iframe>', encoding="utf-8")
    dom, _ = browse(frame, tmp_path, "--window-size=1400,900")
    measured = dict(Page(dom).tags)["html"]["data-measured"]
    layout = json.loads(measured or "")
    assert layout["inner"] == width
    assert layout["wide"] == [] and layout["scroll"] <= width
    if width == 1280:  # tables scroll only on narrow screens, even if paths are long
        assert layout["hidden"] == [0] * len(layout["hidden"]) and layout["hidden"]
