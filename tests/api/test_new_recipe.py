"""Recipes drafted from files: they pass the preflight, mark what is not known, and bad files are one sentence."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.end_to_end.published_files import SHAPES, quoted_csv, single, write
from toolkit.api.new_recipe import new_recipe
from toolkit.api.preflight import preflight
from toolkit.errors import DataError, RecipeError
from toolkit.recipe.loading import load_recipe

Call = Callable[..., tuple[int, str, str]]
EMBEDDED = "embedded:tiny-llama-fr"
INPUTS = {
    "ag_news": ("title", "description"),
    "snli": ("sentence1", "sentence2"),
    "anli": ("context", "hypothesis"),
    "hans": ("sentence1", "sentence2"),
    "rte": ("sentence1", "sentence2"),
    "mrpc": ("1_string", "2_string"),
    "paws_x": ("sentence1", "sentence2"),
    "sick": ("sentence_a", "sentence_b"),
    "gqnli_fr": ("premise", "hypothesis"),
    "daccord": ("premise", "hypothesis"),
    "tweets": ("text",),
    "pandas_tsv": ("text",),
    "compressed_tsv": ("text",),
    "categorical_parquet": ("text",),
    "float_labels": ("text",),
    "boolean_labels": ("text",),
    "three_inputs": ("question", "passage", "reponse"),
}


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def reviews(count: int = 24) -> str:
    """Write a file with two labels and return its name."""
    rows = single(count, ["positif", "négatif", "positif"])
    table = [("id", "avis", "note", "ville", "étiquette")]
    table += [(f"r{n}", texts[0], str(n % 5), "Lyon", label) for n, (texts, label) in enumerate(rows)]
    write(Path("avis.csv"), quoted_csv(table))
    return "avis.csv"


@pytest.mark.parametrize("name", INPUTS)
def test_draft_of_published_file_loads(name: str, tmp_path: Path) -> None:
    """The drafted recipe reads the file as its own recipe does: as many rows, and the texts of the right columns."""
    files = SHAPES[name](tmp_path)
    source = files.data["train"]
    columns = {**files.data.get("columns", {}), **source.get("columns", {})}
    written = new_recipe(
        source["path"], columns.get("label", "label"), format=source.get("format"), model=EMBEDDED, language="fr"
    )
    recipe = load_recipe(written.path)
    names = tuple(name if name[0] != "1" and name[0] != "2" else f"text_{name}" for name in INPUTS[name])
    assert recipe.task.inputs == names
    assert len(recipe.task.labels) == len(files.task["labels"])
    assert recipe.data.eval_share == 0.2 and "TODO" in written.path.read_text(encoding="utf-8")


@pytest.mark.parametrize("language", ["fr", "en"])
def test_command_drafts_what_preflight_accepts(language: str, call: Call) -> None:
    arguments = ("--label", "étiquette", "--model", EMBEDDED, "--lang", language, "--output", "mine.yaml")
    code, out, err = call("new_recipe", reviews(), *arguments)
    assert code == 0, err
    assert out.splitlines()[1:] == ["python scripts/preflight.py mine.yaml", "python scripts/sft.py mine.yaml"]
    assert [path.name for path in sorted(Path().iterdir())] == ["avis.csv", "mine.yaml"]
    report = preflight("mine.yaml")
    assert report.tokens.rows == 19 and report.fits
    recipe = load_recipe("mine.yaml")
    assert recipe.task.labels == ("positif", "négatif")  # the most frequent one first
    assert dict(recipe.columns_of(recipe.data.train).inputs) == {"text": "avis"}
    assert recipe.columns_of(recipe.data.train).id == "id"
    text = Path("mine.yaml").read_text(encoding="utf-8")
    assert "# column 'note' is not used: " in text and "# column 'ville' is not used: the same text" in text
    assert ("Réponds seulement" if language == "fr" else "Answer with one of") in (recipe.task.system or "")


def test_evaluation_file_replaces_the_share(call: Call) -> None:
    reviews()
    rows = single(6, ["positif", "négatif"], start=300)
    write(Path("test.csv"), quoted_csv([("avis", "étiquette"), *((texts[0], label) for texts, label in rows)]))
    code, _, err = call("new_recipe", "avis.csv", "--label", "étiquette", "--eval", "test.csv", "--model", EMBEDDED)
    assert code == 0, err
    recipe = load_recipe("avis.yaml")
    assert recipe.data.eval_share == 0 and recipe.data.eval.path == str(Path("test.csv").absolute())
    assert recipe.columns_of(recipe.data.eval).id is None  # the second file has no such column


def test_numbers_are_marked_for_naming() -> None:
    rows = [(texts[0], label) for texts, label in single(20, ["10", "9", "10"])]
    write(Path("n.csv"), quoted_csv([("text", "label"), *rows]))
    written = new_recipe("n.csv", "label", model=EMBEDDED)
    recipe = load_recipe(written.path)
    assert recipe.task.labels == ("9", "10") and recipe.task.verbalizers == {"9": "9", "10": "10"}
    assert written.todos == 2
    assert "TODO: the file does not define these labels" in written.path.read_text(encoding="utf-8")


def test_names_of_numbers_are_taken_over() -> None:
    names = {"0": "refus", "1": "accord"}
    rows = [(texts[0], label, names[label]) for texts, label in single(20, ["0", "1"])]
    write(Path("n.csv"), quoted_csv([("text", "label", "label_text"), *rows]))
    recipe = load_recipe(new_recipe("n.csv", "label", model=EMBEDDED).path)
    assert recipe.task.verbalizers == names and recipe.task.inputs == ("text",)


def test_absent_labels_are_left_out_and_marked() -> None:
    rows = [{"text": texts[0], "label": label} for texts, label in single(20, ["oui", "non", "-", ""])]
    write(Path("r.jsonl"), "".join(json.dumps(row) + "\n" for row in rows))
    written = new_recipe("r.jsonl", "label", model=EMBEDDED)
    recipe = load_recipe(written.path)
    assert recipe.task.labels == ("oui", "non")
    assert recipe.data.label_map == {"-": None} and recipe.data.unlabeled == "skip"
    assert "'-' in 5 rows" in written.path.read_text(encoding="utf-8")


def test_many_labels_are_not_listed() -> None:
    labels = [f"thème {number}" for number in range(40)]
    rows = [(f"{texts[0]} Oui {n}.", label) for n, (texts, label) in enumerate(single(400, labels))]
    write(Path("many.csv"), quoted_csv([("text", "label"), *rows]))
    recipe = load_recipe(new_recipe("many.csv", "label", model=EMBEDDED).path)
    assert len(recipe.task.labels) == 40 and "thème" not in (recipe.task.system or "")


def test_strange_names_survive_the_file() -> None:
    """Names with quotation marks, braces, line breaks and keywords of YAML are read back as they are."""
    columns = ['le "titre": {x}', "réponse\n# deux", "null"]
    labels = ["oui: {text}", "no", "'", "étiquette # 2"]
    rows = [(texts[0], f"Suite {n} de la phrase.", label)
            for n, (texts, label) in enumerate(single(40, labels))]  # fmt: skip
    write(Path("s.csv"), quoted_csv([tuple(columns), *rows]))
    recipe = load_recipe(new_recipe("s.csv", "null", model=EMBEDDED).path)
    assert sorted(recipe.task.labels) == sorted(labels)
    assert list(recipe.columns_of(recipe.data.train).inputs.values()) == columns[:2]
    assert recipe.data.train.path == str(Path("s.csv").absolute())


def test_probabilities_become_labels() -> None:
    rows = [
        {"text": texts[0], "label": {"gai": 0.9, "triste": 0.1} if label == "gai" else {"gai": 0.25, "triste": 0.75}}
        for texts, label in single(24, ["gai", "triste"])
    ]
    write(Path("soft.jsonl"), "".join(json.dumps(row) + "\n" for row in [*rows, {"text": "Vide ici.", "label": None}]))
    recipe = load_recipe(new_recipe("soft.jsonl", "label", model=EMBEDDED).path)
    assert sorted(recipe.task.labels) == ["gai", "triste"] and recipe.data.unlabeled == "skip"
    assert preflight("soft.yaml").preflight.splits.train[0].soft_label is not None


@pytest.mark.parametrize(
    ("header", "rows", "label", "sentence"),
    [
        (("text", "label"), [("Il pleut ici.", "a"), ("Il neige ici.", "b")] * 6, "lable",
         "has no column 'lable'; its columns are 'text', 'label'."),
        (("note", "label"), [(str(n), "ab"[n % 2]) for n in range(12)], "label",
         "has no column with texts to classify: 'note' ("),
        (("text", "label"), [(f"Il pleut {n} jours.", f"classe {n}") for n in range(12)], "label",
         "column 'label' has 12 different values in 12 rows, such as 'classe 0', 'classe 1', so it does not contain"),
        (("text", "label"), [(f"Il pleut {n} jours.", "oui") for n in range(12)], "label",
         "column 'label' has the value 'oui' in every row, so there is nothing to learn."),
        (("text", "label"), [(f"Il pleut {n} jours.", "") for n in range(12)], "label",
         "column 'label' has no value in any row, so there is nothing to learn."),
        (("text", "label"), [(f"Il pleut {n} jours.", "{'a': 0.8, 'b': 0.2}") for n in range(12)], "label",
         "Column 'label' has probabilities as a list or as text (\"{'a': 0.8, 'b': 0.2}\")."),
    ],
    ids=["no column", "no text", "unique labels", "one label", "no label", "mappings"],
)  # fmt: skip
def test_unusable_file_is_one_sentence(
    header: tuple[str, ...], rows: list[tuple[str, ...]], label: str, sentence: str, call: Call
) -> None:
    write(Path("x.csv"), quoted_csv([header, *rows]))
    code, _, err = call("new_recipe", "x.csv", "--label", label)
    assert (code, err.count("error: ")) == (2, 1) and sentence in err, err
    assert [path.name for path in Path().iterdir()] == ["x.csv"]


def test_existing_output_is_kept(call: Call) -> None:
    reviews()
    write(Path("avis.yaml"), "mine")
    code, _, err = call("new_recipe", "avis.csv", "--label", "étiquette")
    assert code == 2 and "avis.yaml already exists." in err
    assert Path("avis.yaml").read_text(encoding="utf-8") == "mine"


def test_wrong_arguments_are_refused(call: Call) -> None:
    name = reviews()
    for arguments, error, sentence in [
        ({"eval": name, "eval_share": 0.1}, RecipeError, "eval and eval_share are both given"),
        ({"language": "de"}, RecipeError, "which is not fr or en"),
        ({"eval_share": 1.0}, RecipeError, "data.eval_share"),
        ({"format": {"delimeter": ";"}}, RecipeError, "did you mean data.train.format.delimiter"),
        ({"eval": name}, DataError, "occur in both data.train and data.eval"),
    ]:
        with pytest.raises(error, match=sentence):
            new_recipe(name, "étiquette", **arguments)  # type: ignore[arg-type]
    code, _, err = call("new_recipe", name, "--label", "étiquette", "--format", "[header]")
    assert code == 2 and "is not a mapping" in err
    code, _, err = call("new_recipe", "none.csv", "--label", "étiquette")
    assert code == 2 and "Data file not found" in err
    assert not Path("avis.yaml").exists()


def test_first_row_as_header_needs_format(call: Call) -> None:
    """The refusal names the key, and the flag --format sets it."""
    rows = [(label, texts[0]) for texts, label in single(20, ["1", "2"])]
    write(Path("h.csv"), quoted_csv(rows))
    code, _, err = call("new_recipe", "h.csv", "--label", "class", "--model", EMBEDDED)
    assert code == 2 and "looks like data" in err and "header: false" in err
    form = "{header: false, names: [class, text]}"
    assert call("new_recipe", "h.csv", "--label", "class", "--model", EMBEDDED, "--format", form)[0] == 0
    assert preflight("h.yaml").tokens.rows == 16
