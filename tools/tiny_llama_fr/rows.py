"""The JSON Lines files that ship with the package, one per split."""

import json
from pathlib import Path

from toolkit.utils.atomic_io import write_text
from tools.tiny_llama_fr.nli_fr import SPLITS, generate


def json_lines(split: str) -> str:
    """Return the text of a split's file: one JSON object per row, with unescaped accents."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in generate(split))


def write_rows(folder: Path) -> list[Path]:
    """Generate every split, write it to `folder`/<split>.jsonl, and return the paths.

    Raises:
        StorageError: If the disk is full.
    """
    paths = []
    for split in SPLITS:
        paths.append(folder / f"{split}.jsonl")
        write_text(paths[-1], json_lines(split))
    return paths
