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
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from toolkit.errors import SealError
from toolkit.recipe.schema import Recipe
from toolkit.runs.digests import combine, digest_files, file_digest, json_digest

RESTORE_HINT = "Restore the original from a copy, or pass accept_changes=True to use the files as they are."
_MODEL_SUFFIXES = {".json", ".jinja", ".safetensors", ".model", ".txt"}
"""The suffixes of files that libraries read from a model folder; a model card or a picture changes nothing."""
_ADAPTER_IDENTITY = ("adapter_config.json", "adapter_model.safetensors", "config.json", "model.safetensors")
"""The weights and configuration of an adapter, or of an encoder that was trained without one."""
_SEALED_SECTIONS = ("task", "data", "model", "lora", "training", "seed")
_MODEL_PATH_KEYS = {"name", "revision"}  # a base model can move, its digests decide
_SOURCES = ("train", "dev", "eval")  # data files can move, too; a fingerprint of their rows is in run.json
MERGED_SEAL = "seal.json"


@dataclass(frozen=True)
class Seal:
    """The digests of a trained run, from the field `seal` of run.json.

    Args:
        base: The SHA-256 digests of the base model's weights and configurations, by file name.
        adapter: Those of the adapter folder, without its model card.
        train_log: The digest of train_log.jsonl. "None" for an imported run, which has no log.
        recipe: The sections of the recipe that define the model and its data, without paths.
        record: The digest of the other fields of run.json.
    """

    base: Mapping[str, str]
    adapter: Mapping[str, str]
    train_log: str
    recipe: Mapping[str, Any]
    record: str

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> "Seal | None":
        """Return the seal in run.json, or None for a run from before runs were sealed completely."""
        seal = record.get("seal")
        if not isinstance(seal, dict) or "record" not in seal:  # the first seals did not cover run.json itself
            return None
        sections = {key: seal.get(key) for key in ("base", "adapter", "recipe")}
        if not all(isinstance(section, dict) for section in sections.values()):
            raise SealError("The seal in run.json is damaged.", hint=RESTORE_HINT)
        digests = {key: str(seal.get(key)) for key in ("train_log", "record")}
        return cls(**sections, **digests)  # type: ignore[arg-type]

    @property
    def adapter_sha256(self) -> str:
        """One digest of adapter weights and configuration, which identifies the run."""
        return adapter_identity(self.adapter)

    @property
    def base_sha256(self) -> str:
        """One digest of the base model's weights and configurations."""
        return combine(self.base)


def make_seal(run: Path, recipe: Recipe, base: Path, record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the field `seal` of run.json for a run whose adapter and log, if it has one, have just been written.

    Args:
        run: The run folder.
        recipe: The recipe of the run.
        base: The folder of the base model.
        record: The other fields of run.json.
    """
    log = run / "train_log.jsonl"
    return {
        "base": digest_files(base, base_files(base), run),
        "adapter": digest_files(run / "adapter", model_files(run / "adapter"), run),
        "train_log": file_digest(log, run) if log.is_file() else None,
        "recipe": sealed_sections(recipe),
        "record": content_digest(record),
    }


def adapter_identity(digests: Mapping[str, str]) -> str:
    """Return one digest of adapter weights and configuration."""
    return combine({name: digests[name] for name in _ADAPTER_IDENTITY if name in digests})


def sealed_sections(recipe: Recipe) -> dict[str, Any]:
    """Return the sections of a recipe that define the model and its data, without the paths in them."""
    values = json.loads(recipe.model_dump_json())  # a mapping's integer keys become text, as in run.json
    sections = {name: values[name] for name in _SEALED_SECTIONS}
    sections["model"] = {key: value for key, value in sections["model"].items() if key not in _MODEL_PATH_KEYS}
    for name in _SOURCES:
        if sections["data"][name] is not None:
            sections["data"][name].pop("path")
    return sections


def model_files(folder: Path) -> list[str]:
    """Return the paths, relative to a folder, of the files in it that libraries read as parts of a model."""
    # Tokenizers can have further chat templates in a subfolder.
    paths = (path.relative_to(folder) for path in folder.rglob("*") if path.suffix in _MODEL_SUFFIXES)
    return sorted(
        path.as_posix()
        for path in paths
        if path.name != MERGED_SEAL and not any(part.startswith(".") for part in path.parts)
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
        if not (folder / name).is_file():  # a folder, a pipe or a link that leads nowhere
            changes.append(f"{folder / name} is not a file.")
        elif file_digest(folder / name, cache_folder) != recorded[name]:
            changes.append(f"{folder / name} has changed since it was recorded.")
    return changes


def find_recipe_changes(recorded: Mapping[str, Any], recipe: Recipe, path: Path) -> list[str]:
    """Return a sentence for each key of a saved recipe that differs from its sealed value.

    Keys that are not in the seal are newer than the run and have their defaults.
    """
    return [
        f"{path}: {key} has changed since training ({_short(value)} then)."
        for key, value in _differences(recipe, recorded, sealed_sections(recipe), "")
    ]


def _differences(
    section: BaseModel, recorded: Mapping[str, Any], current: Mapping[str, Any], prefix: str
) -> Iterator[tuple[str, Any]]:
    """Yield the dotted key and the recorded value of each sealed key that differs."""
    for key in sorted(recorded.keys() & current.keys()):
        value, child = recorded[key], getattr(section, key)
        # Only sections get keys in later versions. A mapping, such as label_map, is compared as a whole.
        if isinstance(child, BaseModel) and isinstance(value, dict):
            yield from _differences(child, value, current[key], f"{prefix}{key}.")
        elif value != current[key]:
            yield f"{prefix}{key}", value


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def add_content_seal(record: dict[str, Any], adapter_sha256: str | None, **files: Any) -> dict[str, Any]:
    """Return a JSON record with a seal: its own digest, that of the adapter, and those of files it describes."""
    seal = {"adapter": adapter_sha256, **files}
    return record | {"seal": {"content": content_digest({**record, "sealed": seal}), **seal}}


def is_content_intact(record: Mapping[str, Any]) -> bool:
    """Return whether a sealed record has the content it was written with; a record without a seal counts as intact."""
    seal = record.get("seal")
    if not isinstance(seal, dict):
        return seal is None
    others = {key: value for key, value in seal.items() if key != "content"}
    return bool(seal.get("content") == content_digest({**record, "sealed": others}))


def content_digest(record: Mapping[str, Any]) -> str:
    """Return the digest of a JSON record without its seal."""
    # Through JSON once, so that keys and numbers have the form in which they will be read.
    return json_digest(json.loads(json.dumps({key: value for key, value in record.items() if key != "seal"})))


def find_accepted_changes(path: Path, record: Mapping[str, Any]) -> list[str]:
    """Return a sentence if the results in a JSON record are those of changed files, which a user had accepted."""
    accepted = record.get("accepted_changes")
    return [f"{path} describes a model with accepted changes: {accepted[0]}"] if accepted else []
