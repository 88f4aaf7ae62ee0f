"""adapter/README.md: Hugging Face's loader reads it, and its snippet builds the same prompt as the toolkit."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from tests.evaluation.run_files import make_run, write_evaluation, write_validations
from tests.reporting.test_html_report import Page
from toolkit.prompts.prompt_tokenizer import PromptTokenizer
from toolkit.prompts.tokenizer import load_tokenizer
from toolkit.recipe.inputs import NLI_INPUTS
from toolkit.recipe.loading import load_recipe
from toolkit.reporting.model_card import example_inputs, write_model_card
from toolkit.runs.run_folder import RunFolder
from toolkit.runs.trained_run import TrainedRun
from toolkit.utils.atomic_io import write_json


def card_of(run: RunFolder) -> ModelCard:
    # Some tests change the recipe or the chat template of the run.
    path = write_model_card(TrainedRun.open(run.path, accept_changes=True))
    assert path == run.adapter / "README.md"
    return ModelCard.load(path)


def encoder_run(folder: Path, **changes: dict[str, Any]) -> RunFolder:
    """Make a run whose card needs no tokenizer."""
    run = make_run(folder, **changes)
    write_json(run.adapter / "adapter_config.json", {"task_type": "SEQ_CLS"})
    return run


def run_snippet(run: RunFolder, base: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Run the Python snippet of the card in the adapter's folder, next to the base model; return its variables."""
    text = card_of(run).text
    snippet = re.search(r"```python\n(.+?)```", text, re.DOTALL)
    assert snippet is not None and str(base) not in text, "a published card must not name local folders"
    monkeypatch.chdir(run.adapter)
    Path(base.name).symlink_to(base)
    names: dict[str, Any] = {}
    exec(snippet.group(1), names)  # noqa: S102
    return names


@pytest.fixture
def run(trained: RunFolder, tmp_path: Path) -> RunFolder:
    shutil.copytree(trained.path, tmp_path / "small")
    run = RunFolder(tmp_path / "small")
    write_evaluation(run, "adapter")
    return run


def test_hugging_face_reads_metadata_and_results(run: RunFolder) -> None:
    metrics = write_evaluation(run, "adapter")
    card = card_of(run)
    data = card.data
    assert (data.base_model, data.language, data.library_name) == ("tiny-llama", "fr", "peft")
    assert data.pipeline_tag == "text-generation" and "lora" in data.tags
    values = {result.metric_name: result.metric_value for result in data.eval_results}
    assert values["Accuracy"] == metrics["accuracy"] and values["Macro F1"] == metrics["macro"]["f1"]
    assert data.eval_results[0].dataset_type == "nli-fr" and data.eval_results[0].dataset_split == "dev"
    again = ModelCard(str(card))
    assert again.data.to_dict() == data.to_dict() and again.text == card.text
    assert f"{100 * metrics['accuracy']:.1f}%" in card.text and f"{metrics['macro']['f1']:.4f}" in card.text


def test_calibrated_scores_are_in_the_table(run: RunFolder) -> None:
    fitted = {"temperatures": [1.21, 1.32], "rows": [45, 45], "nll": 0.4321, "ece": 0.0123, "brier": 0.2222}
    metrics = write_evaluation(run, "adapter", cross_fitted_calibration=fitted)
    write_evaluation(run, "base")
    text = card_of(run).text
    assert f"| {metrics['nll']:.4f} | 0.4321 | {metrics['ece']:.4f} | 0.0123 | constrained |" in text
    (base_row,) = [line for line in text.splitlines() if line.startswith("| base |")]
    assert base_row.split(" | ")[-2] == "–", "an evaluation of an earlier version has no calibrated scores"


