"""The embedded dataset `embedded:nli-fr`: French sentence pairs that `tools/tiny_llama_fr` generated."""

import json
from pathlib import Path

from toolkit.errors import DataError

SPLITS = ("train", "dev", "test", "test_lexical")
DATA_FOLDER = Path(__file__).parent / "nli_fr_rows"


def load_split(split: str) -> list[dict[str, str]]:
    """Read the rows of a split: `id`, `premise`, `hypothesis`, `label` and `phenomenon`.

    Rows come in groups of three that share a premise, one per label, in varying order. The nouns, names, and verbs of
    `test_lexical` occur in no other split.

    Raises:
        DataError: If the dataset has no such split.
    """
    if split not in SPLITS:
        raise DataError(f"embedded:nli-fr has no split {split!r}.", hint=f"Choose one of {', '.join(SPLITS)}.")
    # Not cached: callers own the rows they get and are free to change them.
    with (DATA_FOLDER / f"{split}.jsonl").open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]
