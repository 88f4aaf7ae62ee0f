"""From a model's name to a local folder with its files; nothing is loaded here."""

from pathlib import Path

from yaml import YAMLError

from toolkit.embedded import MODEL_FOLDER
from toolkit.errors import ModelError, first_line
from toolkit.utils.atomic_io import file_fingerprint
from toolkit.models.safety import checked_folder
from toolkit.runs.trained_run import TrainedRun

EMBEDDED = "embedded:tiny-llama-fr"
_SMALL_FILES = ["*.json", "*.jinja", "README.md"]  # the last names the licence


def find_model(name: str, revision: str | None = None, *, weights: bool = True) -> Path:
    """The local folder of a model, downloaded from the hub when it is no local one.

    Loading from a folder keeps Unsloth from mapping the name to another repository and dropping the revision.

    Args:
        name: a local folder, `embedded:tiny-llama-fr`, or a hub id.
        revision: of a hub model: branch, tag or commit.
        weights: False fetches configuration and tokenizer alone.

    Raises:
        ModelError: there is no such model, it cannot be reached, or its weights are no safetensors.
    """
    if name == EMBEDDED:
        folder = MODEL_FOLDER
    elif name.startswith("embedded:"):
        raise ModelError(f"There is no embedded model {name!r}.", hint=f"Write {EMBEDDED}.")
    elif Path(name).is_dir():
        folder = Path(name)
    elif _looks_like_a_path(name):
        raise ModelError(f"There is no model folder {name}.", hint="Give a folder with a config.json, or a hub id.")
    else:
        folder = _download(name, revision, weights=weights)
    return checked_folder(folder, weights=weights)


def fetch_weights(name: str, folder: Path) -> None:
    """Add the weights to what `find_model` found without them: of the very commit, where a branch has moved on since.

    Raises:
        ModelError: they cannot be reached, or are no safetensors.
    """
    find_model(name, hub_commit(folder))


def find_base(run: TrainedRun) -> Path:
    """Return the folder of the base model that a run was trained on: the very commit, where it came from the hub."""
    recorded, model = run.record.get("model", {}), run.recipe.model
    is_same_model = recorded.get("name") == model.name and model.revision is None
    return find_model(model.name, recorded.get("commit") if is_same_model else model.revision)


def hub_commit(folder: Path) -> str | None:
    """The commit that a downloaded folder holds; None for a folder that is not in the hub's cache."""
    return folder.name if folder.parent.name == "snapshots" else None


def model_fingerprint(folder: Path) -> str | None:
    """SHA-256 over configuration, tokenizer and weights of a local folder; None where its hub commit tells as much."""
    if hub_commit(folder):
        return None
    suffixes = (".json", ".jinja", ".safetensors")
    return file_fingerprint(sorted(path for path in folder.iterdir() if path.suffix in suffixes))


def card_license(folder: Path) -> dict[str, str]:
    """`license`, `license_name` and `license_link` in the card of a model folder; empty where it does not say."""
    if not (card := folder / "README.md").is_file():
        return {}
    from huggingface_hub import ModelCard

    try:
        card_data = ModelCard.load(card, ignore_metadata_errors=True).data
    except (ValueError, YAMLError, OSError):
        return {}
    fields = ("license", "license_name", "license_link")
    return {field: value for field in fields if isinstance(value := getattr(card_data, field, None), str)}


def _looks_like_a_path(name: str) -> bool:
    return name.startswith((".", "/", "~")) or "\\" in name or name.count("/") > 1


def _download(name: str, revision: str | None, *, weights: bool) -> Path:
    from huggingface_hub import snapshot_download

    patterns = [*_SMALL_FILES, "*.safetensors"] if weights else _SMALL_FILES
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=patterns))
    except Exception as error:  # the hub, its names and the network each fail in their own way
        raise ModelError(
            f"Model {name!r} is neither a local folder nor reachable on the hub "
            f"({type(error).__name__}: {first_line(error)[:200]}).",
            hint="Check the name, the network, and for a gated model `hf auth login`; or give a local folder.",
        ) from error
