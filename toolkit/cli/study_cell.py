"""The process of one cell of a study, which `studies.runner` starts: python -m toolkit.cli.study_cell FOLDER.

The cell is a line of JSON on standard input. A separate process returns all its memory on exit, and a crash ends one
cell, not the study.
"""

import json
import os
import signal
import sys
import threading
from pathlib import Path

from toolkit.cli.command_line import run_command
from toolkit.studies.cell_execution import run_cell
from toolkit.studies.study_folder import StudyFolder


def _stop_when_parent_exits() -> None:
    """Stop this process when the one that started it ends, even if that one is killed.

    The other end of standard input closes then. Training handles SIGTERM by saving a checkpoint.
    """
    sys.stdin.read()
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    cell = json.loads(sys.stdin.readline())
    threading.Thread(target=_stop_when_parent_exits, daemon=True).start()
    sys.exit(run_command(lambda: run_cell(StudyFolder(Path(sys.argv[1])), cell)))
