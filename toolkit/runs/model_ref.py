"""References to the models of a run."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from toolkit.errors import RunError
from toolkit.recipe.model_kind import ModelKind
from toolkit.runs.run_folder import RunFolder

ModelName = Literal["adapter", "base", "merged", "gguf"]


@dataclass(frozen=True)
class ModelRef:
    """A reference to a run's adapter, base model, merged model or GGUF file, parsed from the user's input.

    Args:
        name: The kind of model.
        gguf: The path of the GGUF file, or None for the other kinds.
    """

    name: ModelName
    gguf: Path | None = None

    @classmethod
    def parse(cls, text: "str | Path | ModelRef") -> "ModelRef":
        """Parse `adapter`, `base`, `merged` or the path of a GGUF file.

        Raises:
            RunError: If the text is none of them.
        """
        if isinstance(text, ModelRef):
            return text
        if str(text) in ("adapter", "base", "merged"):
            return cls(str(text))  # type: ignore[arg-type]
        # Shell completion can add a slash to a file's name; Path removes it.
        if isinstance(text, (str, Path)) and Path(text).suffix == ".gguf":
            return cls("gguf", Path(text))
        raise RunError(f"model={str(text)!r} is not adapter, base, merged or FILE.gguf.")

    def __str__(self) -> str:
        return str(self.gguf) if self.gguf else self.name

    @property
    def file(self) -> Path:
        """The path of the GGUF file, for a reference to one."""
        if self.gguf is None:
            raise ValueError(f"{self.name} is not a GGUF file")
        return self.gguf

    def check(self, run: RunFolder, kind: ModelKind = "decoder") -> None:
        """Check that the run has the model, without importing the packages that load it, which takes seconds.

        Args:
            run: The folder of the run.
            kind: The run's model.kind. Only the adapter of an encoder can be scored.

        Raises:
            RunError: If the run does not have the model, or the file does not exist.
        """
        if kind == "encoder" and self.name != "adapter":
            reason = "their base model has no trained head, and they are neither merged nor exported"
            raise RunError(
                f"model={str(self)!r} is not available for encoder runs: {reason}.", hint='Use model="adapter".'
            )
        hint = f"Create it with: toolkit.open_run({str(run.path)!r}).export()"
        if self.name == "merged" and not (run.merged / "config.json").is_file():
            raise RunError(f"{run.path} contains no merged model: merged/config.json is missing.", hint=hint)
        if self.gguf and not self.gguf.is_file():
            raise RunError(f"There is no GGUF file {self.gguf}.", hint=hint)

    def evaluation_name(self, run: RunFolder) -> str:
        """Return the name of an evaluation of the model: adapter, base, merged or gguf-<file type>."""
        if self.gguf is None:
            return self.name
        # A file of the run is named <run>-<file type>.gguf. Any other GGUF file keeps its full name.
        prefix, is_exported = f"{run.path.resolve().name}-", self.gguf.resolve().parent == run.parity.parent.resolve()
        return f"gguf-{self.gguf.stem.removeprefix(prefix if is_exported else '')}"
