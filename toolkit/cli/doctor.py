"""The doctor: a check of this machine and of the installed packages against the versions that the tests pass with.

Package versions are read from metadata, so that the check works and is quick even if a package is broken or missing.
"""

import os
import platform
import re
import shutil
import tomllib
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from pathlib import Path

import toolkit
from toolkit.utils.formatting import format_bytes
from toolkit.utils.terminal import prepare_output

_ROOT = Path(toolkit.__file__).resolve().parent.parent
# Packages whose import name differs from the package name.
_MODULES = {"scikit-learn": "sklearn", "pyyaml": "yaml"}
_PATCHED = "Unsloth patches its source code, so training may fail on import or silently behave differently"
_CONSEQUENCES = {
    "torch": "Unsloth and bitsandbytes are built for specific releases of torch, so training may fail on import",
    "unsloth": "training and loading models need it",
    "unsloth_zoo": "it must have the same version as unsloth",
    "trl": _PATCHED,
    "transformers": _PATCHED,
    "peft": _PATCHED,
    "accelerate": "the trainer is built on it",
    "bitsandbytes": "4-bit loading and adamw_8bit need it",
    "datasets": "data from the Hub may not load, and older versions run loading scripts",
    "gguf": "exported files may differ",
    "xllamacpp": "GGUF files may not load or may score differently",
    "tokenizers": "texts may be tokenized differently",
    "safetensors": "weights may not load",
}
"""Effects of a wrong or missing version, by package."""
_DEFAULT_CONSEQUENCE = "code that uses it may fail or give different results"
_UNTESTED_PREFIX = "differs from the tested"
"""The beginning of a remark on a supported version that the tests did not run with; such a version is not a problem."""


@dataclass
class Diagnosis:
    """The lines to print, and the problems found."""

    lines: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def add(self, name: str, text: str) -> None:
        """Add a line to the report."""
        self.lines.append(f"{name:<12}{text}")

    def __str__(self) -> str:
        end = [f"PROBLEM     {problem}" for problem in self.problems] or ["No problems found."]
        return "\n".join([*self.lines, "", *end])


def examine() -> Diagnosis:
    """Check the machine and all packages."""
    diagnosis = Diagnosis()
    diagnosis.add("toolkit", f"{toolkit.__version__} in {_ROOT}")
    diagnosis.add("python", f"{platform.python_version()}, {platform.system()} {platform.machine()}")
    _examine_device(diagnosis)
    _examine_space(diagnosis)
    _examine_packages(diagnosis)
    _examine_engines(diagnosis)
    return diagnosis


def _examine_device(diagnosis: Diagnosis) -> None:
    """Report device and precision; importing torch may raise anything, and that is a problem to report."""
    try:
        import torch

        from toolkit.models.precision import choose_precision, cpu_has_bfloat16_units

        device = "cuda" if torch.cuda.is_available() else "cpu"
        name = torch.cuda.get_device_name(0) if device == "cuda" else f"CPU, {os.cpu_count()} cores"
        # The answer that Unsloth would give, without importing it. On a CPU, `auto` takes bfloat16 only if instructions
        # multiply it, so only Unsloth's switch to disable it remains to be checked.
        has_bfloat16 = torch.cuda.get_device_capability()[0] >= 8 if device == "cuda" else _is_bfloat16_allowed()
        units = cpu_has_bfloat16_units()
        precision = choose_precision("auto", device, has_bfloat16=has_bfloat16, has_bfloat16_units=units)
    except Exception as error:
        diagnosis.add("device", "unknown")
        diagnosis.problems.append(
            f"torch does not work ({type(error).__name__}: {str(error)[:200]}): only GGUF files can be scored; "
            "reinstall it with: make install"
        )
        return
    diagnosis.add("device", name)
    diagnosis.add("precision", f"{precision.name} if model.dtype is auto: {precision.reason}")


def _is_bfloat16_allowed() -> bool:
    """Return False if the environment variable of Unsloth disables bfloat16 on CPUs."""
    return os.environ.get("UNSLOTH_CPU_BF16", "").strip().lower() not in ("0", "false", "no", "off")


def _examine_space(diagnosis: Diagnosis) -> None:
    try:
        import psutil

        memory = psutil.virtual_memory()
        diagnosis.add("memory", f"{format_bytes(memory.total)}, {format_bytes(memory.available)} free")
    except Exception as error:
        diagnosis.add("memory", f"unknown ({type(error).__name__})")
    disk = shutil.disk_usage(Path.cwd())
    diagnosis.add("disk", f"{format_bytes(disk.free)} free in {Path.cwd()}")


