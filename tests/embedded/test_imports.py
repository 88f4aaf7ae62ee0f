"""The independence of the package: it needs none of the development tools."""

import ast
import subprocess
import sys
from pathlib import Path

import toolkit

PACKAGE = Path(toolkit.__file__).parent


def imported(path: Path) -> set[str]:
    """Return the top-level packages that a module imports anywhere."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.split(".")[0])
    return names


def test_the_package_never_imports_tools() -> None:
    modules = sorted(PACKAGE.rglob("*.py"))
    assert len(modules) > 50
    assert [path for path in modules if "tools" in imported(path)] == []


def test_embedded_data_loads_without_the_repository(tmp_path: Path) -> None:
    """An installed package has no `tools` next to it."""
    (tmp_path / "toolkit").symlink_to(PACKAGE)
    program = (
        "import sys; sys.path.insert(0, '.'); sys.modules['tools'] = None\n"
        "from toolkit.embedded import MODEL_FOLDER\n"
        "from toolkit.embedded.nli_fr import SPLITS, load_split\n"
        "print(sum(len(load_split(split)) for split in SPLITS), (MODEL_FOLDER / 'model.safetensors').exists())"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["4800", "True"]
