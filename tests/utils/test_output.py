"""Commands print on every terminal, pipe and file: any encoding, a reader that leaves, closed streams, a full disk."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

ASCII = {"PYTHONIOENCODING": "ascii"}
C_LOCALE = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
COMMAND = """
import logging, sys
from pathlib import Path
from toolkit.cli.command_line import run_command

def command():
    for i in range(int(sys.argv[2])):
        print("été 👍", i)
        logging.getLogger("toolkit").info("矛盾 \\udcff %d", i)
    print("à moi", file=sys.stderr)
    Path(sys.argv[1]).write_text("done", encoding="utf-8")

sys.exit(run_command(command))
"""


def run(shell: str, *, lines: int = 1, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command above in a shell: `$COMMAND` is the command, and `$FILE` the file that it writes."""
    words = {"COMMAND": f"{sys.executable} {os.environ['SCRIPT']} {os.environ['FILE']} {lines}"}
    return subprocess.run(
        ["bash", "-c", f"set -o pipefail; {shell}"], cwd=ROOT, env=os.environ | words | environment,
        capture_output=True, text=True, encoding="utf-8", errors="backslashreplace",
    )  # fmt: skip


@pytest.fixture(autouse=True)
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "script.py").write_text(COMMAND, encoding="utf-8")
    for name, value in (("SCRIPT", "script.py"), ("FILE", "done")):
        monkeypatch.setenv(name, str(tmp_path / value))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return tmp_path / "done"


@pytest.mark.parametrize(
    "environment", [ASCII, C_LOCALE, {"PYTHONIOENCODING": "latin-1"}, {"PYTHONIOENCODING": "utf-8"}]
)
def test_any_encoding_can_be_printed(environment: dict[str, str], file: Path) -> None:
    result = run("$COMMAND | cat -v", **environment)
    assert (result.returncode, file.exists()) == (0, True), result.stderr
    assert "udcff 0" in result.stdout
    if environment in (ASCII, C_LOCALE):
        assert result.stdout == "\\xe9t\\xe9 \\U0001f44d 0\n\\u77db\\u76fe \\udcff 0\n"


@pytest.mark.parametrize(
    "shell", ["$COMMAND | head -1", "$COMMAND 2>&1 | head -1", "PYTHONUNBUFFERED=1 $COMMAND | head -1"]
)
def test_work_is_finished_after_the_reader_left(shell: str, file: Path) -> None:
    result = run(shell, lines=20_000)
    assert (result.returncode, result.stdout.count("\n"), file.exists()) == (0, 1, True)
    assert result.stderr in ("", "à moi\n")


def test_full_disk_is_reported_after_the_work(file: Path) -> None:
    result = run("$COMMAND > /dev/full", lines=20_000)
    assert (result.returncode, file.exists()) == (1, True)
    assert result.stderr == "à moi\nerror: standard output: No space left on device.\n"
    assert run("$COMMAND 2> /dev/full").returncode == 0


@pytest.mark.parametrize("shell", ["$COMMAND >&-", "$COMMAND 2>&-", "$COMMAND >&- 2>&-"])
def test_closed_streams_do_not_reach_files(shell: str, file: Path) -> None:
    """A file that is opened must not get the number of a closed stream, because C code prints to that number."""
    assert run(shell).returncode == 0 and file.read_text(encoding="utf-8") == "done"
    script = Path(os.environ["SCRIPT"])
    check = COMMAND.replace('write_text("done", encoding="utf-8")', "open('w').fileno() > 2 or 1 / 0")
    script.write_text(check, encoding="utf-8")
    assert run(shell).returncode == 0


@pytest.mark.parametrize("command", ["scripts/sft.py --help", "-m toolkit", "-m toolkit.cli.schema"])
@pytest.mark.parametrize("pipe", ["head -1", "cat"])
def test_help_and_doctor_print_everywhere(command: str, pipe: str) -> None:
    result = run(f"{sys.executable} {command} | {pipe}", **ASCII)
    # The doctor exits with 1 if this machine has problems.
    assert result.returncode in ((0, 1) if command == "-m toolkit" else (0,)) and result.stderr == ""


def test_file_name_beyond_the_locale_is_refused(tmp_path: Path) -> None:
    recipe = (ROOT / "recipes" / "quickstart.yaml").read_text(encoding="utf-8")
    (tmp_path / "recipe.yaml").write_text(recipe.replace("embedded:nli-fr", "été.jsonl"), encoding="utf-8")
    result = run(f"{sys.executable} scripts/preflight.py {tmp_path / 'recipe.yaml'}", **C_LOCALE)
    assert result.returncode == 2 and "Traceback" not in result.stderr
    assert "cannot be a file name: the encoding of file names is ascii in this locale." in result.stderr
    assert "hint: Set the environment variable PYTHONUTF8=1." in result.stderr
