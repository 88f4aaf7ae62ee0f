"""Training, from Python."""

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
from toolkit.training.resume_checks import check_same_run
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
    """Train a recipe's adapter into a run folder, and open the run.

    Args:
        recipe: a YAML file, or a recipe.
        overrides: changes by dotted keys, e.g. `{"training.max_steps": 50}`.
        output_dir: the run folder; default: `outputs/<recipe's file name>`.
        overwrite: replace a run that is there.
        resume: continue an interrupted run from its latest intact checkpoint.
        progress: True for a progress bar on standard error, or a callback.
        command: the command line to record, where a script calls.

    Raises:
        ToolkitError: the recipe cannot work, the run folder is taken, or training had to stop.
    """
    checked, run = _prepare(recipe, overrides, output_dir, overwrite=overwrite, resume=resume)
    from toolkit.training.training_run import TrainingOptions, train_run

    options = TrainingOptions(resume=resume, overwrite=overwrite, command=command)
    with show_progress(progress):
        train_run(checked, run, options)
    return open_run(run.path)


def dry_run(
    recipe: str | Path | Recipe,
    overrides: Overrides = (),
    output_dir: str | Path | None = None,
    *,
    resume: bool = False,
    progress: Progress = False,
) -> None:
    """Do everything that `train` does but the steps, and write nothing; the arguments are those of `train`.

    Raises:
        ToolkitError: whatever would keep the recipe from being trained here.
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
    """Refuse what recipe, files and folder alone tell, before the imports, which take seconds.

    Args:
        overwrite: None for a run that will not be written.
    """
    checked = resolve_recipe(recipe, overrides)
    run = RunFolder(default_output_dir(recipe) if output_dir is None else to_path(output_dir, "output_dir"))
    if resume:
        check_same_run(checked, run)
    elif overwrite is not None:
        run.check_not_taken(overwrite=overwrite)
    check_files_exist(checked.data.train, checked.data.eval)
    import_backend()
    return checked, run


def default_output_dir(recipe: str | Path | Recipe) -> Path:
    """Return the folder of a recipe's run, by the name of its file.

    Raises:
        RunError: the recipe was not read from a file.
    """
    if isinstance(recipe, Recipe):
        raise RunError("A recipe that is no file has no name for its run folder.", hint="Give output_dir.")
    return Path("outputs") / Path(recipe).stem
