"""The embedded dataset `embedded:nli-fr`: French sentence pairs that `tools/tiny_llama_fr` generated."""

import json
from pathlib import Path

from toolkit.errors import DataError

SPLITS = ("train", "dev", "test", "test_lexical")
DATA_FOLDER = Path(__file__).parent / "nli_fr_rows"


def load_split(split: str) -> list[dict[str, str]]:
    """Read the rows of a split: `id`, `premise`, `hypothesis`, `label` and `phenomenon`.

    Three consecutive rows share a premise, one per label, in an order that varies; `test_lexical` uses nouns, names
    and verbs of no other split.

    Raises:
        DataError: there is no such split.
    """
    if split not in SPLITS:
        raise DataError(f"embedded:nli-fr has no split {split!r}.", hint=f"Its splits: {', '.join(SPLITS)}.")
    with (DATA_FOLDER / f"{split}.jsonl").open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]
