"""A run that has been trained, opened for evaluation, prediction or export."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from toolkit.errors import RecipeError, SealError
from toolkit.recipe.loading import Overrides, build_recipe, diff_recipes, parse_recipe, read_recipe_text
from toolkit.recipe.schema import Recipe
from toolkit.runs.digests import digest_files, file_digest
from toolkit.runs.run_folder import RunFolder, read_json_object
from toolkit.runs.seal import (
    MERGED_SEAL,
    RESTORE_HINT,
    Seal,
    adapter_identity,
    base_files,
    content_digest,
    find_changes,
    find_recipe_changes,
    model_files,
)
from toolkit.utils.atomic_io import write_json

TRAINING_SECTIONS = ("lora", "training.", "data.dev_share", "data.train_rows")
"""The beginnings of keys that have no effect on a trained run."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainedRun:
    """The files of a run, and the recipe to use with it.

    Args:
        folder: The run folder.
        recipe_text: The contents of recipe.yaml.
        saved_recipe: The recipe that the run was trained with.
        recipe: The same recipe with the caller's overrides.
        base: The folder of the base model, if it is not where the recipe says. Its digests must be the recorded ones.
        accept_changes: Whether files that differ from their recorded digests are used nevertheless.
        accepted: The changes of the model that were accepted so far, for the records of results.
        reported: All changes that were accepted so far, each of which is reported once.
    """

    folder: RunFolder
    recipe_text: str
    saved_recipe: Recipe
    recipe: Recipe
    base: Path | None = None
    accept_changes: bool = False
    accepted: list[str] = field(default_factory=list)
    reported: list[str] = field(default_factory=list)

    @classmethod
    def open(
        cls, path: Path, overrides: Overrides = (), *, base: Path | None = None, accept_changes: bool = False
    ) -> "TrainedRun":
        """Open the folder of a finished run, and check its recipe and adapter against its seal.

        Raises:
            RunError: If the folder does not exist or contains no finished run.
            RecipeError: If recipe.yaml is damaged, or an override is invalid.
            SealError: If the recipe or the adapter has changed since training.
        """
        folder = RunFolder.open(path)
        # The recipe with overrides is built from the same text, so that both come from one version of the file.
        text, name = read_recipe_text(folder.recipe_file), folder.recipe_file.name
        values = parse_recipe(text, str(folder.recipe_file))
        saved = build_recipe(values, name)
        run = cls(folder, text, saved, saved, base, accept_changes)
        if overrides:
            run = run.with_overrides(build_recipe(values, name, overrides))
        if run.seal is None:
            logger.warning("WARNING: %s has no seal in run.json, so its files cannot be checked for changes.", path)
        run.verify_adapter()
        return run

    def for_one_result(self) -> "TrainedRun":
        """Return the same run without the changes that were accepted for earlier results."""
        return replace(self, accepted=[])

    def with_overrides(self, recipe: Recipe) -> "TrainedRun":
        """Return the same run with a recipe that a caller has changed.

        Raises:
            RecipeError: If a key has changed that no longer has an effect after training.
        """
        run = self.with_recipe(recipe)
        if changed := [key for key in run.overridden if key.startswith(TRAINING_SECTIONS)]:
            raise RecipeError(
                f"overrides: {changed[0]} has no effect on a run that is already trained.",
                hint="Leave it out, or train another run with it.",
            )
        return run

    def with_recipe(self, recipe: Recipe) -> "TrainedRun":
        """Return the same run with another recipe to use."""
        return replace(self, recipe=recipe)

    @property
    def path(self) -> Path:
        """The run folder."""
        return self.folder.path

    @cached_property
    def record(self) -> dict[str, Any]:
        """The contents of run.json when the run was opened."""
        return self.folder.record

    @cached_property
    def seal(self) -> Seal | None:
        """The digests that were recorded after training; None for a run from before runs were sealed."""
        return Seal.from_record(self.record)

    @property
    def adapter_sha256(self) -> str:
        """One digest of adapter weights and configuration as they are now, which results carry in their seal.

        It differs from the recorded one only if the changes were accepted.
        """
        return adapter_identity(digest_files(self.folder.adapter, model_files(self.folder.adapter), self.path))

    @property
    def overridden(self) -> dict[str, Any]:
        """The values in which `recipe` differs from what the run was trained with, by dotted key."""
        return diff_recipes(self.saved_recipe, self.recipe)

    def verify_adapter(self) -> None:
        """Check run.json, recipe.yaml, the adapter and its tokenizer.

        Raises:
            SealError: If one of them has changed since training.
        """
        if self.seal is None:
            return
        if content_digest(self.record) != self.seal.record:
            self.refuse_changes([f"{self.folder.run_json} has changed since training."])
        changes = find_recipe_changes(self.seal.recipe, self.saved_recipe, self.folder.recipe_file)
        adapter = self.folder.adapter
        self.refuse_changes(changes + find_changes(adapter, self.seal.adapter, model_files(adapter), self.path))

    def verify_base(self, folder: Path) -> None:
        """Check that a folder has the base model that the run was trained on.

        Raises:
            SealError: If it has not.
        """
        if self.seal and (changes := find_changes(folder, self.seal.base, base_files(folder), self.path)):
            self.refuse_changes([f"{folder} is not the base model that {self.path} was trained on: {changes[0]}"])

    def verify_merged(self) -> None:
        """Check that the merged weights are those that were written for this adapter.

        Raises:
            SealError: If they are not.
        """
        merged = self.folder.merged
        if self.seal is None:
            return
        if not (merged / MERGED_SEAL).is_file():
            return self.refuse_changes([f"{merged / MERGED_SEAL} is missing, so the merged weights cannot be checked."])
        seal = read_json_object(merged / MERGED_SEAL)
        if seal.get("adapter") != self.seal.adapter_sha256 or not isinstance(seal.get("files"), dict):
            return self.refuse_changes([f"{merged} was merged from another adapter."])
        self.refuse_changes(find_changes(merged, seal["files"], model_files(merged), self.path))

    def verify_train_log(self) -> None:
        """Check train_log.jsonl, if it still exists.

        Raises:
            SealError: If it has changed since training.
        """
        log = self.folder.train_log
        if self.seal and log.is_file() and file_digest(log, self.path) != self.seal.train_log:
            self.refuse_changes([f"{log} has changed since it was recorded."], affects_model=False)

    def verify_unreplaced(self, adapter_sha256: str | None = None) -> None:
        """Check that the folder still contains the run that was opened, right before a result is written into it.

        Args:
            adapter_sha256: The digest of the adapter when it was loaded.

        Raises:
            SealError: If the run was deleted or changed in the meantime, or another training has replaced it.
        """
        current = self.folder.record
        if current and any(current.get(key) != self.record.get(key) for key in ("started", "seal")):
            raise SealError(
                f"{self.path} was replaced by another training in the meantime, so nothing was written.",
                hint="Run the same command again for the new run.",
            )
        if not current or (adapter_sha256 and self.adapter_sha256 != adapter_sha256):
            raise SealError(
                f"{self.folder.adapter} was changed or deleted in the meantime, so nothing was written.",
                hint="Restore the original from a copy, then run the same command again.",
            )

    def refuse_changes(self, changes: Sequence[str], *, hint: str = RESTORE_HINT, affects_model: bool = True) -> None:
        """Raise an error for changes of files, or record them as accepted.

        Args:
            changes: A sentence for each change.
            hint: What to do.
            affects_model: Whether the results of the model depend on the changes. Only those are recorded.

        Raises:
            SealError: If there are changes, and the run was not opened with `accept_changes`.
        """
        if changes and not self.accept_changes:
            more = f" ({len(changes) - 1} more changes)" if len(changes) > 1 else ""
            raise SealError(f"{changes[0]}{more}", hint=hint)
        for change in changes:
            if change not in self.reported:
                logger.warning("WARNING: %s It is used nevertheless.", change)
                self.reported.append(change)
            if affects_model and change not in self.accepted:
                self.accepted.append(change)


def seal_merged(run: TrainedRun) -> None:
    """Record the digests of merged weights that have just been written, and the adapter that is in them."""
    merged = run.folder.merged
    files = digest_files(merged, model_files(merged), run.path)
    write_json(merged / MERGED_SEAL, {"adapter": run.adapter_sha256, "files": files})
