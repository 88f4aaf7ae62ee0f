"""report.html without a browser: its numbers match the run's files, even if files are missing or texts are hostile."""

import json
import re
import shlex
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.evaluation.run_files import HOSTILE, LABELS, make_run, write_evaluation, write_log, write_validations
from toolkit.errors import RunError
from toolkit.export.gguf_writer import write_gguf
from toolkit.reporting import html_report as report
from toolkit.reporting.html_report import write_report
from toolkit.reporting.report_data import gather_report
from toolkit.runs.run_folder import RunFolder
from toolkit.runs.trained_run import TrainedRun
from toolkit.utils.atomic_io import write_json

PARITY = {
    "reference": "adapter", "rows": 200, "data": "embedded:nli-fr:dev", "labels": list(LABELS), "accuracy": 0.9,
    "accuracy_ci95": [0.85, 0.94],
    "models": [{
        "model": "gguf-q8_0", "file": "gguf/x-q8_0.gguf", "rows": 200, "equal": 197, "agreement": 0.985,
        "min_agreement": 0.99, "accuracy": 0.895, "accuracy_ci95": [0.84, 0.93],
        "probability_difference": {"mean": 0.0012, "max": 0.034}, "different_tokens": 0, "verdict": "refused",
        "reasons": ["98.5% of the answers agree <b>"],
        "disagreements": [{"id": "7", "label": "neutral", "adapter": "neutral", "model": "entailment", "margin": 0.01,
                           "kind": "near tie"}],
    }],
}  # fmt: skip