def tested_versions() -> dict[str, str]:
    """Return the versions that the tests pass with, from requirements/; empty outside a checkout."""
    pins = {}
    for name in ("base", "torch", "unsloth"):
        file = _ROOT / "requirements" / f"{name}.txt"
        for line in file.read_text(encoding="utf-8").splitlines() if file.is_file() else []:
            if pin := re.match(r"([\w.-]+)==([\w.+!-]+)", line):
                pins[_normalize_name(pin[1])] = pin[2]
    return pins


def _requirements() -> tuple[list[str], str]:
    """Return the toolkit's dependencies with their version ranges, and the range of Python versions."""
    pyproject = _ROOT / "pyproject.toml"
    if pyproject.is_file():
        # A pyproject.toml above an installed package can belong to another project.
        project = tomllib.loads(pyproject.read_text(encoding="utf-8")).get("project", {})
        if project.get("name") == "toolkit":
            return project["dependencies"], project["requires-python"]
    try:
        return [requirement for requirement in requires("toolkit") or [] if "extra ==" not in requirement], ""
    except PackageNotFoundError:
        return [], ""


def _normalize_name(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _examine_packages(diagnosis: Diagnosis) -> None:
    requirements, python_specifier = _requirements()
    if not requirements:
        diagnosis.problems.append(
            "the metadata of toolkit is missing, so package versions were not checked: pip install -e ."
        )
    if python_specifier and not _satisfies(platform.python_version(), python_specifier):
        diagnosis.problems.append(
            f"Python {platform.python_version()} is outside {python_specifier}: create .venv with a supported version."
        )
    pins = tested_versions()
    for requirement in requirements:
        name, specifier = re.match(r"([\w.-]+)\s*([^;]*)", requirement).groups()  # type: ignore[union-attr]
        tested, installed = pins.get(_normalize_name(name)), _installed_version(name)
        remark = _remark(name, specifier.strip(), installed, tested)
        is_problem = bool(remark) and not remark.startswith(_UNTESTED_PREFIX)
        status = (remark.partition(":")[0] if is_problem else remark) or "tested"
        diagnosis.add(
            "packages" if requirement is requirements[0] else "", f"{name:<17}{installed or 'missing':<18}{status}"
        )
        if is_problem:
            diagnosis.problems.append(f"{name} {installed or ''} {remark}".replace("  ", " "))


def _installed_version(name: str) -> str | None:
    try:
        return version(name) or None
    except Exception:  # the metadata of a half-removed package can fail in many ways
        return None


def _remark(name: str, specifier: str, installed: str | None, tested: str | None) -> str:
    """Return what is wrong with a package, the consequence and the remedy; empty for the tested version."""
    consequence = _CONSEQUENCES.get(name, _DEFAULT_CONSEQUENCE)
    remedy = f"pip install {name}=={tested}" if tested else f"pip install '{name}{specifier}'"
    if installed is None:
        return f"is not installed: {consequence}; {remedy}"
    if not _is_importable(name):
        return f"is installed, but its module cannot be found: {consequence}; {remedy}"
    if not _satisfies(installed, specifier):
        return f"is outside {specifier}: {consequence}; {remedy}"
    if tested and installed.partition("+")[0] != tested:  # torch adds its build, such as 2.13.0+cpu
        return f"{_UNTESTED_PREFIX} {tested}: {consequence}"
    return ""


def _is_importable(name: str) -> bool:
    try:
        return find_spec(_MODULES.get(name, name)) is not None
    except (ImportError, ValueError):
        return False


def _satisfies(installed: str, specifier: str) -> bool:
    """Return True if a version is within a range such as `>=1.15,<1.16`, or if that cannot be determined."""
    try:
        from packaging.specifiers import SpecifierSet

        # Without prereleases=True, a release candidate is outside of every range.
        return SpecifierSet(specifier).contains(installed, prereleases=True)
    except Exception:
        return True


def _examine_engines(diagnosis: Diagnosis) -> None:
    """Report the programs for GGUF files, which training does not need."""
    xllamacpp_status = "scores GGUF files" if _is_importable("xllamacpp") else "missing: GGUF files cannot be scored"
    diagnosis.add("engines", f"{'xllamacpp':<17}{xllamacpp_status}")
    quantizer = shutil.which("llama-quantize") or ("llama-cpp-python" if _is_importable("llama_cpp") else None)
    missing = "missing: needed only for q4_k_m, q5_k_m and q6_k; pip install -e .[kquants]"
    diagnosis.add("", f"{'llama-quantize':<17}{quantizer or missing}")


def main() -> int:
    """Print the diagnosis; return 0 without problems, 1 otherwise."""
    prepare_output()
    diagnosis = examine()
    print(diagnosis)
    return 1 if diagnosis.problems else 0
