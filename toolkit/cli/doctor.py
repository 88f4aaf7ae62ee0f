"""The doctor: what this machine and its packages can do, against the set that the tests pass with.

Everything is read from metadata; of the training packages none is imported, and none has to be there.
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

_ROOT = Path(toolkit.__file__).resolve().parent.parent
_MODULES = {"scikit-learn": "sklearn", "pyyaml": "yaml"}
_PATCHED = "Unsloth patches it by its source, so training may fail at import or train something else"
_MEANINGS = {
    "torch": "Unsloth and bitsandbytes are built for certain releases, so training may fail at import",
    "unsloth": "training and loading go through it",
    "unsloth_zoo": "it goes with the release of unsloth of the same number",
    "trl": _PATCHED,
    "transformers": _PATCHED,
    "peft": _PATCHED,
    "accelerate": "the trainer is built on it",
    "bitsandbytes": "4-bit loading and adamw_8bit are its own",
    "datasets": "hub data may not load; older ones run loading scripts",
    "gguf": "exported files may differ",
    "xllamacpp": "GGUF files may not load, or score otherwise",
    "tokenizers": "texts may become other tokens",
    "safetensors": "weights may not load",
}
_DEFAULT_MEANING = "what uses it may fail, or come to other results"
_UNTESTED_PREFIX = "not the tested"
"""How the remark on a version begins that is within its window: to be told, but no problem."""


@dataclass
class Diagnosis:
    """The lines to print, and what does not work; nothing in `problems` means that all is well."""

    lines: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def add(self, name: str, text: str) -> None:
        """One line of the report."""
        self.lines.append(f"{name:<12}{text}")

    def __str__(self) -> str:
        end = [f"PROBLEM     {problem}" for problem in self.problems] or ["All is well."]
        return "\n".join([*self.lines, "", *end])


def examine() -> Diagnosis:
    """Look at the machine and at every package."""
    diagnosis = Diagnosis()
    diagnosis.add("toolkit", f"{toolkit.__version__} in {_ROOT}")
    diagnosis.add("python", f"{platform.python_version()}, {platform.system()} {platform.machine()}")
    _examine_device(diagnosis)
    _examine_space(diagnosis)
    _examine_packages(diagnosis)
    _examine_engines(diagnosis)
    return diagnosis


def _examine_device(diagnosis: Diagnosis) -> None:
    """torch alone is imported, and whatever that raises is a finding."""
    try:
        import torch

        from toolkit.models.precision import choose_precision, cpu_has_amx

        device = "cuda" if torch.cuda.is_available() else "cpu"
        name = torch.cuda.get_device_name(0) if device == "cuda" else f"CPU, {os.cpu_count()} cores"
        # What Unsloth answers, without importing it: on a CPU it is asked for AMX alone, which implies bfloat16.
        has_bfloat16 = torch.cuda.get_device_capability()[0] >= 8 if device == "cuda" else _is_bfloat16_allowed()
        precision = choose_precision("auto", device, has_bfloat16=has_bfloat16, has_amx=cpu_has_amx())
    except Exception as error:
        diagnosis.add("device", "not known")
        diagnosis.problems.append(
            f"torch cannot be used ({type(error).__name__}: {str(error)[:200]}): nothing can be trained or scored but "
            "GGUF files; install it again: make install"
        )
        return
    diagnosis.add("device", name)
    diagnosis.add("precision", f"{precision.name} where model.dtype is auto: {precision.reason}")


def _is_bfloat16_allowed() -> bool:
    """Return False where Unsloth's environment variable switches a CPU's bfloat16 off."""
    return os.environ.get("UNSLOTH_CPU_BF16", "").strip().lower() not in ("0", "false", "no", "off")


def _examine_space(diagnosis: Diagnosis) -> None:
    try:
        import psutil

        memory = psutil.virtual_memory()
        diagnosis.add("memory", f"{memory.total / 1e9:.1f} GB, {memory.available / 1e9:.1f} GB free")
    except Exception as error:
        diagnosis.add("memory", f"not known ({type(error).__name__})")
    disk = shutil.disk_usage(Path.cwd())
    diagnosis.add("disk", f"{disk.free / 1e9:.1f} GB free in {Path.cwd()}")


def tested_versions() -> dict[str, str]:
    """The exact versions that the tests pass with, by package: those in requirements/; empty outside a checkout."""
    pins = {}
    for name in ("base", "torch", "unsloth"):
        file = _ROOT / "requirements" / f"{name}.txt"
        for line in file.read_text(encoding="utf-8").splitlines() if file.is_file() else []:
            if pin := re.match(r"([\w.-]+)==([\w.+!-]+)", line):
                pins[_normalize_name(pin[1])] = pin[2]
    return pins


def _requirements() -> tuple[list[str], str]:
    """The packages that the toolkit asks for, each with its window, and the window of Python's versions."""
    pyproject = _ROOT / "pyproject.toml"
    if pyproject.is_file():
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
        diagnosis.problems.append("toolkit's own metadata is missing, so no package was compared: pip install -e .")
    if python_specifier and not _satisfies(platform.python_version(), python_specifier):
        diagnosis.problems.append(
            f"Python {platform.python_version()} is outside {python_specifier}: make a .venv with another one."
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
    except Exception:  # a half-removed package breaks its metadata in many a way
        return None


def _remark(name: str, specifier: str, installed: str | None, tested: str | None) -> str:
    """What is wrong with a package, and what that means; empty where it is the tested one."""
    meaning = _MEANINGS.get(name, _DEFAULT_MEANING)
    remedy = f"pip install {name}=={tested}" if tested else f"pip install '{name}{specifier}'"
    if installed is None:
        return f"is not installed: {meaning}; {remedy}"
    if not _is_importable(name):
        return f"is installed, but its module is not there: {meaning}; {remedy}"
    if not _satisfies(installed, specifier):
        return f"is outside {specifier}: {meaning}; {remedy}"
    if tested and installed.partition("+")[0] != tested:
        return f"{_UNTESTED_PREFIX} {tested}: {meaning}"
    return ""


def _is_importable(name: str) -> bool:
    try:
        return find_spec(_MODULES.get(name, name)) is not None
    except (ImportError, ValueError):
        return False


def _satisfies(installed: str, specifier: str) -> bool:
    """Whether a version is within a window such as `>=1.15,<1.16`; true where that cannot be told."""
    try:
        from packaging.specifiers import SpecifierSet

        return SpecifierSet(specifier).contains(installed, prereleases=True)
    except Exception:
        return True


def _examine_engines(diagnosis: Diagnosis) -> None:
    """Neither is needed to train; the second is optional."""
    xllamacpp_status = "scores GGUF files" if _is_importable("xllamacpp") else "missing: GGUF files cannot be scored"
    diagnosis.add("engines", f"{'xllamacpp':<17}{xllamacpp_status}")
    quantizer = shutil.which("llama-quantize") or ("llama-cpp-python" if _is_importable("llama_cpp") else None)
    missing = "not there: needed for q4_k_m, q5_k_m and q6_k alone; pip install -e .[kquants]"
    diagnosis.add("", f"{'llama-quantize':<17}{quantizer or missing}")


def main() -> int:
    """Print the diagnosis; 0 when all is well, 1 when something that is needed is missing or cannot work."""
    diagnosis = examine()
    print(diagnosis)
    return 1 if diagnosis.problems else 0
