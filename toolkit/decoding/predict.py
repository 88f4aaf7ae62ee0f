"""Labels for new pairs: one, or a file of any size, with what was scored so far safe from an interruption."""

import hashlib
import json
import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import Any

from scipy.special import softmax
from tqdm.auto import tqdm

import toolkit
from toolkit.data.annotate import Answer, added_columns, annotate, columns_of, refuse_formats
from toolkit.data.checks import row_texts
from toolkit.data.sources import Row, stream_file
from toolkit.decoding.classifiers import open_classifier
from toolkit.decoding.journal import CHUNK_ROWS, Journal, open_journal
from toolkit.errors import DataError, RunError
from toolkit.files import atomic_path, file_fingerprint, file_sha256
from toolkit.pairs import EncodedPair, row_encoder
from toolkit.prompts import EncodedRow, load_tokenizer
from toolkit.recipe import Recipe
from toolkit.recipe_file import differences, load_recipe
from toolkit.run_folder import RunFolder, read_object

_SHOWN_ROWS = 3


class Predictor:
    """A run's model, ready to label pairs; its weights are loaded when the first one is scored.

    Args:
        run: a finished run.
        recipe: its recipe, with whatever the caller overrides.
        model: adapter, base, merged, or the path of a GGUF.
        calibrated: divide log-likelihoods by the temperature that the model's evaluation found.

    Raises:
        ToolkitError: the model is not there, or was never calibrated.
    """

    def __init__(self, run: RunFolder, recipe: Recipe, *, model: str = "adapter", calibrated: bool = False) -> None:
        self.run, self.recipe, self.model = run, recipe, model
        self.temperature = stored_temperature(run, recipe, model) if calibrated else 1.0
        if not model.endswith(".gguf"):
            import toolkit.model.backend  # noqa: F401 - Unsloth comes before transformers, which the tokenizer imports
        self.encoder = row_encoder(load_tokenizer(run.adapter), recipe)
        self.labels = recipe.task.labels

    def pair(self, premise: str, hypothesis: str) -> Answer:
        """Label one pair.

        Raises:
            DataError: a text is empty or too long.
        """
        names = self.recipe.data.columns
        try:
            row = self._encode({names.premise: premise, names.hypothesis: hypothesis})
        except DataError as error:
            raise DataError(f"The pair cannot be scored: {error}.") from error
        with open_classifier(self.model, self.run, self.recipe, self.encoder, show_progress=False) as classifier:
            scores = classifier.label_scores([row])
        return next(self._answers(scores.decoded, scores.log_likelihoods))

    def file(self, source: Path, target: Path) -> int:
        """Label each row of a file and write them, with all their columns, in the same format.

        Every row is checked before the first is scored. Scores gather in `target`.partial, from which the same call
        goes on; `target` appears at the end, whole.

        Returns:
            How many premises lost their end to fit.

        Raises:
            ToolkitError: naming the rows that cannot be scored, or what else is wrong; `target` is untouched.
        """
        refuse_formats(source, target)
        fingerprint = file_fingerprint([source])
        rows, shortened = self._check(source)
        origin = {
            "input": fingerprint,
            "model": file_fingerprint(self._model_files()),
            "recipe": self._recipe_fingerprint(),
            "toolkit version": toolkit.__version__,
            "rows": rows,
        }
        with open_journal(target.with_name(f"{target.name}.partial"), origin) as journal:
            self._score(source, rows, journal)
            if file_fingerprint([source]) != fingerprint:
                raise DataError(f"{source} changed while it was read.", hint="Start again when it is complete.")
            with atomic_path(target) as unfinished:
                answers = (answer for chunk in journal.chunks() for answer in self._answers(*chunk))
                annotate(source, unfinished, answers, self.labels)
            journal.path.unlink()
        return shortened

    def _encode(self, row: Row) -> EncodedRow | EncodedPair:
        return self.encoder.question(*row_texts(self.recipe, row))

    def _check(self, source: Path) -> tuple[int, int]:
        """(rows, those whose premise is shortened); a row that cannot be scored is refused by its number."""
        self._check_columns(source)
        taken = added_columns(source.suffix, self.labels)
        number = shortened = 0
        refused: list[str] = []
        for number, row in enumerate(tqdm(stream_file(source), desc="checking", unit="row"), 1):
            try:
                if clash := [column for column in taken if column in row]:
                    raise DataError(f"it has a column {clash[0]!r} already")
                shortened += self._encode(row).shortened
            except DataError as error:
                refused.append(f"row {number}: {error}" if len(refused) < _SHOWN_ROWS else "")
        if refused:
            more = f" ({len(refused)} rows cannot be scored)" if len(refused) > 1 else ""
            raise DataError(f"{source}, {'; '.join(refused[:_SHOWN_ROWS])}{more}.", hint="Mend or remove the rows.")
        return number, shortened

    def _check_columns(self, source: Path) -> None:
        columns = columns_of(source)
        names = self.recipe.data.columns
        for column in (names.premise, names.hypothesis):
            if column not in columns:
                raise DataError(
                    f"{source} has no column {column!r}; its columns are {', '.join(map(repr, columns))}.",
                    hint="Name the columns, e.g. --set data.columns.premise=sentence1.",
                )

    def _model_files(self) -> list[Path]:
        tokenizer = [self.run.adapter / "tokenizer.json", self.run.adapter / "chat_template.jinja"]
        if self.model.endswith(".gguf"):
            weights = [Path(self.model)]
        elif self.model == "merged":
            weights = sorted(self.run.merged.glob("*.safetensors"))
        else:
            from toolkit.model.files import find_base

            weights = sorted(find_base(self.run, self.recipe).glob("*.safetensors"))
        if self.model == "adapter":
            weights += [self.run.adapter / "adapter_config.json", self.run.adapter / "adapter_model.safetensors"]
        return [path for path in [*weights, *tokenizer] if path.is_file()]

    def _recipe_fingerprint(self) -> str:
        recipe = self.recipe
        columns = [recipe.data.columns.premise, recipe.data.columns.hypothesis]
        settings = [recipe.task.model_dump(), recipe.model.model_dump(), recipe.evaluation.batch_tokens, columns]
        return hashlib.sha256(json.dumps(settings, ensure_ascii=False).encode()).hexdigest()

    def _score(self, source: Path, rows: int, journal: Journal) -> None:
        """Score what the journal lacks."""
        if journal.done == rows:
            return
        with ExitStack() as stack:
            opened = open_classifier(self.model, self.run, self.recipe, self.encoder, show_progress=False)
            classifier = stack.enter_context(opened)
            bar = stack.enter_context(tqdm(total=rows, initial=journal.done, desc="predicting", unit="row"))
            remaining = islice(stream_file(source), journal.done, None)
            try:
                while chunk := list(islice(remaining, CHUNK_ROWS)):
                    rows_read = [self._encode(row) for row in chunk]
                    scores = classifier.label_scores(rows_read, first_row=journal.done + 1)
                    journal.append(scores.decoded, scores.log_likelihoods)
                    bar.update(len(chunk))
            except KeyboardInterrupt:
                bar.close()
                kept = f"{journal.done:,} of {rows:,} rows are kept in {journal.path}"
                print(f"{kept}; the same command goes on from there.", file=sys.stderr)
                raise

    def _answers(self, predicted: Sequence[str], log_likelihoods: Any) -> Iterator[Answer]:
        probabilities = softmax(log_likelihoods / self.temperature, axis=1).tolist()
        return map(Answer, predicted, probabilities)


