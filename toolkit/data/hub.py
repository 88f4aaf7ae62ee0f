"""Rows of a hub dataset: plain data files alone, and an answer within seconds where there is no network."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import datasets
import huggingface_hub
from huggingface_hub.errors import HfHubHTTPError, HFValidationError

from toolkit.errors import DataError, first_line

datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = False  # each load would tell a counter

_TIMEOUT_SECONDS = 10.0
"""Seconds to wait for the hub's first answer."""


def load_hub_rows(path: str, name: str | None, split: str) -> list[dict[str, Any]]:
    """The rows of a dataset, its class labels by name; from the cache where the hub cannot be reached.

    The `datasets` package reads data files alone; from version 4 on it has no loading scripts, which were code.

    Args:
        path: a hub id.
        name: its configuration.
        split: its split.

    Raises:
        DataError: there is no such dataset, it cannot be reached, or its files cannot be read.
    """
    try:
        with _offline_unless(_is_reachable(path)):
            dataset = datasets.load_dataset(path, name, split=split)
    except Exception as error:  # the hub, the network and the dataset's files each fail in their own way
        raise DataError(
            f"{':'.join(filter(None, (path, name, split)))} is neither a local file nor a dataset that can be loaded "
            f"from the hub ({type(error).__name__}: {first_line(error)[:200]}).",
            hint="Check the name and the network, or give a local .jsonl, .json, .csv, .tsv or .parquet file.",
        ) from error
    class_labels = {
        column: class_label
        for column, class_label in dataset.features.items()
        if isinstance(class_label, datasets.ClassLabel)
    }
    rows = [dict(row) for row in dataset]
    for column, class_label in class_labels.items():
        for row in rows:
            if row[column] is not None and row[column] >= 0:
                row[column] = class_label.int2str(row[column])
    return rows


def _is_reachable(path: str) -> bool:
    """Ask the hub once; `datasets` asks six times, with longer and longer waits, 23 seconds in all.

    Raises:
        HfHubHTTPError: the hub answers that there is no such dataset, or that one may not have it.
    """
    try:
        huggingface_hub.HfApi().dataset_info(path, timeout=_TIMEOUT_SECONDS)
    except (HfHubHTTPError, HFValidationError):
        raise
    except Exception:  # no network, no name server, a proxy that refuses, offline mode: each has errors of its own
        return False
    return True


@contextmanager
def _offline_unless(is_reachable: bool) -> Iterator[None]:
    """Take what is in the cache, without asking again."""
    if is_reachable:
        yield
        return
    previous = datasets.config.HF_HUB_OFFLINE, huggingface_hub.constants.HF_HUB_OFFLINE
    datasets.config.HF_HUB_OFFLINE = huggingface_hub.constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        datasets.config.HF_HUB_OFFLINE, huggingface_hub.constants.HF_HUB_OFFLINE = previous
