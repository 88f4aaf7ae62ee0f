"""A reader of datasets on the Hugging Face Hub that fails within seconds if the network is down."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import datasets
import huggingface_hub
from huggingface_hub.errors import HfHubHTTPError, HFValidationError

from toolkit.errors import DataError, first_line

datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = False  # no request to the Hub only to count a download

_TIMEOUT_SECONDS = 10.0
"""Time limit of the first request to the Hub."""


def load_hub_rows(path: str, name: str | None, split: str) -> list[dict[str, Any]]:
    """Load the rows of a dataset, with the names of its class labels instead of their numbers.

    If the Hub cannot be reached, the rows come from the local cache. The `datasets` package reads only data files:
    since version 4 it does not run loading scripts, which are arbitrary code.

    Args:
        path: The id of the dataset on the Hub.
        name: The configuration of the dataset.
        split: The split of the dataset.

    Raises:
        DataError: If the dataset does not exist, cannot be reached or cannot be read.
    """
    try:
        with _offline_unless(_is_reachable(path)):
            dataset = datasets.load_dataset(path, name, split=split)
    except Exception as error:  # the Hub, the network and the data files raise unrelated types of errors
        raise DataError(
            f"{':'.join(filter(None, (path, name, split)))} is neither a local file nor a dataset that can be loaded "
            f"from the Hub ({type(error).__name__}: {first_line(error)[:200]}).",
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
            if row[column] is not None:  # -1 marks a missing label
                row[column] = class_label.int2str(row[column]) if row[column] >= 0 else None
    return rows


def _is_reachable(path: str) -> bool:
    """Return whether the Hub responds, with a single request.

    Without this check, `datasets` retries five times with growing delays, 23 seconds in total.

    Raises:
        HfHubHTTPError: If the Hub responds that the dataset does not exist or that access is denied.
        HFValidationError: If the path is not a valid id of a dataset.
    """
    try:
        huggingface_hub.HfApi().dataset_info(path, timeout=_TIMEOUT_SECONDS)
    except (HfHubHTTPError, HFValidationError):
        raise
    except Exception:  # no network, no DNS, a blocking proxy, offline mode: all raise different errors
        return False
    return True


@contextmanager
def _offline_unless(is_reachable: bool) -> Iterator[None]:
    """Run the block in offline mode, in which only the cache is read, unless the Hub is reachable."""
    if is_reachable:
        yield
        return
    # Both packages read the environment variable when they are imported and keep their own copy of it.
    previous = datasets.config.HF_HUB_OFFLINE, huggingface_hub.constants.HF_HUB_OFFLINE
    datasets.config.HF_HUB_OFFLINE = huggingface_hub.constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        datasets.config.HF_HUB_OFFLINE, huggingface_hub.constants.HF_HUB_OFFLINE = previous
