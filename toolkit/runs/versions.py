"""Package versions and the git commit, on which a result depends in addition to the recipe."""

import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = (
    "toolkit", "torch", "unsloth", "unsloth_zoo", "trl", "transformers", "peft", "bitsandbytes", "datasets",
    "accelerate", "numpy", "jinja2", "tokenizers", "safetensors", "scikit-learn", "gguf", "xllamacpp",
)  # fmt: skip


def package_versions() -> dict[str, str | None]:
    """Return the versions of Python and of the packages that a result depends on, None for a package not installed."""
    versions: dict[str, str | None] = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = None
    return versions


def git_commit() -> str | None:
    """Return the commit of this code, with `-dirty` if files have changed since, or None outside a git checkout."""
    try:
        result = subprocess.run(
            ["git", "describe", "--always", "--abbrev=40", "--dirty"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    # No git, no repository (an installed package), or a file system that is too slow: a run must not fail for that.
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.strip()
