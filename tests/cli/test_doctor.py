"""The doctor tells what is there, what is not, and what a mismatch means; nothing missing or broken stops it."""

import builtins
import importlib.metadata
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT
from toolkit.cli import doctor
from toolkit.recipe.schema import Recipe


@pytest.fixture
def versions(monkeypatch: pytest.MonkeyPatch) -> dict[str, str | None]:
    """Versions that packages claim to have, where they are not the installed ones; None where one is missing."""
    faked: dict[str, str | None] = {}

    def version(name: str) -> str:
        if name not in faked:
            return importlib.metadata.version(name)
        if faked[name] is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return str(faked[name])

    monkeypatch.setattr(doctor, "version", version)
    return faked


def test_the_tested_set_is_the_installed_one_and_all_is_well(capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor.main() == 0
    out = capsys.readouterr().out
    for word in (
        "device ",
        "precision ",
        "memory ",
        "disk ",
        "trl              1.15.0            tested",
        "All is well.",
    ):
        assert word in out
    assert len(doctor.tested_versions()) > 60


def test_a_package_outside_its_window_is_a_problem_that_says_what_it_means(versions: dict[str, str | None]) -> None:
    versions["trl"] = "1.16.0"
    (problem,) = doctor.examine().problems
    assert problem.startswith("trl 1.16.0 is outside >=1.15,<1.16: Unsloth patches it")
    assert problem.endswith("pip install trl==1.15.0")


@pytest.mark.parametrize(
    ("name", "version", "told"),
    [
        (
            "peft",
            "0.21.9",
            "0.21.9            not the tested 0.21.2: Unsloth patches it by its source, so training may",
        ),
        ("scikit-learn", "1.9.9", "1.9.9             not the tested 1.9.1: what uses it may fail"),
    ],
)
def test_an_untested_version_within_its_window_is_no_problem_and_what_it_means_is_told(
    versions: dict[str, str | None], name: str, version: str, told: str
) -> None:
    versions[name] = version
    found = doctor.examine()
    assert not found.problems and any(line.split()[0] == name and told in line for line in found.lines)


def test_a_missing_package_is_a_problem_with_its_remedy(versions: dict[str, str | None]) -> None:
    versions["unsloth"] = None
    (problem,) = doctor.examine().problems
    assert problem.startswith("unsloth is not installed: training") and "unsloth==2026.10.9" in problem


def test_a_package_without_its_module_and_one_without_a_version_are_problems(
    versions: dict[str, str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    versions["gguf"] = ""
    monkeypatch.setattr(doctor, "find_spec", lambda name: None if name == "sklearn" else object())
    problems = doctor.examine().problems
    assert [problem.split(":")[0] for problem in problems] == [
        "scikit-learn 1.9.1 is installed, but its module is not there",
        "gguf is not installed",
    ]


@pytest.mark.parametrize("broken", ["torch", "psutil", "packaging"])
def test_what_cannot_be_imported_stops_nothing(broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    original = builtins.__import__

    def refuse(name: str, *rest: Any, **more: Any) -> Any:
        if name.split(".")[0] == broken:
            raise OSError("libcudart.so.13: cannot open shared object file")
        return original(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", refuse)
    found = doctor.examine()
    assert any("tested" in line for line in found.lines)
    assert [problem.split(" ")[0] for problem in found.problems] == (["torch"] if broken == "torch" else [])


def test_without_a_checkout_the_windows_come_from_the_installed_metadata(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(doctor, "_ROOT", tmp_path)
    found = doctor.examine()
    assert not found.problems and any(line.split()[:3] == ["trl", "1.15.0", "tested"] for line in found.lines)


def test_it_promises_the_precision_that_training_takes(make_recipe: Callable[..., Recipe]) -> None:
    from toolkit.models.loading import precision_for

    precision = precision_for(make_recipe("model.dtype=auto"))
    assert f"precision   {precision.name} where model.dtype is auto: {precision.reason}" in doctor.examine().lines


def test_the_command_imports_none_of_the_training_packages() -> None:
    code = (
        "import sys, toolkit.cli.doctor; toolkit.cli.doctor.main(); "
        "print({'unsloth', 'transformers', 'trl', 'peft', 'datasets'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.endswith("set()\n")
    assert subprocess.run([sys.executable, "-m", "toolkit"], cwd=ROOT, capture_output=True).returncode == 0