@pytest.mark.parametrize("writes_bos", [True, False], ids=["template with BOS", "template without BOS"])
def test_snippet_builds_the_same_prompt(
    run: RunFolder, tiny_model: Path, monkeypatch: pytest.MonkeyPatch, writes_bos: bool
) -> None:
    template = run.adapter / "chat_template.jinja"
    if not writes_bos:
        template.write_text(template.read_text(encoding="utf-8").replace("{{- bos_token }}", ""), encoding="utf-8")
    assert ("bos_token" in template.read_text(encoding="utf-8")) is writes_bos
    names = run_snippet(run, tiny_model, monkeypatch)
    card = card_of(run)
    recipe = load_recipe(run.recipe_file)
    prompt_tokenizer = PromptTokenizer(load_tokenizer(run.adapter), recipe.task, recipe.model.max_seq_length)
    ids, _ = prompt_tokenizer.encode_prompt(example_inputs(NLI_INPUTS))
    assert names["inputs"]["input_ids"][0].tolist() == list(ids)
    assert prompt_tokenizer.decode(ids) in card.text


def test_no_card_before_the_adapter_is_evaluated(tmp_path: Path) -> None:
    run = encoder_run(tmp_path / "run")
    write_evaluation(run, "base")
    write_evaluation(run, "adapter@nli-fr-test")
    assert write_model_card(TrainedRun.open(run.path)) is None and not (run.adapter / "README.md").exists()


def test_model_index_lists_only_the_shipped_adapter(tmp_path: Path) -> None:
    run = encoder_run(tmp_path / "run")
    write_evaluation(run, "adapter")
    lexical_data = {"source": "embedded:nli-fr:test_lexical", "fingerprint": "g"}
    lexical = write_evaluation(
        run, "adapter@nli-fr-test_lexical", 30, 4, data=lexical_data, overrides={"data.eval.split": "test_lexical"}
    )
    for name in ("base", "adapter-free", "adapter@nli-fr-dev-limit6", "adapter@nli-fr-dev"):
        fields = {"mode": "free"} if "free" in name else {"overrides": {"task.system": "x"}}
        write_evaluation(run, name, seed=9, **fields)
    results = card_of(run).data.eval_results
    assert [result.dataset_name for result in results] == ["embedded:nli-fr:dev"] * 4 + [lexical_data["source"]] * 4
    assert results[4].metric_value == lexical["accuracy"] and results[4].dataset_split == "test_lexical"


def test_license_comes_from_the_base_model(tmp_path: Path) -> None:
    base = tmp_path / "base"
    base.mkdir()
    run = encoder_run(tmp_path / "run", model={"name": str(base)})
    write_evaluation(run, "adapter")
    run.update(model={"folder": str(base)})
    assert card_of(run).data.license is None and "its files do not state a license" in card_of(run).text
    (base / "README.md").write_text("---\nlicense: llama3.2\n---\n# Base\n", encoding="utf-8")
    card = card_of(run)
    assert card.data.license == "llama3.2" and "llama3.2, according to its model card" in card.text
    (base / "README.md").write_text("---\nlicense: [\n---\n", encoding="utf-8")
    assert card_of(run).data.license is None


def test_card_keeps_hub_ids_and_hides_folders(tmp_path: Path) -> None:
    rows = {"path": str(tmp_path / "secret" / "rows.jsonl")}
    xnli = {"path": "facebook/xnli", "name": "fr", "split": "test"}
    changes = {"model": {"name": "unsloth/Llama-3.2-1B-Instruct"}, "data": {"train": xnli, "eval": rows}}
    run = encoder_run(tmp_path / "run", **changes)
    write_evaluation(run, "adapter", data={"source": rows["path"], "fingerprint": "f"})
    card = card_of(run)
    assert card.data.base_model == "unsloth/Llama-3.2-1B-Instruct" and card.data.datasets == ["facebook/xnli"]
    assert card.data.eval_results[0].dataset_name == "rows.jsonl"
    assert "secret" not in str(card) and "CC BY-NC 4.0" in card.text


