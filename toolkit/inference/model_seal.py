"""The check that a model of a run is the one that the run trained, merged or exported."""

import logging
from pathlib import Path

from toolkit.inference.gguf_file import read_gguf_header
from toolkit.runs.digests import file_digest
from toolkit.runs.model_ref import ModelRef
from toolkit.runs.parity_record import load_parity, recorded_digests
from toolkit.runs.trained_run import TrainedRun

logger = logging.getLogger(__name__)

ADAPTER_KEY, BASE_KEY = "general.toolkit.adapter_sha256", "general.toolkit.base_sha256"
"""The metadata of a GGUF file that say which model it was made from. Quantizers keep them."""

UNKNOWN_ORIGIN = "does not say which model it was made from, so it cannot be checked."


def verify_model(run: TrainedRun, model: ModelRef) -> str | None:
    """Check the files of a model against their recorded digests, right before they are loaded.

    Returns:
        A sentence about a GGUF file that is not known to be one of the run's exports, or None.

    Raises:
        ModelError: If a file does not exist or is damaged.
        SealError: If a file has changed, or belongs to another run.
    """
    run.verify_adapter()  # in every case: the tokenizer is read from its folder
    if model.gguf:
        doubt = _verify_gguf(run, model.gguf)
        if doubt:
            logger.warning("WARNING: %s %s", model.gguf, doubt)
        return doubt
    if model.name == "merged":
        run.verify_merged()
    elif run.recipe.lora is not None:  # without an adapter, the folder verified above contains the complete model
        from toolkit.models.model_folder import find_base  # reading a GGUF file needs no model packages

        find_base(run)
    return None


def _verify_gguf(run: TrainedRun, path: Path) -> str | None:
    header = read_gguf_header(path)
    if run.seal is None:
        return None
    parity = load_parity(run) or {}
    names = {(run.path / name).resolve(): digest for name, digest in recorded_digests(parity).items()}
    digest = names.get(path.resolve())
    if digest is not None and file_digest(path, run.path) != digest:
        run.refuse_changes([f"{path} has changed since it was exported."])
    # Also of a file that export wrote: the adapter could have been a changed one, which the caller accepted.
    adapter, base = header.fields.get(ADAPTER_KEY), header.fields.get(BASE_KEY)
    if adapter is None:
        return UNKNOWN_ORIGIN
    if adapter != run.seal.adapter_sha256:
        run.refuse_changes([f"{path} was exported from another adapter than that of {run.path}."])
    elif base != run.seal.base_sha256:
        run.refuse_changes([f"{path} was exported from another base model than that of {run.path}."])
    elif digest is None:
        return "was made from this run's adapter, but was not compared with it by export."
    return None