def stored_temperature(run: RunFolder, recipe: Recipe, model: str) -> float:
    """The temperature that the evaluation of `model` on the recipe's own rows found (Guo et al. 2017).

    Raises:
        RunError: there is no such evaluation, it found none, or it was of another prompt or file.
    """
    changed = [key for key in differences(load_recipe(run.recipe), recipe) if key.startswith(("task.", "model."))]
    if changed:
        raise RunError(
            f"--calibrated uses a temperature that was fitted with the run's own recipe, and {changed[0]} is changed.",
            hint="Leave out --calibrated, or the --set.",
        )
    label = run.model_label(model)
    path = run.eval / label / "metrics.json"
    metrics = read_object(path) if path.is_file() else {}
    calibration = metrics.get("calibration") or {}
    temperature = calibration.get("temperature") if isinstance(calibration, dict) else "none"
    if temperature is None:
        raise RunError(
            f"--calibrated needs the temperature of {model}, and {path} holds none.",
            hint="It is fitted on rows held back from training: train with data.calibration_share, then "
            f"python scripts/eval_generate.py {run.path} --model {model}",
        )
    if model.endswith(".gguf") and metrics.get("model_sha256") != file_sha256(Path(model)):
        raise RunError(
            f"--calibrated uses the temperature in {path}, and {model} is not the file that was measured there.",
            hint=f"Measure this one: python scripts/eval_generate.py {run.path} --model {model}",
        )
    if not isinstance(temperature, (int, float)) or not 0 < temperature < math.inf:
        raise RunError(f"{path} holds no temperature above 0, so it is damaged.", hint="Evaluate again.")
    return float(temperature)