def test_encoder_card_shows_encoder_usage(tmp_path: Path) -> None:
    run = encoder_run(
        tmp_path / "run", task={"labels": ["oui", "non|<b>"], "verbalizers": {"oui": "o", "non|<b>": "n"}}
    )
    write_evaluation(run, "adapter")
    card = card_of(run)
    assert card.data.pipeline_tag == "text-classification"
    assert "apply_chat_template" not in card.text and "*non\\|&lt;b>*" in card.text
    assert "Decoding is constrained" not in card.text and "loss on the label" in card.text


HOSTILE_LICENSE = """---
license: other
license_name: "evil](javascript:alert(1)) <script>alert(1)</script>\\n\\n# Heading\\n\\n---\\nlicense: mit | `x` *b*"
license_link: "javascript:alert(1) <img src=x onerror=alert(1)>"
---
"""


def html_of(card: ModelCard) -> str:
    from markdown_it import MarkdownIt

    return MarkdownIt("commonmark", {"html": True}).enable("table").render(card.text)


@pytest.mark.parametrize(
    "name",
    ["<script>alert(1)</script>", "# a", "a](javascript:alert(1))", "![x](y)", "`a` *b* **c** _d_ ~e~", "a|b", "- a",
     "1. a", "---", ": x", "a: b # c", "'", '"', "{{ 7 * 7 }}", "&lt;b&gt;", "\\", "$x$", "<!--", "```", "[a]: b"],
)  # fmt: skip
def test_names_are_text_in_the_card(tmp_path: Path, name: str) -> None:
    """Run name, label, base, sources and license show as they are: no HTML, link, heading or key of their own."""
    base = tmp_path / f"{name.replace('/', '')}"
    base.mkdir()
    (base / "README.md").write_text(HOSTILE_LICENSE, encoding="utf-8")
    labels = {name: "a", "entailment": "b", "neutral": "c"}
    task = {"labels": [*labels], "verbalizers": labels}
    run = encoder_run(tmp_path / "runs" / name.replace("/", "\u2215"), task=task, model={"name": str(base)})
    run.update(model={"folder": str(base)}, device=name, git_commit=name)
    metrics = write_evaluation(run, "adapter", labels=[*labels], data={"source": name}, warnings=[name])
    per_label = dict(zip(labels, metrics["per_label"].values(), strict=True))
    write_evaluation(run, "adapter", labels=[*labels], per_label=per_label, data={"source": name}, warnings=[name])
    card = card_of(run)
    assert (card.data.license, card.data.license_link) == ("other", "javascript:alert(1) <img src=x onerror=alert(1)>")
    assert card.data.model_name == run.path.name and card.data.eval_results[0].dataset_name == name
    page = Page(html_of(card))
    assert {tag for tag, _ in page.tags} <= {
        "h1", "h2", "p", "code", "pre", "em", "strong", "ul", "li", "table", "thead", "tbody", "tr", "th", "td",
    }  # fmt: skip
    headings = [tag for tag, _ in page.tags if tag in ("h1", "h2")]
    assert headings == ["h1"] + ["h2"] * 5
    text = " ".join(page.text.split())
    for shown in (f"one of 3 labels: {name}, entailment, neutral.", f"Evaluated on {name};", f"commit {name} "):
        assert shown in text
    assert text.startswith(f"{run.path.name} A LoRA adapter and a classification head for {base.name}.")
    assert "evil](javascript:alert(1)) <script>alert(1)</script> # Heading --- license: mit | `x` *b* (java" in text


def test_license_link_is_an_address(tmp_path: Path) -> None:
    base = tmp_path / "base"
    base.mkdir()
    url = "https://example.org/a_b_c?x=(1)&y=*2*"
    (base / "README.md").write_text(f"---\nlicense: other\nlicense_link: {url}\n---\n", encoding="utf-8")
    run = encoder_run(tmp_path / "run", model={"name": str(base)})
    run.update(model={"folder": str(base)})
    write_evaluation(run, "adapter")
    page = Page(html_of(card_of(run)))
    assert [attributes["href"] for tag, attributes in page.tags if tag == "a"] == [url]
    assert f"other ({url}), according to its model card" in page.text


