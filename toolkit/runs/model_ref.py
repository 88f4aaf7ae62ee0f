"""A reference to one of the models that belong to a run."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from toolkit.errors import RunError
from toolkit.recipe.model_kind import Kind
from toolkit.runs.run_folder import RunFolder

ModelName = Literal["adapter", "base", "merged", "gguf"]


@dataclass(frozen=True)
class ModelRef:
    """A run's adapter, its base model, its merged weights, or a GGUF file; parsed once, from what the user typed.

    Args:
        name: which of the four.
        gguf: the GGUF file; None for the others.
    """

    name: ModelName
    gguf: Path | None = None

    @classmethod
    def parse(cls, text: "str | Path | ModelRef") -> "ModelRef":
        """Read `adapter`, `base`, `merged` or the path of a GGUF file.

        Raises:
            RunError: it is none of them.
        """
        if isinstance(text, ModelRef):
            return text
        if str(text) in ("adapter", "base", "merged"):
            return cls(str(text))  # type: ignore[arg-type]
        # pathlib drops the slash of `file.gguf/`, which a shell's completion may add.
        if isinstance(text, (str, Path)) and Path(text).suffix == ".gguf":
            return cls("gguf", Path(text))
        raise RunError(f"model={str(text)!r} is none of adapter, base, merged and FILE.gguf.")

    def __str__(self) -> str:
        return str(self.gguf) if self.gguf else self.name

    @property
    def file(self) -> Path:
        """The GGUF file of a reference to one."""
        if self.gguf is None:
            raise ValueError(f"{self.name} is not a GGUF file")
        return self.gguf

    def check(self, run: RunFolder, kind: Kind = "decoder") -> None:
        """Refuse a model that the run does not have; a look alone, for before packages that take seconds to import.

        Args:
            run: the run's folder.
            kind: the run's model.kind; of an encoder, only the adapter can be scored.

        Raises:
            RunError: there is no such model in the run, and no such file.
        """
        if kind == "encoder" and self.name != "adapter":
            reason = ", whose base has no trained head and which is neither merged nor exported"
            raise RunError(
                f"model={str(self)!r} is not available for encoder runs{reason}.", hint='Use model="adapter".'
            )
        hint = f"Make it: toolkit.open_run({str(run.path)!r}).export()"
        if self.name == "merged" and not (run.merged / "config.json").is_file():
            raise RunError(f"{run.path} holds no merged model.", hint=hint)
        if self.gguf and not self.gguf.is_file():
            raise RunError(f"There is no GGUF file {self.gguf}.", hint=hint)

    def label(self, run: RunFolder) -> str:
        """Return what an evaluation of the model is called: adapter, base, merged, or gguf-<file type>."""
        if self.gguf is None:
            return self.name
        return f"gguf-{self.gguf.stem.removeprefix(f'{run.path.resolve().name}-')}"
