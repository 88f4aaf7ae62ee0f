"""Report and model card of tasks with one or three inputs name these inputs, and nothing of premise and hypothesis."""

import json
import re
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from tests.evaluation.run_files import HOSTILE, make_run, write_evaluation
from tests.reporting.test_html_report import Page
from toolkit.recipe.loading import load_recipe
from toolkit.reporting.html_report import write_report
from toolkit.reporting.model_card import write_model_card
from toolkit.reporting.report_data import describe_baselines
from toolkit.runs.run_folder import RunFolder
from toolkit.runs.trained_run import TrainedRun
from toolkit.utils.atomic_io import write_json

BASELINES = {"random": 1 / 3, "majority": 0.31, "question_only": 0.4, "context_only": 0.41, "reply_only": 0.42,
             "all_inputs": 0.5}  # fmt: skip


def qa_run(folder: Path, *, user: str = "{question}\n{context}\n{reply}", is_encoder: bool = False) -> RunFolder:
    from toolkit.embedded import MODEL_FOLDER
    from toolkit.prompts.tokenizer import load_tokenizer

    run = make_run(folder, task={"user": user, "truncate": "context" if "context" in user else None})
    if is_encoder:
        write_json(run.adapter / "adapter_config.json", {"task_type": "SEQ_CLS"})
    else:
        load_tokenizer(MODEL_FOLDER).save_pretrained(run.adapter)
    return run


def test_report_shows_every_input(tmp_path: Path) -> None:
    run = qa_run(tmp_path / "run")
    write_evaluation(run, "adapter", baselines=BASELINES, shortened_rows=3)
    run.update(data={**run.record["data"], "overlap": {"question": 4, "context": 2, "reply": 1, "rows": 1}})
    page = Page(write_report(TrainedRun.open(run.path, accept_changes=True)).read_text(encoding="utf-8"))
    text = " ".join(page.text.split())
    for sentence in (
        "Given the inputs question, context and reply, predict one of 3 labels.",
        "chance is 33.3%, the bag-of-words baseline reaches 50.0%",
        "TF-IDF and logistic regression on the context only",
        "TF-IDF and logistic regression on question, context and reply",
        "resamples question texts (90 in adapter), because rows with the same question are not independent",
        "1 rows occur in both the training and the evaluation rows",
        "adapter: the context texts of 3 rows were truncated to fit model.max_seq_length.",
    ):
        assert sentence in text, sentence
    for name in ("question", "context", "reply"):
        assert f"{HOSTILE} {name} " in page.text
    assert "premise" not in text.partition("How to reproduce")[0] and "hypothes" not in text


def test_language_of_other_rows_is_unknown(tmp_path: Path) -> None:
    run = qa_run(tmp_path / "run")
    write_evaluation(run, "adapter")
    page = write_report(TrainedRun.open(run.path)).read_text(encoding="utf-8")
    assert 'lang="fr"' not in page and '<html lang="en">' in page


def test_card_of_three_inputs(tmp_path: Path) -> None:
    run = qa_run(tmp_path / "run")
    write_evaluation(run, "adapter", baselines=BASELINES)
    path = write_model_card(TrainedRun.open(run.path))
    assert path is not None
    card = ModelCard.load(path)
    assert card.data.tags == ["lora", "text-classification"] and card.data.language is None
    assert {result.task_name for result in card.data.eval_results} == {"Text Classification"}
    text = " ".join(card.text.split())
    assert "Given the inputs question, context and reply, it predicts one of 3 labels" in text
    flags = re.findall(r'--text (\w+)="([^"]+)"', text)
    assert [name for name, _ in flags] == ["question", "context", "reply"]
    user = json.dumps("\n".join(value for _, value in flags))
    assert f'{{"role": "user", "content": {user}}}' in text
    assert "In longer rows, context is truncated at the end." in text and "TF-IDF and logistic regression on" in text


@pytest.mark.parametrize(
    ("user", "arguments"),
    [
        ("{text}", ['"Put the text here.",', 'truncation="only_first", max_length=256']),
        ("{target} {text}", ['"Put the target here.", "Put the text here.",', 'truncation="only_first"']),
        ("{question}\n{context}", ['"Put the context here.",', 'truncation="only_second"']),
    ],
)
def test_encoder_snippet_follows_the_inputs(tmp_path: Path, user: str, arguments: list[str]) -> None:
    run = qa_run(tmp_path / "run", user=user, is_encoder=True)
    write_evaluation(run, "adapter")
    path = write_model_card(TrainedRun.open(run.path))
    assert path is not None
    text = path.read_text(encoding="utf-8")
    assert all(argument in text for argument in arguments), text
    assert load_recipe(run.recipe_file).task.truncated_input in text


def test_descriptions_of_pairs_are_unchanged() -> None:
    assert describe_baselines(("premise", "hypothesis")) == {
        "random": "uniform guess",
        "majority": "majority class of the training rows",
        "hypothesis_only": "TF-IDF and logistic regression on the hypothesis only",
        "premise_hypothesis": "TF-IDF and logistic regression on premise and hypothesis",
        "base_zero_shot": "base model, zero-shot",
    }


def test_data_of_several_files_is_listed(tmp_path: Path) -> None:
    files = [str(tmp_path / "secret" / f"{name}.jsonl") for name in "ab"]
    run = make_run(
        tmp_path / "run",
        task={"user": "{text}"},
        data={"train": {"path": files}, "eval": {"path": str(tmp_path / "secret" / "*.csv")}},
    )
    write_json(run.adapter / "adapter_config.json", {"task_type": "SEQ_CLS"})
    run.update(data={"train": {"rows": 9, "source": f"{files[0]}, {files[1]} and 3 more"}})
    write_evaluation(run, "adapter")
    path = write_model_card(TrainedRun.open(run.path))
    assert path is not None
    text = path.read_text(encoding="utf-8")
    assert "9 rows of a.jsonl, b.jsonl and 3 more" in text
    assert "secret" not in text and "data `a.jsonl`" in text and "data `b.jsonl`" in text and "data `*.csv`" in text
