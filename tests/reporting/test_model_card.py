"""adapter/README.md: Hugging Face's loader reads it, and its snippet builds the same prompt as the toolkit."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from tests.evaluation.run_files import make_run, write_evaluation
from toolkit.prompts.prompt_tokenizer import PromptTokenizer
from toolkit.prompts.tokenizer import load_tokenizer
from toolkit.recipe.loading import load_recipe
from toolkit.reporting.model_card import write_model_card
from toolkit.runs.run_folder import RunFolder
from toolkit.runs.trained_run import TrainedRun
from toolkit.utils.atomic_io import write_json


def card_of(run: RunFolder) -> ModelCard:
    path = write_model_card(TrainedRun.open(run.path))
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
    ids, _ = prompt_tokenizer.encode_prompt("Un chien dort dans le jardin.", "Un animal dort.")
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