class Page(HTMLParser):
    """Parses a page into tags, text, and the values of its <data> elements."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)
        self.values = {float(attributes["value"] or 0) for tag, attributes in self.tags if tag == "data"}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def text_of(run: RunFolder) -> str:
    return write_report(TrainedRun.open(run.path)).read_text(encoding="utf-8")


def page_of(run: RunFolder) -> Page:
    return Page(text_of(run))


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    run = make_run(tmp_path / "small")
    write_evaluation(run, "adapter")
    return run


def test_headline_has_interval_rows_and_baselines(run: RunFolder) -> None:
    fields = {"accuracy": 0.708, "accuracy_ci95": [0.69, 0.726], "n": 2490}
    write_evaluation(run, "adapter", **fields, baselines={"random": 1 / 3, "hypothesis_only": 0.48})
    text = " ".join(page_of(run).text.split())
    assert (
        "70.8% accuracy [69.0, 72.6] on 2,490 rows; chance is 33.3%, the hypothesis-only baseline reaches 48.0%."
        in text
    )


def test_tables_show_every_metric(run: RunFolder) -> None:
    base_metrics = write_evaluation(run, "base", seed=5)
    adapter_metrics = json.loads((run.eval / "adapter" / "metrics.json").read_text(encoding="utf-8"))
    page = page_of(run)
    for metrics in (adapter_metrics, base_metrics):
        expected = {metrics["accuracy"], metrics["macro"]["f1"], metrics["weighted"]["f1"]}
        expected |= {metrics["nll"], metrics["ece"], float(metrics["n"])}
        expected |= {value for row in metrics["per_label"].values() for value in row.values()}
        expected |= {float(count) for row in metrics["confusion_matrix"] for count in row}
        expected |= {value for row in metrics["slices"]["kind"].values() for value in row.values()}
        assert expected <= page.values
    assert 0.4821 in page.values
    accuracy, macro_f1 = adapter_metrics["accuracy"], adapter_metrics["macro"]["f1"]
    assert f"{100 * accuracy:.1f}%" in page.text and f"{macro_f1:.4f}" in page.text


def test_evaluations_are_ordered_adapter_first(run: RunFolder) -> None:
    for name in ("merged", "gguf-q8_0", "base", "adapter@nli-fr-test"):
        write_evaluation(run, name, seed=3)
    rows = re.findall(r'<th scope="row">([^<]+)<small>', text_of(run))
    assert rows == ["adapter", "base", "merged", "gguf-q8_0", "adapter@nli-fr-test"]


def test_untrusted_text_is_escaped(tmp_path: Path) -> None:
    run = make_run(tmp_path / "hostile", task={"system": HOSTILE})
    write_evaluation(run, "adapter", warnings=[HOSTILE], data={"source": HOSTILE, "fingerprint": "f"})
    write_json(run.path / "gguf" / "parity.json", PARITY)
    page = page_of(run)
    assert {"script", "b"}.isdisjoint(tag for tag, _ in page.tags)
    assert page.text.count(HOSTILE) >= 22  # instruction, warning, source, twenty errors
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)


def test_page_is_self_contained(run: RunFolder) -> None:
    write_log(run, [3.0, 2.0, 1.0])
    text = text_of(run)
    for tag, attributes in Page(text).tags:
        assert tag not in ("script", "iframe", "object", "embed", "img")
        for name in ("src", "href", "xlink:href", "srcset", "action"):
            assert (attributes.get(name) or "data:").startswith(("data:", "#"))
    assert not re.search(r"https?:|url\(|@import", text)


def test_tables_and_headings_are_accessible(run: RunFolder) -> None:
    write_json(run.path / "gguf" / "parity.json", PARITY)
    page = page_of(run)
    tags = [tag for tag, _ in page.tags]
    assert tags.count("table") == tags.count("caption") > 5
    assert all("scope" in attributes for tag, attributes in page.tags if tag == "th")
    levels = [int(tag[1]) for tag in tags if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    assert page.tags[0][1] == {"lang": "en"} and ("dd", {"lang": "fr"}) in page.tags


def test_text_contrast_meets_wcag() -> None:
    css = (Path(report.__file__).parent / "templates" / "report.css").read_text(encoding="utf-8")
    for theme in re.findall(r":root \{([^}]+)\}", css):
        colors = dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", theme))
        for name in ("ink", "soft", "accent", "alarm"):
            for ground in ("paper", "wash"):
                light, dark = sorted((luminance(colors[name]), luminance(colors[ground])), reverse=True)
                assert (light + 0.05) / (dark + 0.05) >= 4.5, (name, ground)  # WCAG 2.2, 1.4.3


def luminance(color: str) -> float:
    """Return the relative luminance as defined by WCAG 2.2."""
    channels = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [channel / 12.92 if channel <= 0.04045 else ((channel + 0.055) / 1.055) ** 2.4 for channel in channels]
    return sum(weight * channel for weight, channel in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_incomplete_run_still_has_a_report(tmp_path: Path) -> None:
    run = make_run(tmp_path / "bare")
    assert "Not evaluated yet." in page_of(run).text
    write_evaluation(run, "base")
    (run.eval / "base" / "predictions.jsonl").unlink()
    page = page_of(run)
    assert "The adapter has not been evaluated on the evaluation rows" in page.text
    assert "svg" not in [tag for tag, _ in page.tags]
    write_json(run.run_json, {"status": "failed"})
    assert "status in run.json is failed" in page_of(run).text


def test_loss_curve_skips_nan_and_cut_lines(run: RunFolder) -> None:
    write_log(run, [3.0, None, 1.0])
    with run.train_log.open("a") as log:
        log.write('{"step": 4, "lo')
    text = text_of(run)
    assert 'aria-label="Training loss from 3 at step 1' in text


def test_report_shows_validations(run: RunFolder) -> None:
    write_validations(run, {10: 1.0, 20: 0.8125, 30: None, 40: 0.9}, kept_step=40)
    text = text_of(run)
    page = Page(text)
    assert 'aria-label="NLL of the dev rows: from 1 after step 10 to 0.9 after step 40"' in text
    assert text.count('class="ring"') == 1 and {1.0, 0.8125, 0.9} <= page.values
    assert '<th scope="row" class="num">30</th><td class="num">–</td>' in text
    facts = dict(re.findall(r'<th scope="row">([^<]+)</th><td>([^<]+)</td>', text))
    assert facts["dev rows"] == "24" and facts["best step by NLL"] == "20: NLL 0.8125, accuracy 70.0%, macro F1 0.6800"
    assert facts["kept step"] == "the last one" and "40, the last one" in text
    assert facts["validation time"] == "3 s, 5.0% of the training time"
    assert facts["validation"] == "every 10 steps and after the last one" and "at most 5% of the training time" in text
    assert "embedded:nli-fr:train: 24 rows" in text and "The ring marks step 40" in text


def test_report_shows_an_early_stop(tmp_path: Path) -> None:
    run = make_run(tmp_path / "early", training={"keep": "best"}, data={"dev_share": 0.2})
    write_validations(run, {10: 0.8, 20: 0.9}, kept_step=10, last_step=20, stopped_early=True, eval_steps=40)
    text = text_of(run)
    assert "<td>once, after the last step</td>" in text
    assert "20 of 40, stopped early" in text and "10, the best one" in text
    assert "the best one by NLL" in text and "the recipe sets training.keep: best" in text


def test_unfinished_run_has_no_kept_step(run: RunFolder) -> None:
    write_validations(run, {10: 1.0, 20: 0.8}, kept_step=20)
    run.update(validation=None, status="interrupted")
    text = text_of(run)
    assert "NLL of the dev rows" in text and 'class="ring"' not in text


def test_free_generation_shows_invalid_answers(run: RunFolder) -> None:
    fields = {"mode": "free", "nll": None, "ece": None, "model": "adapter", "invalid": 3, "macro_f1_ci95": [0.5, 0.6]}
    invalid = {"invalid_answers": [["Oui <b>", 2], ["", 1]], "invalid_by_label": {"neutral": 3}}
    write_evaluation(run, "adapter-free", **fields, **invalid)
    text = text_of(run)
    assert "Oui &lt;b&gt;" in text and "(empty)" in text and '<th scope="col" class="num">(invalid)</th></tr>' in text
    assert "[0.500, 0.600]" in text and "--mode free" in text


def test_commands_repeat_the_overrides(run: RunFolder) -> None:
    write_evaluation(run, "adapter@a", overrides={"task.system": "Autre chose.", "data.eval.limit": 6})
    lexical = {"source": "embedded:nli-fr:test_lexical", "fingerprint": "g"}
    write_evaluation(run, "adapter@b", overrides={"data.eval.split": "test_lexical"}, data=lexical)
    hub = {"source": "facebook/xnli:fr:test", "fingerprint": "h"}
    write_evaluation(run, "adapter@c", overrides={"data.eval.split": "test"}, data=hub)
    commands = [shlex.split(command)[3:] for command in gather_report(TrainedRun.open(run.path)).commands]
    assert ["--limit", "6", "--set", "task.system=Autre chose."] in commands
    assert ["--data", "embedded:nli-fr:test_lexical"] in commands and ["--set", "data.eval.split=test"] in commands


def test_commands_take_gguf_types_from_files(run: RunFolder, tiny_model: Path) -> None:
    """Names do not matter: a run can be renamed, and so can its files."""
    write_gguf(tiny_model, run.path / "gguf" / "old-name-q8_0.gguf", "q8_0", date_string=None, name="x")
    write_gguf(tiny_model, run.path / "gguf" / "mine-f32.gguf", "f16", date_string=None, name="x")
    (run.path / "gguf" / "damaged-q4_0.gguf").write_bytes(b"GGUF")
    for name in ("old-name-q8_0", "mine-f32", "damaged-q4_0", "deleted-q4_1", "of-another-origin"):
        write_evaluation(run, f"gguf-{name}")
    _, _, export, *evaluations = map(shlex.split, gather_report(TrainedRun.open(run.path)).commands)
    assert export[3:] == ["--quant", "f16", "q8_0", "q4_0", "q4_1"]
    again = run.path.with_name("small-again") / "gguf"
    assert sorted(command[-1] for command in evaluations if "--model" in command) == sorted(
        [*(str(again / f"small-again-{name}.gguf") for name in ("f16", "q8_0", "q4_0", "q4_1")),
         "of-another-origin.gguf"]
    )  # fmt: skip


def test_report_of_many_labels_is_short(run: RunFolder) -> None:
    labels = ["x" * 5000, *(f"label-{i}" for i in range(1, 500))]
    values = yaml.safe_load(run.recipe_file.read_text(encoding="utf-8"))
    values["task"] |= {"labels": labels, "verbalizers": {label: label for label in labels}}
    run.recipe_file.write_text(yaml.safe_dump(values), encoding="utf-8")
    counts = {"train": {"rows": 500, "labels": dict.fromkeys(labels, 1), "source": "x"}}
    run.update(data=counts | {"eval": counts["train"]})
    scores = {"precision": 0.5, "recall": 0.5, "f1": 0.5, "support": 1}
    write_evaluation(run, "adapter", labels=labels, per_label=dict.fromkeys(labels, scores), warnings=[],
                     confusion_matrix=[[1] * 500] * 500)  # fmt: skip
    page = page_of(run)
    assert "Which of 500 labels?" in page.text and "and 471 more" in page.text
    assert "(the 30 of 500 labels with the most errors)" in page.text
    visible = page.text.partition("The complete recipe")[0]
    assert len(visible) < 40_000 and [tag for tag, _ in page.tags].count("td") < 2000


def test_absent_labels_have_a_dash(run: RunFolder) -> None:
    metrics = write_evaluation(run, "adapter")
    metrics["per_label"]["neutral"] = {"precision": 0.0, "recall": 0.0, "f1": 0.0, "support": 0}
    write_evaluation(run, "adapter", per_label=metrics["per_label"])
    dash = '<td class="num">–</td>'
    zeros = '<td class="num"><data value="0.0">0.0000</data></td>'
    assert f'<th scope="row">neutral</th>{zeros}{dash}{dash}' in text_of(run)


def test_api_run_is_reproduced_by_a_call(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    scripted = gather_report(TrainedRun.open(run.path)).commands[1]
    again = str(run.path.with_name("small-again"))
    assert shlex.split(scripted) == ["python", "scripts/sft.py", str(run.recipe_file), "--output-dir", again]
    run.update(command=None)
    python, flag, code = shlex.split(gather_report(TrainedRun.open(run.path)).commands[1])
    calls: list[tuple[Any, ...]] = []
    monkeypatch.setattr("toolkit.train", lambda *args, **options: calls.append((args, options)))
    exec(code, {})  # noqa: S102
    assert (python, flag, calls) == ("python", "-c", [((str(run.recipe_file),), {"output_dir": again})])


def test_free_evaluation_can_be_the_headline(tmp_path: Path) -> None:
    run = make_run(tmp_path / "free")
    write_evaluation(run, "adapter@dev-free", mode="free", model="adapter", overrides={}, invalid=9)
    report = gather_report(TrainedRun.open(run.path))
    assert not any("not been evaluated" in warning for warning in report.warnings)
    assert (
        report.headline is not None and "with free generation (10.0% of the answers are invalid)" in report.headline[1]
    )


def test_parity_calibration_and_warnings_are_shown(run: RunFolder) -> None:
    before, after = {"nll": 0.6, "ece": 0.05, "brier": 0.3}, {"nll": 0.5, "ece": 0.01, "brier": 0.28}
    calibration = {"temperature": 1.73, "rows": 300, "before": before, "after": after}
    write_evaluation(run, "adapter", calibration=calibration, warnings=["The hypothesis gives the label away."])
    write_json(run.path / "gguf" / "parity.json", PARITY)
    (run.path / "gguf" / "x-q8_0.gguf").touch()  # the results of a deleted file are not shown
    page = page_of(run)
    assert {0.6, 0.05, 0.3, 0.5, 0.01, 0.28, 0.985, 0.895} <= page.values
    for words in (
        "1.73",
        "The hypothesis gives the label away.",
        "refused",
        "197 of 200",
        "98.5% of the answers agree",
    ):
        assert words in page.text


def test_cross_fitted_scores_are_shown(run: RunFolder) -> None:
    """Calibrated scores are in the table of evaluations and, for the main one, in the section on calibration."""
    assert "cross-fitted" not in page_of(run).text
    fitted = {"temperatures": [1.21, 1.32], "rows": [45, 45], "nll": 0.4321, "ece": 0.0123, "brier": 0.2222}
    write_evaluation(run, "adapter", cross_fitted_calibration=fitted)
    write_evaluation(run, "base", cross_fitted_calibration=fitted | {"nll": 0.9876, "ece": 0.0987})
    page = page_of(run)
    assert {0.4321, 0.0123, 0.2222, 0.9876, 0.0987} <= page.values
    assert "half of the evaluation rows (1.21 and 1.32) and applied to the other half" in page.text


@pytest.mark.parametrize(("source", "rows"), [("calibration_share", "held-out training rows"), ("dev", "dev rows")])
def test_source_of_temperature_is_named(run: RunFolder, source: str, rows: str) -> None:
    scores = {"nll": 0.6, "ece": 0.05, "brier": 0.3}
    calibration = {"temperature": 1.73, "rows": 300, "before": scores, "after": scores, "source": source}
    write_evaluation(run, "adapter", calibration=calibration)
    assert f"fitted on 300 {rows} and measured" in page_of(run).text


def test_decisions_versions_and_commands_are_shown(run: RunFolder) -> None:
    write_evaluation(run, "gguf-q8_0")
    write_evaluation(run, "adapter@nli-fr-test-limit6", overrides={"data.eval.split": "dev", "data.eval.limit": 6})
    text = page_of(run).text
    for words in ("a ratio of 1.1 is below 1.3", "2.13.0", "not installed", "Seed 42"):
        assert words in text
    for words in (
        "git checkout 0123456789abcdef",
        "--limit 6",
        "small-again --data embedded:nli-fr:dev",
        "--quant q8_0",
    ):
        assert words in text


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("eval/adapter/metrics.json", "{", "is not JSON"),
        ("eval/adapter/metrics.json", "{}", "has no field 'n'"),
        ("gguf/parity.json", "[]", "contains a list, not an object"),
        ("run.json", None, "is not a finished run: run.json is missing"),
    ],
)
def test_damaged_file_keeps_the_old_report(run: RunFolder, name: str, content: str | None, sentence: str) -> None:
    before = write_report(TrainedRun.open(run.path)).read_bytes()
    path = run.path / name
    path.parent.mkdir(exist_ok=True)
    if content is None:
        path.unlink()
    else:
        path.write_text(content, encoding="utf-8")
    with pytest.raises(RunError, match=sentence):
        write_report(TrainedRun.open(run.path))
    assert (run.path / "report.html").read_bytes() == before
    assert not list(run.path.glob(".report*"))
