"""What a result depends on beside the recipe: package versions and the commit of this repository."""

import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = (
    "toolkit", "torch", "unsloth", "unsloth_zoo", "trl", "transformers", "peft", "bitsandbytes", "datasets",
    "accelerate", "numpy", "jinja2", "tokenizers", "safetensors", "scikit-learn", "gguf", "xllamacpp",
)  # fmt: skip


def package_versions() -> dict[str, str | None]:
    """Installed versions of Python and of the packages that a result depends on; None where one is absent."""
    versions: dict[str, str | None] = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = None
    return versions


def git_commit() -> str | None:
    """The commit that this code stands at, with `-dirty` when it was changed since; None outside a checkout."""
    try:
        result = subprocess.run(
            ["git", "describe", "--always", "--abbrev=40", "--dirty"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.strip()
