"""The Python functions that train a model from a recipe."""

from collections.abc import Sequence
from pathlib import Path

from toolkit.api.arguments import to_path
from toolkit.api.imports import import_backend
from toolkit.api.recipes import resolve_recipe
from toolkit.api.run import Run, open_run
from toolkit.data.sources import check_files_exist
from toolkit.errors import RunError
from toolkit.recipe.loading import Overrides
from toolkit.recipe.schema import Recipe
from toolkit.runs.run_folder import RunFolder
from toolkit.runs.run_paths import check_run_path
from toolkit.training.resume_checks import check_resumable
from toolkit.utils.progress import Progress, show_progress


def train(
    recipe: str | Path | Recipe,
    overrides: Overrides = (),
    output_dir: str | Path | None = None,
    *,
    overwrite: bool = False,
    resume: bool = False,
    progress: Progress = False,
    command: Sequence[str] | None = None,
) -> Run:
    """Train the adapter of a recipe in a run folder, and return the run.

    Args:
        recipe: A YAML file, or a recipe.
        overrides: Changes by dotted keys, e.g. `{"training.max_steps": 50}`.
        output_dir: The run folder. The default is `outputs/<file name of the recipe>`.
        overwrite: Replace an existing run.
        resume: Resume an interrupted run from its latest intact checkpoint.
        progress: True for a progress bar on standard error, or a callback.
        command: The command line to record in run.json when a script calls this function.

    Raises:
        ToolkitError: If the recipe cannot work, the run folder is taken, or training had to stop.
    """
    checked, run = _prepare(recipe, overrides, output_dir, overwrite=overwrite, resume=resume)
    from toolkit.training.training_run import TrainingOptions, train_run

    options = TrainingOptions(resume=resume, overwrite=overwrite, command=command)
    with show_progress(progress):
        train_run(checked, run, options)
    return open_run(run.path)  # from the files, so that this is the run that a later process will see


def dry_run(
    recipe: str | Path | Recipe,
    overrides: Overrides = (),
    output_dir: str | Path | None = None,
    *,
    resume: bool = False,
    progress: Progress = False,
) -> None:
    """Do everything that `train` does except the training steps, and write nothing; it takes the arguments of `train`.

    Raises:
        ToolkitError: If training from this recipe cannot work on this machine.
    """
    checked, run = _prepare(recipe, overrides, output_dir, overwrite=None, resume=resume)
    from toolkit.training.training_run import TrainingOptions, train_run

    with show_progress(progress):
        train_run(checked, run, TrainingOptions(resume=resume, dry_run=True))


def _prepare(
    recipe: str | Path | Recipe,
    overrides: Overrides,
    output_dir: str | Path | None,
    *,
    overwrite: bool | None,
    resume: bool,
) -> tuple[Recipe, RunFolder]:
    """Check recipe, data files and run folder first, because the imports for training take seconds.

    Args:
        recipe: See `train`.
        overrides: See `train`.
        output_dir: See `train`.
        overwrite: See `train`; None for a dry run, which accepts an existing folder because it writes nothing.
        resume: See `train`.
    """
    checked = resolve_recipe(recipe, overrides)
    run = RunFolder(default_output_dir(recipe) if output_dir is None else to_path(output_dir, "output_dir"))
    if resume:
        check_resumable(checked, run)
    elif overwrite is not None:
        run.check_not_taken(overwrite=overwrite)
    else:
        check_run_path(run.path)
    check_files_exist(*checked.data.sources)
    import_backend()
    return checked, run


def default_output_dir(recipe: str | Path | Recipe) -> Path:
    """Return the default run folder of a recipe, derived from its file name.

    Raises:
        RunError: If the recipe was not read from a file.
    """
    if isinstance(recipe, Recipe):
        raise RunError("A Recipe object has no file name to derive the run folder from.", hint="Pass output_dir.")
    return Path("outputs") / Path(recipe).stem
