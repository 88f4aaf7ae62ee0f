"""The seal of a run: digests of what belongs together, recorded when a file is made and checked when it is read.

A seal finds accidents: a replaced adapter, edited weights, an evaluation of another run. It does not protect against
forgery, because whoever can write the files can also write the seal.

- run.json has the digests of the base weights, the adapter with its tokenizer, the log, and the recipe's sections.
- merged/seal.json has the digests of the merged weights.
- metrics.json and parity.json carry a digest of their own content, and the digests of the files they describe.
- GGUF files carry the digests of adapter and base in their metadata.

A process that is killed in between leaves at most a file without its seal, which is refused, and the same command makes
both again.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolkit.errors import SealError
from toolkit.recipe.schema import Recipe
from toolkit.runs.digests import combine, digest_files, file_digest, json_digest

RESTORE_HINT = "Restore the original from a copy, or pass accept_changes=True to use the files as they are."
_MODEL_SUFFIXES = {".json", ".jinja", ".safetensors", ".model", ".txt"}
"""The suffixes of files that libraries read from a model folder; a model card or a picture changes nothing."""
_ADAPTER_IDENTITY = ("adapter_config.json", "adapter_model.safetensors")
_SEALED_SECTIONS = ("task", "model", "lora", "training", "seed")
_PATH_KEYS = {"name", "revision"}  # of the model section: a base model can move, its digests decide
MERGED_SEAL = "seal.json"


@dataclass(frozen=True)
class Seal:
    """The digests of a trained run, from the field `seal` of run.json.

    Args:
        base: The SHA-256 digests of the base model's weights and configurations, by file name.
        adapter: Those of the adapter folder, without its model card.
        train_log: The digest of train_log.jsonl.
        recipe: The sections of the recipe that define the model, without paths.
    """

    base: Mapping[str, str]
    adapter: Mapping[str, str]
    train_log: str
    recipe: Mapping[str, Any]

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> "Seal | None":
        """Return the seal in run.json, or None for a run that was trained before runs were sealed."""
        seal = record.get("seal")
        if not isinstance(seal, dict):
            return None
        sections = {key: seal.get(key) for key in ("base", "adapter", "recipe")}
        if not all(isinstance(section, dict) for section in sections.values()):
            raise SealError("The seal in run.json is damaged.", hint=RESTORE_HINT)
        return cls(**sections, train_log=str(seal.get("train_log")))  # type: ignore[arg-type]

    @property
    def adapter_sha256(self) -> str:
        """One digest of adapter weights and configuration, which identifies the run."""
        return adapter_identity(self.adapter)

    @property
    def base_sha256(self) -> str:
        """One digest of the base model's weights and configurations."""
        return combine(self.base)


def make_seal(run: Path, recipe: Recipe, base: Path) -> dict[str, Any]:
    """Return the field `seal` of run.json for a run whose adapter and log have just been written."""
    return {
        "base": digest_files(base, base_files(base), run),
        "adapter": digest_files(run / "adapter", model_files(run / "adapter"), run),
        "train_log": file_digest(run / "train_log.jsonl", run),
        "recipe": sealed_sections(recipe),
    }


def adapter_identity(digests: Mapping[str, str]) -> str:
    """Return one digest of adapter weights and configuration."""
    return combine({name: digests[name] for name in _ADAPTER_IDENTITY if name in digests})


def sealed_sections(recipe: Recipe) -> dict[str, Any]:
    """Return the sections of a recipe that define the model, without the paths in them."""
    values = recipe.model_dump(mode="json")
    sections = {name: values[name] for name in _SEALED_SECTIONS}
    sections["model"] = {key: value for key, value in sections["model"].items() if key not in _PATH_KEYS}
    return sections


def model_files(folder: Path) -> list[str]:
    """Return the names of the files in a folder that libraries read as parts of a model."""
    return sorted(
        path.name
        for path in folder.iterdir()
        if path.suffix in _MODEL_SUFFIXES and path.name != MERGED_SEAL and not path.name.startswith(".")
    )


def base_files(folder: Path) -> list[str]:
    """Return the names of the base model's files that a trained run still reads.

    Its tokenizer is not among them: the run has a copy.
    """
    names = {"config.json", "generation_config.json", "model.safetensors.index.json"}
    return sorted(path.name for path in folder.iterdir() if path.suffix == ".safetensors" or path.name in names)


def find_changes(folder: Path, recorded: Mapping[str, str], current: list[str], cache_folder: Path) -> list[str]:
    """Return a sentence for each file of a folder that differs from its recorded digest, is missing or was added.

    Args:
        folder: The folder.
        recorded: The digests by file name.
        current: The names of the files that are there now.
        cache_folder: The run folder, for the cache of digests.
    """
    changes = [f"{folder / name} is missing." for name in sorted(set(recorded) - set(current))]
    changes += [f"{folder / name} was added later." for name in sorted(set(current) - set(recorded))]
    for name in sorted(set(recorded) & set(current)):
        if file_digest(folder / name, cache_folder) != recorded[name]:
            changes.append(f"{folder / name} has changed since it was recorded.")
    return changes


def find_recipe_changes(recorded: Mapping[str, Any], recipe: Recipe, path: Path) -> list[str]:
    """Return a sentence for each key of a saved recipe that differs from its sealed value.

    Keys that are not in the seal are newer than the run and have their defaults.
    """
    current = sealed_sections(recipe)
    changes = []
    for section, values in recorded.items():
        if not isinstance(values, dict):
            if current.get(section) != values:
                changes.append(f"{path}: {section} has changed since training ({values!r} then).")
            continue
        for key, value in values.items():
            if key in current.get(section, {}) and current[section][key] != value:
                changes.append(f"{path}: {section}.{key} has changed since training ({_short(value)} then).")
    return changes


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def add_content_seal(record: dict[str, Any], adapter_sha256: str | None, **files: Any) -> dict[str, Any]:
    """Return a JSON record with a seal: its own digest, that of the adapter, and those of files it describes."""
    # Through JSON once, so that keys and numbers have the form in which they will be read.
    written = json.loads(json.dumps(record, ensure_ascii=False))
    return record | {"seal": {"content": _content_digest(written), "adapter": adapter_sha256, **files}}


def is_content_intact(record: Mapping[str, Any]) -> bool:
    """Return whether a sealed record has the content it was written with; a record without a seal counts as intact."""
    seal = record.get("seal")
    return seal is None or (isinstance(seal, dict) and seal.get("content") == _content_digest(record))


def _content_digest(record: Mapping[str, Any]) -> str:
    # Without timings, equal evaluations have equal seals.
    return json_digest({key: value for key, value in record.items() if key not in ("seal", "speed")})