def test_fence_is_longer_than_that_in_a_prompt(run: RunFolder) -> None:
    text = run.recipe_file.read_text(encoding="utf-8")
    hostile = "Compare.\\n````\\n# Heading\\n<script>"
    run.recipe_file.write_text(text.replace("system: Compare.", f'system: "{hostile}"'), encoding="utf-8")
    page = Page(html_of(card_of(run)))
    assert "script" not in {tag for tag, _ in page.tags} and "# Heading\n<script>" in page.text


def test_card_of_many_labels_is_short(tmp_path: Path) -> None:
    labels = {f"label-{i}": f"label-{i}" for i in range(500)}
    run = encoder_run(tmp_path / "run", task={"labels": [*labels], "verbalizers": labels})
    scores = {"precision": 0.5, "recall": 0.5, "f1": 0.5, "support": 1}
    write_evaluation(run, "adapter", labels=[*labels], per_label=dict.fromkeys(labels, scores),
                     confusion_matrix=[[1] * 500] * 500)  # fmt: skip
    text = card_of(run).text
    assert "*label-29* and 470 more." in text and "The table shows the 30 labels with the most errors." in text
    assert text.count("\n| label-") == 30


def test_encoder_snippet_agrees_with_predict(
    call: Any, trained_encoder: RunFolder, tiny_encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunFolder(tmp_path / "encoder")
    shutil.copytree(trained_encoder.path, run.path)
    assert call("eval_generate", run.path)[0] == 0
    pair = ("Un chien dort dans le jardin.", "Un animal dort.")
    predicted = call("predict", run.path, "--premise", pair[0], "--hypothesis", pair[1])[1].splitlines()[0]
    names = run_snippet(run, tiny_encoder, monkeypatch)
    assert names["labels"][names["model"](**names["inputs"]).logits.argmax().item()] == predicted


def test_commands_use_the_relative_run_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for typed in (Path("outputs/my run"), tmp_path / "outputs" / "my run"):
        shutil.rmtree(tmp_path / "outputs", ignore_errors=True)
        run = encoder_run(typed)
        write_evaluation(run, "adapter")
        assert "scripts/predict.py 'outputs/my run' --premise" in card_of(run).text


def test_evaluation_prints_card_and_report_paths(call: Any, run: RunFolder) -> None:
    (run.eval / "adapter" / "metrics.json").unlink()
    code, out, err = call("eval_generate", run.path, "--model", "base")
    assert code == 0, err
    assert f"report      {run.path / 'report.html'}" in out and "model card" not in out
    code, out, _ = call("eval_generate", run.path)
    assert code == 0 and f"model card  {run.adapter / 'README.md'}" in out
    accuracy = json.loads((run.eval / "adapter" / "metrics.json").read_text(encoding="utf-8"))["accuracy"]
    assert ModelCard.load(run.adapter / "README.md").data.eval_results[0].metric_value == accuracy
    assert f'<data value="{accuracy}">' in (run.path / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("keep", "sentence"),
    [
        ("best", "They were used to choose the weights of this model: step 20 has the best NLL, 0.8125"),
        ("last", "They ended training early, and the weights are those of the last step"),
    ],
)
def test_card_reports_how_weights_were_chosen(tmp_path: Path, keep: str, sentence: str) -> None:
    run = encoder_run(tmp_path / "validated", training={"keep": keep}, data={"dev_share": 0.2})
    write_evaluation(run, "adapter")
    last = keep == "last"
    write_validations(run, {10: 1.0, 20: 0.8125, 30: 0.9}, 30 if last else 20, last_step=30, stopped_early=last)
    text = card_of(run).text
    assert (
        "24 dev rows of embedded:nli-fr:train that were not trained on, scored every 10 steps and after the last one"
        in text
    )
    assert sentence in text and "30 optimizer steps" in text
