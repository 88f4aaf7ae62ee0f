"""The section `data` of a recipe: the sources of rows, their columns, labels and formats."""

from typing import Annotated, Literal

from pydantic import Field

from toolkit.recipe.section import Count, Fraction, Names, Section


class FormatSection(Section):
    """The parts of a file's format that cannot always be detected with certainty; null: detect the part."""

    delimiter: Annotated[str, Field(min_length=1, max_length=1)] | None = Field(
        default=None, description='The character between the fields of a text file, e.g. ";" or "\\t".'
    )
    quoting: Literal["standard", "none"] | None = Field(
        default=None,
        description="standard: fields can be in quotation marks; none: quotation marks are ordinary characters.",
    )
    header: bool = Field(default=True, description="true: the first line names the columns; false: it is data.")
    names: Names | None = Field(
        default=None, description="The names of the columns, for a file without a header or for rows that are lists."
    )
    encoding: str | None = Field(
        default=None, description="The encoding of the text, e.g. latin-1; null: that of its byte order mark, or UTF-8."
    )
    records: str | None = Field(
        default=None, description="The key of the list of rows in a JSON file that contains an object, e.g. train."
    )


ColumnNames = dict[str, str | None]
LabelMap = dict[str | bool | int | float, str | None]


class Source(Section):
    """A source of rows: a dataset of the Hugging Face Hub, local files or an embedded dataset."""

    path: Annotated[str, Field(min_length=1)] | Annotated[Names, Field(min_length=1)] = Field(
        description="A dataset id on the Hub, a local file, a list or pattern of files (*.jsonl), or embedded:nli-fr.",
    )
    name: str | None = Field(default=None, description="The configuration of a dataset on the Hub; ignored for a file.")
    split: str | None = Field(default=None, description="The split of a dataset on the Hub or of an embedded one.")
    limit: Count | None = Field(default=None, description="Use only the first N rows; null uses all rows.")
    columns: ColumnNames = Field(
        default_factory=dict, description="Columns of this source, where they differ from those in data.columns."
    )
    label_map: LabelMap | None = Field(
        default=None, description="The label map of this source, instead of data.label_map; null: data.label_map."
    )
    format: FormatSection = Field(default=FormatSection(), description="The format of the files.")


class DataSection(Section):
    """The training rows, the rows to validate on during training, and the evaluation rows."""

    train: Source = Field(description="The training rows.")
    eval: Source = Field(description="The evaluation rows, which are never trained on.")
    eval_share: Fraction = Field(
        default=0.0,
        description="Instead of data.eval: the share of the rows of data.train, in whole groups, to evaluate on.",
    )
    train_rows: Count | None = Field(
        default=None,
        description="Train on at most this many rows, drawn at random in whole groups; null: all rows.",
    )
    dev: Source | None = Field(
        default=None,
        description="Rows for validation during training, e.g. to choose the best step; never trained on.",
    )
    dev_share: Fraction = Field(
        default=0.0,
        description="Instead of data.dev: the share of the training rows, in whole groups, to validate on.",
    )
    split_seed: int | None = Field(
        default=None,
        ge=0,
        description="The seed of data.eval_share and data.dev_share, so that several seeds can share rows; null: seed.",
    )
    columns: ColumnNames = Field(
        default_factory=dict,
        description="Maps inputs, label and id to columns, e.g. {text: sentence}; default: columns of the same name.",
    )
    label_map: LabelMap | None = Field(
        default=None,
        description="Maps values in the data to labels, e.g. {0: entailment}; rows that map to null are left out.",
    )
    unlabeled: Literal["refuse", "skip"] = Field(
        default="refuse", description="refuse: rows without a label are an error; skip: they are left out and counted."
    )
    allow_overlap: bool = Field(default=False, description="Allow rows that occur in two of train, dev and eval.")
    calibration_share: Fraction = Field(
        default=0.0,
        description="Share of the training rows, in whole groups, held out to calibrate probabilities.",
    )

    @property
    def sources(self) -> tuple[Source, ...]:
        """The sources of all rows."""
        return (self.train, *([] if self.dev is None else [self.dev]), self.eval)

    @property
    def has_dev(self) -> bool:
        """True if there are rows to validate on during training."""
        return self.dev is not None or self.dev_share > 0

    @property
    def shares_rows(self) -> bool:
        """True if the evaluation rows are a share of the rows of data.train."""
        train, evaluation = self.train, self.eval
        # The other keys of data.eval are those of files given later, for an evaluation or a prediction.
        return self.eval_share > 0 and (train.path, train.name, train.split) == (
            evaluation.path,
            evaluation.name,
            evaluation.split,
        )
