"""The origin of an adapter that another tool trained: the field `imported` of run.json."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class ImportedAdapter:
    """The origin of an imported adapter, as far as its files state it.

    Args:
        source: The name of the folder or the Hub id that it was imported from.
        commit: The commit on the Hub. None for a local folder.
        files: The SHA-256 digests of its configuration and its weights, by file name.
        base_model: The name of the base model in adapter_config.json.
        peft_version: The version of PEFT in adapter_config.json.
        tools: The tools that its model card names in its tags.
        date: The time of the import.
        base: The folder of the base model, if it was not where the recipe says.
    """

    source: str
    commit: str | None
    files: Mapping[str, str]
    base_model: str | None
    peft_version: str | None
    tools: tuple[str, ...]
    date: str
    base: str | None = None

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> "ImportedAdapter | None":
        """Return the origin in a run.json, or None for a run that the toolkit trained."""
        fields = record.get("imported")
        if not isinstance(fields, dict):
            return None
        known = {name: fields.get(name) for name in cls.__dataclass_fields__}
        return cls(**{**known, "tools": tuple(fields.get("tools") or ())})  # type: ignore[arg-type]

    def record(self) -> dict[str, Any]:
        """Return the field for run.json."""
        return {**asdict(self), "tools": list(self.tools)}

    def __str__(self) -> str:
        names = [*self.tools, *([f"PEFT {self.peft_version}"] if self.peft_version else [])]
        tools = f" with {', '.join(names)}" if names else ""
        place = "the Hub repository" if self.commit else "the folder"
        return f"trained elsewhere{tools} and imported from {place} {self.source} on {str(self.date)[:10]}"
