"""Local and embedded models and data work without a network, and nothing attempts to connect."""

import os
import subprocess
import sys
from pathlib import Path

import yaml

from tests.conftest import RECIPE, ROOT

# Runs first in each process and ends it at the first connection attempt. Requests to 127.0.0.1 are allowed because
# llama.cpp's server listens there. An audit hook belongs to the interpreter: no import, patch or thread can avoid it.
BLOCK_NETWORK = """
import os, socket, sys

def audit(event, arguments):
    if event in ("socket.connect", "socket.sendto", "socket.sendmsg"):
        host = arguments[-1][0] if isinstance(arguments[-1], tuple) else "127.0.0.1"
    elif event in ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr", "socket.getnameinfo"):
        host = arguments[0] if not isinstance(arguments[0], tuple) else arguments[0][0]
    else:
        return
    if host not in ("127.0.0.1", "localhost", None):
        os.write(2, f"NETWORK {event} {host}\\n".encode())
        os._exit(99)

sys.addaudithook(audit)
"""


def run_offline(tmp_path: Path, code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run code in a separate process without a network, with an unreachable proxy and an empty cache."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "TRANSFORMERS_"))}
    environment |= {"PYTHONPATH": str(ROOT), "HF_HOME": str(tmp_path / "hf"), "https_proxy": "http://192.0.2.1:9"}
    command = [sys.executable, "-c", BLOCK_NETWORK + code, *map(str, arguments)]
    return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)


def test_connection_attempts_are_detected(tmp_path: Path) -> None:
    for code in (
        "import urllib.request; urllib.request.urlopen('http://huggingface.co')",
        "socket.create_connection(('192.0.2.1', 80))",
        "from huggingface_hub import snapshot_download; snapshot_download('nobody/nothing')",
    ):
        result = run_offline(tmp_path, code)
        assert result.returncode == 99 and "NETWORK" in result.stderr


def test_main_commands_need_no_network(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(RECIPE), encoding="utf-8")
    limits = ["--set", "training.max_steps=2", "--set", "data.eval.limit=6", "--set", "data.calibration_share=0.2"]
    # All commands share one process because importing the training packages takes most of the time.
    code = """
from tests.conftest import load_script
from toolkit.cli.command_line import run_command
_, run, recipe, *limits = sys.argv
gguf = f"{run}/gguf/run-q8_0.gguf"
pair = ["--premise", "Le chat dort.", "--hypothesis", "Il dort."]
for name, *arguments in [
    ["preflight", recipe, *limits],
    ["sft", recipe, *limits, "--output-dir", run],
    ["eval_generate", run],
    ["eval_generate", run, "--model", "base"],
    ["export_gguf", run, "--verify", "3", "--min-agreement", "0.01"],
    ["eval_generate", run, "--model", gguf],
    ["eval_generate", run, "--model", gguf, "--mode", "free"],
    ["predict", run, *pair],
    ["predict", run, "--model", gguf, *pair],
    ["compare", f"{run}/eval/adapter", f"{run}/eval/base"],
]:
    sys.argv = [name, *arguments]
    script = load_script(name)
    parsed = script.parse()
    if (code := run_command(lambda: script.main(parsed))) != 0:
        sys.exit(f"{name} {arguments}: {code}")
"""
    result = run_offline(tmp_path, code, tmp_path / "run", recipe, *limits)
    assert result.returncode == 0, result.stderr[-2000:]
    assert "NETWORK" not in result.stderr
    for name in ("adapter/README.md", "report.html", "gguf/run-q8_0.gguf", "gguf/parity.json", "compare"):
        assert (tmp_path / "run" / name).exists()


def test_importing_needs_no_network(tmp_path: Path) -> None:
    result = run_offline(tmp_path, "import toolkit.data.hub, toolkit.cli.doctor; toolkit.cli.doctor.main()")
    assert result.returncode == 0, result.stderr[-2000:]
