"""Child processes that convert or quantize: their progress, their last message, and their end on Ctrl-C."""

import subprocess
from collections.abc import Callable, Sequence

from toolkit.utils.progress import progress_bar

_SECONDS_TO_END = 5


def run_child(
    arguments: Sequence[str], find_progress: Callable[[str], tuple[int, int] | None], *, title: str, unit: str
) -> tuple[int, str]:
    """Run a program without a shell, and show its progress. If this process is interrupted, it is stopped.

    Args:
        arguments: The program and its arguments.
        find_progress: A function that returns the units done and their total if a line of output has them, else None.
        title: The title of the progress bar.
        unit: The unit of the progress bar.

    Returns:
        The exit code, and the last line that does not report progress.
    """
    last_message = "none"
    with (
        subprocess.Popen(
            arguments,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
        ) as process,
        progress_bar(desc=title, unit=unit) as bar,
    ):
        try:
            for line in process.stdout or []:  # a carriage return ends a line, too
                if progress := find_progress(line):
                    done, bar.total = progress
                    bar.update(done - bar.n)
                elif line.strip():
                    last_message = line.strip()
        except BaseException:
            _end(process)
            raise
    return process.returncode, last_message


def _end(process: subprocess.Popen[str]) -> None:
    process.terminate()
    try:
        process.wait(_SECONDS_TO_END)
    except subprocess.TimeoutExpired:
        pass
    finally:
        process.kill()
