"""The command that prints the JSON Schema of a recipe."""

import subprocess
import sys

from tests.conftest import ROOT


def test_command_prints_the_schema_file() -> None:
    command = [sys.executable, "-m", "toolkit.cli.schema"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == (ROOT / "schema" / "recipe.schema.json").read_text(encoding="utf-8") and done.stderr == ""
