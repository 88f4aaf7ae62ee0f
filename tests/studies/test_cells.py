"""Bad studies are refused before a cell starts, with all mistakes at once and exit code 2."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT
from toolkit.errors import RecipeError, RunError
from toolkit.studies.cells import make_cells
from toolkit.studies.loading import load_study, study_keys
from toolkit.studies.study import run_study
from toolkit.studies.study_folder import StudyFolder

WriteStudy = Callable[..., Path]
Call = Callable[..., tuple[int, str, str]]


@pytest.mark.parametrize("path", sorted((ROOT / "studies").glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_studies_are_valid(path: Path) -> None:
    cells = make_cells(load_study(path))
    assert len({cell.name for cell in cells}) == len(cells) > 1


def test_every_key_is_documented() -> None:
    text = (ROOT / "docs" / "studies.md").read_text(encoding="utf-8")
    table = text.partition("<!-- keys -->\n")[2].partition("<!-- end -->")[0]
    assert table.splitlines()[2:] == [f"| `{key}` | {description} |" for key, description in study_keys()]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"variants": []}, "variants: has 0 values, but needs at least 1"),
        ({"variants": [{"name": "a"}, {"name": "A"}]}, "the name 'A' is not unique"),
        ({"variants": [{"name": ""}]}, "'' is not a valid name"),
        ({"variants": [{"name": "a", "shots": 4}]}, "'a' sets shots, which require model: base"),
        ({"seeds": [1, 1]}, "seeds: 1 occurs twice"),
        ({"seeds": [-1]}, "seeds: -1"),
        ({"seed": [1]}, "seed: not a key of a study; did you mean seeds?"),
        ({"overrides": {"seed": 3}}, "seed is set by the study; write seeds instead"),
        ({"variants": [{"name": "a", "grid": {"data.train_rows": [9]}}]}, "write train_sizes instead"),
        ({"evaluations": {"a": {"mode": "greedy"}}}, "evaluations"),
        ({"recipe": None}, "'LoRA' has no recipe"),
        ({"recipe": "missing.yaml"}, "missing.yaml does not exist"),
        ({"overrides": {"lora.rank": 3}}, "lora.rank: not a key of section lora; did you mean lora.r?"),
        ({"variants": [{"name": "a", "grid": {"lora.r": [8, 0]}}]}, "a, r=0: recipe.yaml: lora.r: 0 cannot be used"),
        ({"overrides": {"data.eval_share": 0.2, "data.eval.split": "train"}}, "Set data.split_seed"),
        (
            {"variants": [{"name": "a"}, {"name": "b", "overrides": {"model.name": "/none"}}]},
            "b-seed1: There is no model",
        ),
        ({"evaluations": {"a": {"data": "none.jsonl"}}}, "none.jsonl"),
        ({"train_sizes": [12, 9999]}, "data.train_rows is 9,999, but only 48 training rows"),
        ({"variants": [{"name": "a", "evaluation_overrides": {"model.size": 3}}]}, "model.size"),
    ],
)
def test_bad_studies_are_refused(
    keys: dict[str, Any], message: str, write_study: WriteStudy, tmp_path: Path, call: Call
) -> None:
    code, _, error = call("study", write_study(**keys), "--output-dir", tmp_path / "out")
    assert code == 2 and message in error and "Traceback" not in error, error
    assert not (tmp_path / "out").exists()


def test_all_bad_variants_are_listed_at_once(write_study: WriteStudy) -> None:
    variants = [{"name": "a", "overrides": {"lora.r": 0}}, {"name": "b"}, {"name": "c", "overrides": {"lora.x": 1}}]
    with pytest.raises(RecipeError) as error:
        make_cells(load_study(write_study(variants=variants)))
    assert [line[:2] for line in str(error.value).splitlines()] == ["a:", "c:"]
    variants = [{"name": name, "overrides": {"model.name": f"/{name}"}} for name in ("d", "e")]
    with pytest.raises(RecipeError) as error:
        run_study(write_study(variants=variants))
    assert [line[:8] for line in str(error.value).splitlines()] == ["d-seed1:", "e-seed1:"]


def test_recipe_instead_of_study_is_explained(recipe_file: Path, call: Call) -> None:
    code, _, error = call("study", recipe_file)
    assert code == 2 and "is a recipe, not a study" in error and "python scripts/sft.py" in error


def test_folder_of_another_study_is_refused(write_study: WriteStudy, tmp_path: Path, in_process: list[str]) -> None:
    out = tmp_path / "out"
    run_study(write_study(seeds=[1]), out)
    with pytest.raises(RunError, match="belongs to the study 'small', not to 'other'"):
        run_study(write_study("other", seeds=[1]), out)
    with pytest.raises(
        RunError, match=r"lora-seed1: the recipe has changed since this run was trained: training\.learning_rate"
    ):
        run_study(write_study(seeds=[1], overrides={"training.learning_rate": 2e-3}), out)
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.txt").write_text("mine")
    with pytest.raises(RunError, match=r"study\.json is missing"):
        run_study(write_study(), foreign)
    assert (foreign / "thesis.txt").read_text() == "mine" and len(list(foreign.iterdir())) == 1


def test_grid_makes_all_combinations(write_study: WriteStudy) -> None:
    grid = {"lora.r": [2, 4], "training.learning_rate": [1e-3, 2e-3]}
    study = load_study(write_study(variants=[{"name": "LoRA", "grid": grid}], seeds=[1]))
    assert [variant.name for variant in study.variants] == [
        f"LoRA, r={r}, learning_rate={rate}" for r in (2, 4) for rate in (0.001, 0.002)
    ]
    cells = make_cells(study)
    assert [(cell.recipe.lora.r, cell.recipe.training.learning_rate) for cell in cells if cell.recipe.lora] == [
        (2, 1e-3), (2, 2e-3), (4, 1e-3), (4, 2e-3)
    ]  # fmt: skip


def test_variants_with_the_same_recipe_share_runs(write_study: WriteStudy) -> None:
    variants = [
        {"name": "LoRA"},
        {"name": "zero-shot", "model": "base"},
        {"name": "4-shot", "model": "base", "shots": 4, "evaluation_overrides": {"model.max_seq_length": 300}},
    ]
    cells = make_cells(load_study(write_study(variants=variants, train_sizes=[12, 24])))
    measured = {cell.name: [measurement.variant for measurement in cell.measurements] for cell in cells}
    assert measured == {
        "lora-n12-seed1": ["LoRA"],
        "lora-n12-seed2": ["LoRA"],
        "lora-n24-seed1": ["LoRA", "zero-shot", "4-shot"],
        "lora-n24-seed2": ["LoRA", "4-shot"],
    }
    assert all(cell.recipe.model.max_seq_length == 256 for cell in cells)


def test_overrides_of_a_variant_win(write_study: WriteStudy) -> None:
    variants = [{"name": "a", "overrides": {"lora.r": 2}}, {"name": "b"}]
    cells = make_cells(load_study(write_study(variants=variants, overrides={"lora.r": 3})), ["lora.r=5"])
    assert [json.loads(cell.recipe.model_dump_json())["lora"]["r"] for cell in cells] == [2, 2, 5, 5]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        # Each of these would give two recipes the same run folder, or count a seed twice.
        ({"variants": [{"name": "a", "grid": {"task.user": ["{premise} {hypothesis}", "{premise}\n\n{hypothesis}"]}}]},
         "would have this name"),
        ({"variants": [{"name": "p", "grid": {"lora.r": [8]}}, {"name": "p, r=8"}]}, "would have this name"),
        ({"variants": [{"name": "lora", "train_sizes": [12]}, {"name": "lora n12", "overrides": {"lora.r": 3}}]},
         "would have this name"),
        ({"variants": [{"name": "a", "grid": {"lora.r": [8, 8]}}]}, "8 occurs twice"),
        ({"variants": [{"name": "majority (baseline)"}]}, "is a reserved name"),
        ({"variants": [{"name": "finalist, r=8"}], "search": {"space": {"lora.r": [8]}}}, "is a reserved name"),
        ({"variants": [{"name": "a", "evaluation_overrides": {"training.batch_size": 4}}]},
         "training.batch_size has no effect on a run that is already trained"),
        ({"variants": [{"name": "a", "model": "base", "shots": 300}]}, "shots 300 needs more than"),
        ({"variants": [{"name": "a"}, {"name": "b", "model": "base", "shots": 300, "seeds": [2]}]},
         "shots 300 needs more than"),  # only in the run of the second seed
        ({"variants": [{"name": "a", "evaluation_overrides": {"data.eval.path": "b.csv"}}]},
         "data.eval.path selects the evaluation rows; set data under evaluations"),
        ({"evaluations": {"a": {"data": "unlabeled.csv"}}}, "label"),
        ({"evaluations": {"a": {"data": "embedded:nli-fr:train"}}}, "occur in both data.train and data.eval"),
        ({"recipe": "a\0b"}, "NUL"),
    ],
)  # fmt: skip
def test_silent_mistakes_are_refused(
    keys: dict[str, Any],
    message: str,
    write_study: WriteStudy,
    tmp_path: Path,
    call: Call,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "unlabeled.csv").write_text("premise,hypothesis\nUn chat dort.,Rien.\n", encoding="utf-8")
    code, _, error = call("study", write_study(**keys), "--output-dir", tmp_path / "out")
    assert code == 2 and message in error and "Traceback" not in error, error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("key", ["seed", "data.train_rows"])
def test_reserved_overrides_are_refused(key: str, write_study: WriteStudy) -> None:
    with pytest.raises(RecipeError, match=f"{key} is set by the study"):
        make_cells(load_study(write_study()), [f"{key}=9"])


def test_long_names_become_short_folders(write_study: WriteStudy) -> None:
    cells = make_cells(load_study(write_study(variants=[{"name": "a", "grid": {"task.system": ["x" * 300, "y"]}}])))
    assert all(len(cell.name.encode()) < 100 for cell in cells) and len({cell.name for cell in cells}) == 4


def test_damaged_state_is_reported_before_the_start(write_study: WriteStudy, tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path / "out")
    folder.create("small")
    for text in ('{"evaluations": null}', '{"seconds": "x"}', "{", '{"status": "done"}'):
        (folder.cells / "lora-seed2.json").write_text(text, encoding="utf-8")
        with pytest.raises(RunError, match=r"lora-seed2\.json is damaged"):
            run_study(write_study(), folder.path)


def test_folder_without_subfolders_is_continued(write_study: WriteStudy, tmp_path: Path) -> None:
    """A process that was killed right after its first file leaves a folder that the same command accepts."""
    folder = StudyFolder(tmp_path / "out")
    folder.create("small")
    for subfolder in (folder.runs, folder.cells, folder.logs):
        subfolder.rmdir()
    folder.check("small", make_cells(load_study(write_study())))
