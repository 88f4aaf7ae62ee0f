"""The commands that reproduce a run: those of its export."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from toolkit.reporting.reproduction import reproduction_commands
from toolkit.runs.run_folder import RunFolder


def test_export_names_the_converter_that_was_used(tmp_path: Path) -> None:
    """Only its file name is recorded, because its path means nothing on another machine."""
    run = RunFolder(tmp_path / "run")
    run.parity.parent.mkdir(parents=True)
    evaluation: Any = SimpleNamespace(
        metrics={"model": "merged"}, overrides={}, source="rows.jsonl", mode="constrained", shots=0, limit=None
    )
    entries: list[dict[str, Any]] = [{"model": "merged"}, {"model": "gguf-q8_0"}]

    def export_command() -> str:
        run.parity.write_text(json.dumps({"models": entries}), encoding="utf-8")
        commands = reproduction_commands(run, {"command": ["sft.py"]}, [evaluation])
        return next(command for command in commands if "export_gguf" in command)

    assert "--converter" not in export_command()
    entries[1]["converter"] = {"file": "convert_hf_to_gguf.py", "sha256": "0"}
    assert export_command().endswith("run-again --converter convert_hf_to_gguf.py")
