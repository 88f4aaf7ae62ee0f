"""Grouping and reports of tasks with other inputs: which rows are adjacent, and the words for what was counted."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from toolkit.batching.collators import TreeCollator
from toolkit.batching.sampling import RowOrder
from toolkit.errors import RunError
from toolkit.planning.batching import Verification
from toolkit.planning.job import TrainingJob
from toolkit.planning.plan import plan_job
from toolkit.planning.preflight import run_preflight
from toolkit.planning.row_report import format_counts
from toolkit.recipe.schema import Recipe

MakeRecipe = Callable[..., Recipe]
MakeJob = Callable[..., TrainingJob]
LABELS = [f"label_{i}" for i in range(3)]
INSTRUCTION = "Lis le texte et donne son étiquette, sans autre mot. " * 3


@pytest.fixture
def make_job(make_recipe: MakeRecipe, tmp_path: Path) -> MakeJob:
    """A function that plans training on rows with the placeholders of `user`; every text of each input occurs twice."""

    def plan(user: str, *overrides: str) -> TrainingJob:
        for split, start in (("train", 0), ("eval", 100)):
            rows = [
                {
                    **{
                        name: f"{name} {start + (i * factor) % 12}"
                        for name, factor in zip("abc", (1, 5, 7), strict=True)
                    },
                    "label": LABELS[i % 3],
                }
                for i in range(24)
            ]
            lines = "".join(json.dumps(row) + "\n" for row in rows)
            (tmp_path / f"{split}.jsonl").write_text(lines, encoding="utf-8")
        sources = f"train: {{path: {tmp_path / 'train.jsonl'}}}, eval: {{path: {tmp_path / 'eval.jsonl'}}}"
        recipe = make_recipe(
            f"task={{labels: {LABELS}, system: '{INSTRUCTION}', user: '{user}'}}", f"data={{{sources}}}",
            "evaluation.slice_by=[]", *overrides,
        )  # fmt: skip
        return plan_job(run_preflight(recipe))

    return plan


def groups(job: TrainingJob, *names: str) -> list[tuple[str, ...]]:
    """Return the texts of these inputs in the order in which the rows are trained on."""
    rows = job.preflight.splits.train
    return [tuple(rows[i].inputs[name] for name in names) for i in job.row_order()]


def is_grouped(texts: list[tuple[str, ...]]) -> bool:
    return all(texts[i] == texts[i + 1] for i in range(0, len(texts), 2))


def test_auto_groups_trees_by_the_first_input(make_job: MakeJob) -> None:
    job = make_job("{b} {a} {c}")
    assert job.plan.is_tree and job.plan.group_by == ("b",) and is_grouped(groups(job, "b"))
    assert "grouped by b" in str(job.plan)
    padded = make_job("{b} {a} {c}", "training.batching=padded")
    assert padded.plan.group_by == () and not is_grouped(groups(padded, "b")) and "shuffled" in str(padded.plan)


def test_listed_inputs_are_grouped_by(make_job: MakeJob) -> None:
    job = make_job("{a} {b} {c}", "training.group_by=[c]", "training.batching=padded")
    assert job.plan.group_by == ("c",) and is_grouped(groups(job, "c"))
    job = make_job("{a} {b} {c}", "training.group_by=[c, a]")
    assert is_grouped(groups(job, "a", "c")) and "grouped by c and a" in str(job.plan)
    assert make_job("{a} {b}", "training.group_by=none").plan.group_by == ()


def test_single_text_trains_in_trees(make_job: MakeJob) -> None:
    """Rows share the instruction, although no two of them share a text."""
    job = make_job("{a}")
    assert job.plan.is_tree and job.plan.batching.token_ratio is not None and job.plan.batching.token_ratio > 2
    assert f"a ratio of {job.plan.batching.token_ratio:.2f}" in str(job.plan)


def test_order_of_premises_is_unchanged(make_recipe: MakeRecipe) -> None:
    """The order is that of earlier versions, which grouped by the text of the premise."""
    for value in ("group_by=auto", "group_by=[premise]", "group_by_premise=true"):
        job = plan_job(run_preflight(make_recipe(f"training.{value}", "training.batching=prefix_tree")))
        premises = [row.inputs["premise"] for row in job.preflight.splits.train]
        assert list(job.row_order()) == list(RowOrder(premises, seed=42, grouping=True))
        assert list(job.row_order())[:6] == [9, 10, 11, 44, 43, 42]


def test_failed_verification_resolves_grouping_again(make_job: MakeJob) -> None:
    failed = Verification(1.0, 1.0, 0.1)
    for overrides, expected in (((), ()), (("training.group_by=[b]",), ("b",))):
        job = make_job("{a} {b}", *overrides).with_verification(failed, "dense")
        assert not job.plan.is_tree and job.plan.group_by == expected


def test_recorded_plan_keeps_its_grouping(make_job: MakeJob) -> None:
    job = make_job("{a} {b}", "training.group_by=[b]")
    record = json.loads(json.dumps(job.plan.record(job.recipe)))
    assert record["group_by"] == ["b"] and "group_by_premise" not in record
    assert job.plan.as_recorded(record, job.recipe) == job.plan
    for damaged in (["z"], "text", None, [["b"]]):
        with pytest.raises(RunError, match=r"training plan in run\.json is damaged"):
            job.plan.as_recorded({**record, "group_by": damaged}, job.recipe)


def test_plan_has_the_verified_attention(make_job: MakeJob) -> None:
    job = make_job("{a} {b}")
    assert job.plan.tree_attention == "split" and job.plan.allowed_attentions == ("split", "dense")
    for attention, allowed in (("split", ("split", "dense")), ("dense", ("dense",))):
        plan = job.with_verification(Verification(0.0, 0.0, 0.1), attention).plan
        assert plan.is_tree and plan.tree_attention == attention and plan.allowed_attentions == allowed
        assert plan.record(job.recipe)["tree_attention"] == attention
        collator = plan.collator(job.recipe, ("cpu", 4))
        assert isinstance(collator, TreeCollator) and collator.attention == attention


@pytest.mark.parametrize(("batching", "multiple"), [("prefix_tree", 32), ("padded", 8)])
def test_few_lengths_on_a_cpu_in_16_bits(make_job: MakeJob, batching: str, multiple: int) -> None:
    """OneDNN compiles and keeps a kernel for each length."""
    job = make_job("{a} {b}", f"training.batching={batching}")
    rows = job.first_batches(4)
    for device_and_dtype_bytes, expected in ((("cpu", 2), multiple), (("cpu", 4), 1)):
        collate = job.plan.collator(job.recipe, device_and_dtype_bytes)
        sizes = [batch["input_ids"].shape[1] for step in rows for batch in collate(step)["micro_batches"]]
        assert all(size % expected == 0 for size in sizes)
        assert expected > 1 or any(size % multiple for size in sizes)
    assert job.device_and_dtype_bytes == ("cpu", job.preflight.precision.dtype.itemsize)


def test_recorded_plan_keeps_its_attention(make_job: MakeJob) -> None:
    """Runs of earlier versions recorded none and used dense attention."""
    job = make_job("{a} {b}")
    record = json.loads(json.dumps(job.plan.record(job.recipe)))
    for recorded, expected in (("split", "split"), ("dense", "dense")):
        assert job.plan.as_recorded({**record, "tree_attention": recorded}, job.recipe).tree_attention == expected
    del record["tree_attention"]
    assert job.plan.as_recorded(record, job.recipe).tree_attention == "dense"
    for damaged in ("other", None, 1, ["split"]):
        with pytest.raises(RunError, match=r"training plan in run\.json is damaged"):
            job.plan.as_recorded({**record, "tree_attention": damaged}, job.recipe)


@pytest.mark.parametrize("grouped", [True, False])
def test_older_records_have_only_group_by_premise(make_recipe: MakeRecipe, grouped: bool) -> None:
    job = plan_job(run_preflight(make_recipe("training.batching=prefix_tree")))
    record: dict[str, Any] = job.plan.record(job.recipe)
    assert record["group_by_premise"] is True and record.pop("group_by") == ["premise"]
    plan = job.plan.as_recorded({**record, "group_by_premise": grouped}, job.recipe)
    assert plan.group_by == (("premise",) if grouped else ())


def test_report_uses_the_names_of_the_inputs(make_job: MakeJob) -> None:
    job = make_job("{a} {b}")
    assert "overlap     0 a texts, 0 b texts, 0 rows" in job.preflight.report()
    assert "duplicates  12 training rows repeat an earlier one (ignoring case and" in job.preflight.report()
    assert "overlap     0 rows\n" in make_job("{a}").preflight.report()
    shorter = job.preflight.longest_row - 1
    report = make_job("{a} {b}", "task.truncate=b", f"model.max_seq_length={shorter}").preflight.report()
    assert "truncated   the b texts of" in report and f"model.max_seq_length {shorter}" in report


def test_many_labels_are_counted_briefly() -> None:
    counts = {f"label_{i}": i + 1 for i in range(77)}
    assert format_counts(counts) == "3,003 rows of 77 labels: from 1 label_0 to 77 label_76"
    assert format_counts({"a": 1, "b": 2}) == "3 rows: 1 a, 2 b"
