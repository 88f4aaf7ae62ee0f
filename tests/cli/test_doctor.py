"""The doctor reports what works, what is missing and what a mismatch means, even if packages are broken."""

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
    """Fake versions by package; None makes a package look missing."""
    faked: dict[str, str | None] = {}

    def version(name: str) -> str:
        if name not in faked:
            return importlib.metadata.version(name)
        if faked[name] is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return str(faked[name])

    monkeypatch.setattr(doctor, "version", version)
    return faked


def test_tested_versions_have_no_problems(capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor.main() == 0
    out = capsys.readouterr().out
    for word in (
        "device ",
        "precision ",
        "memory ",
        "disk ",
        "trl              1.15.0            tested",
        "No problems found.",
    ):
        assert word in out
    assert len(doctor.tested_versions()) > 60


def test_version_out_of_range_is_a_problem(versions: dict[str, str | None]) -> None:
    versions["trl"] = "1.16.0"
    (problem,) = doctor.examine().problems
    assert problem.startswith("trl 1.16.0 is outside >=1.15,<1.16: Unsloth patches its source code")
    assert problem.endswith("pip install trl==1.15.0")


@pytest.mark.parametrize(
    ("name", "version", "expected"),
    [
        (
            "peft",
            "0.21.9",
            "0.21.9            differs from the tested 0.21.2: Unsloth patches its source code, so training may",
        ),
        ("scikit-learn", "1.9.9", "1.9.9             differs from the tested 1.9.1: code that uses it may fail"),
    ],
)
def test_untested_version_is_not_a_problem(
    versions: dict[str, str | None], name: str, version: str, expected: str
) -> None:
    versions[name] = version
    diagnosis = doctor.examine()
    assert not diagnosis.problems
    assert any(line.split()[0] == name and expected in line for line in diagnosis.lines)


def test_missing_package_is_a_problem(versions: dict[str, str | None]) -> None:
    versions["unsloth"] = None
    (problem,) = doctor.examine().problems
    assert problem.startswith("unsloth is not installed: training") and "unsloth==2026.10.9" in problem


def test_half_removed_packages_are_problems(versions: dict[str, str | None], monkeypatch: pytest.MonkeyPatch) -> None:
    versions["gguf"] = ""
    monkeypatch.setattr(doctor, "find_spec", lambda name: None if name == "sklearn" else object())
    problems = doctor.examine().problems
    assert [problem.split(":")[0] for problem in problems] == [
        "scikit-learn 1.9.1 is installed, but its module cannot be found",
        "gguf is not installed",
    ]


@pytest.mark.parametrize("broken", ["torch", "psutil", "packaging"])
def test_import_errors_do_not_stop_the_doctor(broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    original = builtins.__import__

    def refuse(name: str, *rest: Any, **more: Any) -> Any:
        if name.split(".")[0] == broken:
            raise OSError("libcudart.so.13: cannot open shared object file")
        return original(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", refuse)
    diagnosis = doctor.examine()
    assert any("tested" in line for line in diagnosis.lines)
    assert [problem.split(" ")[0] for problem in diagnosis.problems] == (["torch"] if broken == "torch" else [])


def test_ranges_come_from_metadata_without_a_checkout(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(doctor, "_ROOT", tmp_path)
    diagnosis = doctor.examine()
    assert not diagnosis.problems
    assert any(line.split()[:3] == ["trl", "1.15.0", "tested"] for line in diagnosis.lines)


def test_precision_is_that_of_training(make_recipe: Callable[..., Recipe]) -> None:
    from toolkit.embedded import MODEL_FOLDER
    from toolkit.models.loading import resolve_precision

    precision = resolve_precision(make_recipe("model.dtype=auto"), MODEL_FOLDER)
    assert f"precision   {precision.name} if model.dtype is auto: {precision.reason}" in doctor.examine().lines


def test_doctor_imports_no_training_packages() -> None:
    code = (
        "import sys, toolkit.cli.doctor; toolkit.cli.doctor.main(); "
        "print({'unsloth', 'transformers', 'trl', 'peft', 'datasets'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.endswith("set()\n")
    assert subprocess.run([sys.executable, "-m", "toolkit"], cwd=ROOT, capture_output=True).returncode == 0
