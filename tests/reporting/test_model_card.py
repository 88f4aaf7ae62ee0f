"""adapter/README.md: what Hugging Face's own loader reads from it, and that its snippet asks as the toolkit does."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from tests.evaluation.run_files import make_run, write_evaluation
from toolkit.prompts.encoder import PromptEncoder
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
    """A run whose card needs no tokenizer."""
    run = make_run(folder, **changes)
    write_json(run.adapter / "adapter_config.json", {"task_type": "SEQ_CLS"})
    return run


def run_snippet(run: RunFolder, base: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Run the card's Python where it says it runs, its base model in the folder that it names; its variables."""
    text = card_of(run).text
    snippet = re.search(r"```python\n(.+?)```", text, re.DOTALL)
    assert snippet is not None and str(base) not in text, "no folder of this machine"
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


def test_hugging_faces_loader_reads_head_and_numbers_and_writes_them_back(run: RunFolder) -> None:
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
    assert f"{100 * metrics['accuracy']:.1f} %" in card.text and f"{metrics['macro']['f1']:.4f}" in card.text


@pytest.mark.parametrize("writes_bos", [True, False], ids=["template with BOS", "template without BOS"])
def test_the_snippet_runs_and_its_prompt_is_that_of_the_toolkit(
    run: RunFolder, tiny_model: Path, monkeypatch: pytest.MonkeyPatch, writes_bos: bool
) -> None:
    template = run.adapter / "chat_template.jinja"
    if not writes_bos:
        template.write_text(template.read_text(encoding="utf-8").replace("{{- bos_token }}", ""), encoding="utf-8")
    assert ("bos_token" in template.read_text(encoding="utf-8")) is writes_bos
    names = run_snippet(run, tiny_model, monkeypatch)
    card = card_of(run)
    recipe = load_recipe(run.recipe_file)
    encoder = PromptEncoder(load_tokenizer(run.adapter), recipe.task, recipe.model.max_seq_length)
    ids, _ = encoder.prompt("Un chien dort dans le jardin.", "Un animal dort.")
    assert names["inputs"]["input_ids"][0].tolist() == list(ids)
    assert encoder.decode(ids) in card.text


def test_there_is_no_card_before_the_adapter_was_measured_on_the_runs_own_rows(tmp_path: Path) -> None:
    run = encoder_run(tmp_path / "run")
    write_evaluation(run, "base")
    write_evaluation(run, "adapter@nli-fr-test")
    assert write_model_card(TrainedRun.open(run.path)) is None and not (run.adapter / "README.md").exists()


def test_the_model_index_holds_the_adapter_as_shipped_and_nothing_else(tmp_path: Path) -> None:
    run = encoder_run(tmp_path / "run")
    write_evaluation(run, "adapter")
    other = {"source": "embedded:nli-fr:test_lexical", "fingerprint": "g"}
    lexical = write_evaluation(
        run, "adapter@nli-fr-test_lexical", 30, 4, data=other, overrides={"data.eval.split": "test_lexical"}
    )
    for name in ("base", "adapter-free", "adapter@nli-fr-dev-limit6", "adapter@nli-fr-dev"):
        fields = {"mode": "free"} if "free" in name else {"overrides": {"task.system": "x"}}
        write_evaluation(run, name, seed=9, **fields)
    results = card_of(run).data.eval_results
    assert [result.dataset_name for result in results] == ["embedded:nli-fr:dev"] * 4 + [other["source"]] * 4
    assert results[4].metric_value == lexical["accuracy"] and results[4].dataset_split == "test_lexical"


def test_the_licence_is_the_base_models_own_or_none(tmp_path: Path) -> None:
    base = tmp_path / "base"
    base.mkdir()
    run = encoder_run(tmp_path / "run", model={"name": str(base)})
    write_evaluation(run, "adapter")
    run.update(model={"folder": str(base)})
    assert card_of(run).data.license is None and "not stated in its files" in card_of(run).text
    (base / "README.md").write_text("---\nlicense: llama3.2\n---\n# Base\n", encoding="utf-8")
    card = card_of(run)
    assert card.data.license == "llama3.2" and "llama3.2, by its own card" in card.text
    (base / "README.md").write_text("---\nlicense: [\n---\n", encoding="utf-8")
    assert card_of(run).data.license is None


def test_hub_names_are_kept_and_folders_of_this_machine_do_not_leave_it(tmp_path: Path) -> None:
    rows = {"path": str(tmp_path / "secret" / "rows.jsonl")}
    xnli = {"path": "facebook/xnli", "name": "fr", "split": "test"}
    changes = {"model": {"name": "unsloth/Llama-3.2-1B-Instruct"}, "data": {"train": xnli, "eval": rows}}
    run = encoder_run(tmp_path / "run", **changes)
    write_evaluation(run, "adapter", data={"source": rows["path"], "fingerprint": "f"})
    card = card_of(run)
    assert card.data.base_model == "unsloth/Llama-3.2-1B-Instruct" and card.data.datasets == ["facebook/xnli"]
    assert card.data.eval_results[0].dataset_name == "rows.jsonl"
    assert "secret" not in str(card) and "CC BY-NC 4.0" in card.text


def test_an_encoders_card_shows_how_to_call_an_encoder(tmp_path: Path) -> None:
    run = encoder_run(
        tmp_path / "run", task={"labels": ["oui", "non|<b>"], "verbalizers": {"oui": "o", "non|<b>": "n"}}
    )
    write_evaluation(run, "adapter")
    card = card_of(run)
    assert card.data.pipeline_tag == "text-classification"
    assert "apply_chat_template" not in card.text and "*non\\|&lt;b>*" in card.text
    assert "under constraint" not in card.text and "loss on the label" in card.text


def test_an_encoders_snippet_says_what_its_evaluation_said(
    call: Any, trained_encoder: RunFolder, tiny_encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunFolder(tmp_path / "encoder")
    shutil.copytree(trained_encoder.path, run.path)
    assert call("eval_generate", run.path)[0] == 0
    pair = ("Un chien dort dans le jardin.", "Un animal dort.")
    said = call("predict", run.path, "--premise", pair[0], "--hypothesis", pair[1])[1].splitlines()[0]
    names = run_snippet(run, tiny_encoder, monkeypatch)
    assert names["labels"][names["model"](**names["inputs"]).logits.argmax().item()] == said


def test_commands_of_the_card_name_the_run_as_a_user_types_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for typed in (Path("outputs/my run"), tmp_path / "outputs" / "my run"):
        shutil.rmtree(tmp_path / "outputs", ignore_errors=True)
        run = encoder_run(typed)
        write_evaluation(run, "adapter")
        assert "scripts/predict.py 'outputs/my run' --premise" in card_of(run).text


def test_evaluating_prints_where_card_and_report_are(call: Any, run: RunFolder) -> None:
    (run.eval / "adapter" / "metrics.json").unlink()
    code, out, err = call("eval_generate", run.path, "--model", "base")
    assert code == 0, err
    assert f"report      {run.path / 'report.html'}" in out and "model card" not in out
    code, out, _ = call("eval_generate", run.path)
    assert code == 0 and f"model card  {run.adapter / 'README.md'}" in out
    accuracy = json.loads((run.eval / "adapter" / "metrics.json").read_text(encoding="utf-8"))["accuracy"]
    assert ModelCard.load(run.adapter / "README.md").data.eval_results[0].metric_value == accuracy
    assert f'<data value="{accuracy}">' in (run.path / "report.html").read_text(encoding="utf-8")
