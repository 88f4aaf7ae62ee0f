"""README's Python block runs as it stands, in a process of its own."""

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.conftest import ROOT


def test_readme_block_runs(tmp_path: Path) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    (tmp_path / "example.py").write_text(block, encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "example.py"], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, done.stderr
    fits, figures, *_ = done.stdout.splitlines()
    accuracy, macro_f1 = map(float, figures.split())
    assert fits == "True" and 0 <= macro_f1 <= 1 and 0 <= accuracy <= 1
    assert f"accuracy {accuracy:.2%}" in done.stdout and "McNemar's exact test" in done.stdout
    assert re.search(r"^\['(entailment|neutral|contradiction)'\]$", done.stdout, re.MULTILINE)
    assert "'gguf-f16': " in done.stdout and "step/s" not in done.stderr
