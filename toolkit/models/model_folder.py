"""Resolution of a model's name to a local folder with its files, without loading the model."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from yaml import YAMLError

from toolkit.embedded import MODEL_FOLDER
from toolkit.errors import ModelError, first_line
from toolkit.models.safety import check_model_folder
from toolkit.prompts.tokenizer import has_tokenizer
from toolkit.runs.trained_run import TrainedRun
from toolkit.utils.atomic_io import file_fingerprint

EMBEDDED = "embedded:tiny-llama-fr"
_SMALL_FILES = ["*.json", "*.jinja", "README.md"]  # the model card, README.md, states the license


def find_model(name: str, revision: str | None = None, *, weights: bool = True) -> Path:
    """Return the local folder of a model, and download it from the Hub if necessary.

    All models are loaded from a folder: given a Hub id, Unsloth can map it to another repository and drop the revision.

    Args:
        name: A local folder, `embedded:tiny-llama-fr`, or a Hub id.
        revision: The branch, tag or commit of a Hub model.
        weights: If False, only the configuration and the tokenizer are downloaded and checked.

    Raises:
        ModelError: If the model does not exist or cannot be downloaded, or if its folder fails `check_model_folder`.
    """
    if name == EMBEDDED:
        folder = MODEL_FOLDER
    elif name.startswith("embedded:"):
        raise ModelError(f"There is no embedded model {name!r}.", hint=f"Use {EMBEDDED}.")
    elif Path(name).is_dir():
        folder = Path(name)
    elif Path(name).is_file() or name.lower().endswith("gguf"):
        raise ModelError(
            f"{name} is not a model folder, and weights in other formats, such as GGUF, cannot be trained.",
            hint="Give the folder or Hub id of the model's checkpoint, with config.json and safetensors weights.",
        )
    elif looks_like_a_path(name):
        raise ModelError(f"There is no model folder {name}.", hint="Give a folder with a config.json, or a Hub id.")
    else:
        folder = download(name, revision, [*_SMALL_FILES, "*.safetensors"] if weights else _SMALL_FILES)
    return check_model_folder(folder, weights=weights)


def fetch_weights(name: str, folder: Path) -> None:
    """Download the weights for a folder that `find_model(..., weights=False)` returned.

    Raises:
        ModelError: If the weights cannot be downloaded, or the folder fails `check_model_folder`.
    """
    # The folder's commit, not the branch: the branch can have moved since the folder was downloaded.
    find_model(name, hub_commit(folder))


def find_base(run: TrainedRun) -> Path:
    """Return the folder of the base model that a run was trained on, at the recorded commit if it is from the Hub.

    Raises:
        ModelError: If the base model does not exist.
        SealError: If its files are not those that the run was trained on.
    """
    recorded, model = run.record.get("model", {}), run.recipe.model
    is_same_model = recorded.get("name") == model.name and model.revision is None
    if run.base is not None:
        folder = find_model(str(run.base))
        if not has_tokenizer(folder):
            raise ModelError(f"{folder} has no tokenizer.", hint="Copy the complete folder of the base model.")
    else:
        folder = find_model(model.name, recorded.get("commit") if is_same_model else model.revision)
    run.verify_base(folder)
    return folder


def hub_commit(folder: Path) -> str | None:
    """Return the commit of a downloaded folder, or None for a folder outside the Hub's cache."""
    # The cache's layout is models--<owner>--<name>/snapshots/<commit>.
    return folder.name if folder.parent.name == "snapshots" else None


def model_fingerprint(folder: Path) -> str | None:
    """Return the SHA-256 digest of a local folder's files, or None for a download, which its commit identifies."""
    if hub_commit(folder):
        return None
    suffixes = (".json", ".jinja", ".safetensors")
    return file_fingerprint(sorted(path for path in folder.iterdir() if path.suffix in suffixes))


def card_license(folder: Path) -> dict[str, str]:
    """Return `license`, `license_name` and `license_link` as far as a folder's model card states them."""
    card, fields = _read_card(folder), ("license", "license_name", "license_link")
    return {field: value for field in fields if isinstance(value := getattr(card, field, None), str)}


def card_tags(folder: Path) -> list[str]:
    """Return the tags in a folder's model card; none if it has no card."""
    tags = getattr(_read_card(folder), "tags", None)
    return [tag for tag in tags if isinstance(tag, str)] if isinstance(tags, list) else []


def _read_card(folder: Path) -> Any:
    """Return the data of a folder's model card, or None if it has no readable card."""
    if not (card := folder / "README.md").is_file():
        return None
    from huggingface_hub import ModelCard

    try:
        return ModelCard.load(card, ignore_metadata_errors=True).data
    except (ValueError, YAMLError, OSError):
        return None


def looks_like_a_path(name: str) -> bool:
    """Return whether a name cannot be a Hub id."""
    return name.startswith((".", "/", "~")) or "\\" in name or name.count("/") > 1


def download(name: str, revision: str | None, patterns: Sequence[str]) -> Path:
    """Download the files of a Hub repository that match patterns, and return their folder.

    Raises:
        ModelError: If the repository does not exist or cannot be reached.
    """
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=list(patterns)))
    except Exception as error:  # invalid names, missing models and network failures raise errors of many types
        raise ModelError(
            f"Model {name!r} is neither a local folder nor reachable on the Hub "
            f"({type(error).__name__}: {first_line(error)[:200]}).",
            hint="Check the name and the network, run `hf auth login` for a gated model, or give a local folder.",
        ) from error
