"""The import of an adapter that another tool trained, into a run folder like that of a finished training."""

import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from toolkit.models.adapter_fit import check_fits, check_head, write_adapter
from toolkit.models.foreign_adapter import CONFIG, WEIGHTS, ForeignAdapter
from toolkit.models.model_folder import card_tags, fetch_weights, find_model, hub_commit, model_fingerprint
from toolkit.planning.preflight import Preflight, run_preflight
from toolkit.prompts.tokenizer_choice import choose_tokenizer
from toolkit.recipe.loading import dump_recipe
from toolkit.recipe.schema import Recipe
from toolkit.runs.digests import digest_files
from toolkit.runs.imported import ImportedAdapter
from toolkit.runs.run_folder import RunFolder, utc_now
from toolkit.runs.seal import make_seal
from toolkit.runs.versions import git_commit, package_versions
from toolkit.utils.atomic_io import atomic_path
from toolkit.utils.storage import flush_to_disk, folder_lock
from toolkit.utils.terminal import escape_control_characters, use_color

logger = logging.getLogger(__name__)

_TOOLS = ("unsloth", "llama-factory", "axolotl", "trl")
_QUANTIZED_COPY = re.compile(r"(-unsloth)?-bnb-4bit$")


def import_run(
    adapter: ForeignAdapter,
    recipe: Recipe,
    run: RunFolder,
    *,
    source: str,
    base: Path | None = None,
    overwrite: bool = False,
    command: Sequence[str] | None = None,
) -> None:
    """Check an adapter against the recipe's data and base model, and save it in a run folder.

    Args:
        adapter: The adapter.
        recipe: The recipe, with the adapter's own lora section.
        run: The run folder. Nothing is written to it before everything has been checked.
        source: The folder or the Hub id of the adapter, as the user typed it.
        base: The folder of the base model, if it is not where the recipe says.
        overwrite: Replace an older run.
        command: The command line, for run.json; None if Python code started the import.

    Raises:
        ToolkitError: If the recipe cannot work, or the adapter does not fit it.
    """
    found_base = None if base is None else find_model(str(base), weights=False)
    folder = found_base or find_model(recipe.model.name, recipe.model.revision, weights=False)
    tokenizer, reason = choose_tokenizer(adapter.folder, folder)
    preflight = run_preflight(recipe, base=found_base, tokenizer=tokenizer)
    labels = len(recipe.task.labels)
    check_fits(adapter, preflight.folder, labels)
    if base is None:
        fetch_weights(recipe.model.name, preflight.folder)
    else:
        find_model(str(base))
    if adapter.kind == "encoder":
        check_head(adapter, preflight.folder, labels)
    logger.info("%s\n\n%s\n", preflight.report(), preflight.examples(color=use_color()))
    logger.info("%-11s %s", "tokenizer", reason)
    _report_doubts(adapter, preflight)
    with folder_lock(run.path, create=True):
        # Again, now that the folder is locked: another process may have started a run in it in the meantime.
        run.check_not_taken(overwrite=overwrite)
        _write_run(adapter, preflight, run, _origin(adapter, source, base), overwrite=overwrite, command=command)
    logger.info("adapter     %s", run.adapter)


def _report_doubts(adapter: ForeignAdapter, preflight: Preflight[Any]) -> None:
    """Log what the adapter's files leave open: the order of a head's outputs, and the name of its base model."""
    recipe = preflight.recipe
    if adapter.kind == "encoder":
        logger.info(
            "outputs     in the order of task.labels (%s); the adapter does not name them",
            escape_control_characters(", ".join(recipe.task.labels)),
        )
    name = adapter.config.get("base_model_name_or_path")
    if not isinstance(name, str) or not name:
        return
    if _QUANTIZED_COPY.search(name) and not recipe.model.load_in_4bit:
        logger.warning(
            "WARNING     the adapter was trained on 4-bit weights (%s); model.load_in_4bit: true evaluates it on them",
            escape_control_characters(name),
        )
    if _bare_name(name) not in (_bare_name(recipe.model.name), _bare_name(str(preflight.folder))):
        logger.warning(
            "WARNING     the adapter names the base model %s, the recipe %s; all tensors fit",
            *map(escape_control_characters, (name, recipe.model.name)),
        )


def _bare_name(name: str) -> str:
    """Return a model's name without owner or folders, and without the ending of a quantized copy."""
    return _QUANTIZED_COPY.sub("", name.rstrip("/").rpartition("/")[2].lower())


def _origin(adapter: ForeignAdapter, source: str, base: Path | None) -> ImportedAdapter:
    commit = hub_commit(adapter.folder)
    base_model, version = (adapter.config.get(key) for key in ("base_model_name_or_path", "peft_version"))
    tags = card_tags(adapter.folder)
    return ImportedAdapter(
        source=source if commit else adapter.folder.resolve().name,
        commit=commit,
        files=digest_files(adapter.folder, (CONFIG, WEIGHTS)),
        base_model=base_model if isinstance(base_model, str) else None,
        peft_version=version if isinstance(version, str) else None,
        tools=tuple(tool for tool in _TOOLS if tool in tags),
        date=utc_now(),
        base=None if base is None else str(base),
    )


def _write_run(
    adapter: ForeignAdapter,
    preflight: Preflight[Any],
    run: RunFolder,
    origin: ImportedAdapter,
    *,
    overwrite: bool,
    command: Sequence[str] | None,
) -> None:
    recipe, record = preflight.recipe, preflight.record()
    record["model"]["fingerprint"] = model_fingerprint(preflight.folder)
    record |= {
        "versions": package_versions(),
        "git_commit": git_commit(),
        "command": None if command is None else list(command),
        "seed": recipe.seed,
        "imported": origin.record(),
    }
    run.create(record, dump_recipe(recipe), replace=overwrite)
    with atomic_path(run.adapter) as partial:
        partial.mkdir()
        write_adapter(adapter, partial, recipe.model.name)
        preflight.row_tokenizer.tokenizer.save_pretrained(str(partial))
        flush_to_disk(partial)
    fields = {"ended": utc_now(), "status": "completed"}
    # One write, as after training: a run that is killed here is not a completed run without a seal.
    run.update(**fields, seal=make_seal(run.path, recipe, preflight.folder, run.record | fields))
