"""Small files in the exact shapes in which classification datasets are published, with sentences of our own."""

import csv
import gzip
import io
import json
import zipfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

LabeledTexts = tuple[tuple[str, ...], str]
"""The texts of a row, in the order of the inputs, and its label."""


@dataclass(frozen=True)
class PublishedFiles:
    """Files of one shape, and how to read them.

    Args:
        task: The keys of the recipe's section `task`.
        data: The keys of the recipe's section `data`.
        train: The rows that were written to the training file.
        eval: The rows that were written to the evaluation file; empty with `eval_share`, where `train` has all rows.
        sections: Other sections of the recipe.
    """

    task: dict[str, Any]
    data: dict[str, Any]
    train: list[LabeledTexts]
    eval: list[LabeledTexts] = field(default_factory=list)
    sections: dict[str, Any] = field(default_factory=dict)

    @property
    def recipe(self) -> dict[str, Any]:
        """The sections of the recipe, without the model."""
        return {"task": {"system": None, **self.task}, "data": self.data, **self.sections}


NOUNS = ["chat", "chien", "train", "livre", "jardin", "voisin", "médecin", "enfant", "bateau", "vélo", "marché", "pont"]
VERBS = ["dort", "part", "arrive", "tombe", "attend", "change", "revient", "brille"]
NLI = ["entailment", "neutral", "contradiction"]
NLI_TASK = {"labels": NLI, "user": "{premise}\n{hypothesis}"}
TWO_SENTENCES = "{sentence1}\n{sentence2}"


def sentences(count: int, start: int = 0) -> list[str]:
    """Return different French sentences."""
    return [
        f"Le {NOUNS[number % len(NOUNS)]} {VERBS[number % len(VERBS)]} à {number // 60 % 24} h {number % 60:02}."
        for number in range(start, start + count)
    ]


def pairs(count: int, labels: Sequence[str], start: int = 0) -> list[LabeledTexts]:
    """Return rows with two sentences, which have the labels in turn."""
    second = sentences(count, start + 700)
    return [
        ((one, two), labels[number % len(labels)])
        for number, (one, two) in enumerate(zip(sentences(count, start), second, strict=True))
    ]


def single(count: int, labels: Sequence[str], start: int = 0) -> list[LabeledTexts]:
    """Return rows with one sentence, which have the labels in turn."""
    return [((text,), labels[number % len(labels)]) for number, text in enumerate(sentences(count, start))]


def lines(rows: Iterable[Sequence[str]], end: str = "\n", delimiter: str = "\t") -> str:
    """Return rows as text in which nothing is quoted or escaped."""
    return "".join(delimiter.join(row) + end for row in rows)


def quoted_csv(rows: Iterable[Sequence[str]], delimiter: str = ",", end: str = "\n", quoting: int = 0) -> str:
    """Return rows as CSV text."""
    file = io.StringIO()
    csv.writer(file, delimiter=delimiter, lineterminator=end, quoting=quoting).writerows(rows)  # type: ignore[arg-type]
    return file.getvalue()


def write(path: Path, text: str, encoding: str = "utf-8") -> str:
    """Write a file without translating line ends, and return its path."""
    path.write_bytes(text.encode(encoding))
    return str(path)


def ag_news(folder: Path) -> PublishedFiles:
    """Write CSV files without a header whose fields are all quoted: class index, title, description."""
    labels = ["World", "Sports", "Business", "Sci/Tech"]
    rows = [
        ((f"{text} (agence)", f'Un témoin, hier : "{text}" \\$50, puis rien -- #39;fin#39;.'), label)
        for (text,), label in single(28, labels)
    ]
    files = {}
    for name, some in (("train", rows[:20]), ("test", rows[20:])):
        fields = [(str(labels.index(label) + 1), *texts) for texts, label in some]
        files[name] = write(folder / f"{name}.csv", quoted_csv(fields, quoting=csv.QUOTE_ALL))
    form = {"header": False, "names": ["class", "title", "description"]}
    data = {
        "train": {"path": files["train"], "format": form},
        "eval": {"path": files["test"], "format": form},
        "columns": {"label": "class"},
        "label_map": dict(enumerate(labels, 1)),
    }
    return PublishedFiles({"labels": labels, "user": "{title}\n{description}"}, data, rows[:20], rows[20:])


TREC_LABELS = {"ABBR": "exp", "DESC": "manner", "ENTY": "animal", "HUM": "ind", "LOC": "city", "NUM": "date"}


def trec(folder: Path) -> list[LabeledTexts]:
    """Write `LABEL:sub text` in latin-1 to train_5500.label, which only a conversion makes readable."""
    rows = [
        ((f'Pourquoi " {text[:-1]} " déjà ?',), label) for (text,), label in single(24, list(TREC_LABELS), start=40)
    ]
    text = "".join(f"{label}:{TREC_LABELS[label]} {text}\n" for (text,), label in rows)
    write(folder / "train_5500.label", text, "latin-1")
    return rows


def trec_converted(train: Path, rows: Sequence[LabeledTexts]) -> PublishedFiles:
    """Return how to read TREC's file after the conversion in docs/data.md."""
    form = {"header": False, "names": ["label", "text"], "encoding": "latin-1", "quoting": "none"}
    data = {"train": {"path": str(train), "format": form}, "eval_share": 0.25}
    return PublishedFiles({"labels": list(TREC_LABELS), "user": "{text}"}, data, list(rows))


def banking77(folder: Path) -> PublishedFiles:
    """Write CSV files with 77 labels, some of them with capitals and a question mark, and texts with line breaks."""
    objects = ["card", "transfer", "refund", "pin", "fee", "limit", "top_up", "cash", "account", "rate", "code"]
    labels = [
        f"{thing}_{state}" for thing in objects for state in ("lost", "late", "wrong", "new", "why", "who", "how")
    ]
    labels[5], labels[20] = "Card_who", "refund_how?"
    rows = [
        ((f'Bonjour, {text}\n\nMon problème est "{label}", merci.',), label)
        for (text,), label in single(77 * 2 + 20, labels)
    ]
    train, test = rows[: 77 * 2], rows[77 * 2 :]
    for name, some in (("train", train), ("test", test)):
        table = [("text", "category"), *((texts[0], label) for texts, label in some)]
        write(folder / f"{name}.csv", quoted_csv(table))
    data = {
        "train": {"path": str(folder / "train.csv")},
        "eval": {"path": str(folder / "test.csv")},
        "columns": {"label": "category"},
    }
    return PublishedFiles({"labels": labels, "user": "{text}"}, data, train, test)


def clinc150(folder: Path) -> PublishedFiles:
    """Write a JSON object with a list of [text, label] for each split, with 150 labels."""
    places = [
        "bank",
        "car",
        "flight",
        "hotel",
        "meal",
        "music",
        "news",
        "pay",
        "pet",
        "song",
        "tax",
        "time",
        "tip",
        "tv",
    ]
    acts = ["ask", "book", "buy", "cancel", "change", "find", "fix", "list", "move", "stop"]
    labels = [f"{act}_{place}" for place in [*places, "weather"] for act in acts]
    train = [((f"{text} ({label})",), label) for (text,), label in single(300, labels)]
    test = [((f"{text} / {label}",), label) for (text,), label in single(20, labels, start=400)]
    splits = {
        "oos_val": [["une phrase de plus", "oos"]],
        "val": [[texts[0] + "!", label] for texts, label in train[:9]],
        "train": [[texts[0], label] for texts, label in train],
        "test": [[texts[0], label] for texts, label in test],
    }
    path = write(folder / "data_full.json", json.dumps(splits, ensure_ascii=True, indent=2))
    names = ["text", "intent"]
    data = {
        "train": {"path": path, "format": {"records": "train", "names": names}},
        "eval": {"path": path, "format": {"records": "test", "names": names}},
        "columns": {"label": "intent"},
    }
    return PublishedFiles({"labels": labels, "user": "{text}"}, data, train, test)


def snli(folder: Path) -> PublishedFiles:
    """Write JSON Lines in which some rows have the gold label "-", next to lists and parses."""
    written = {"train": pairs(16, [*NLI, "-"]), "dev": pairs(8, [*NLI, "-"], start=100)}
    for name, rows in written.items():
        texts = []
        for number, ((premise, hypothesis), label) in enumerate(rows):
            row = {
                "annotator_labels": [label] if label != "-" else ["neutral", "entailment"],
                "captionID": f"{number // 4}.jpg#0",
                "gold_label": label,
                "pairID": f"{name}-{number}r1n",
                "sentence1": premise,
                "sentence1_binary_parse": f"( {premise} )",
                "sentence2": hypothesis,
                "sentence2_parse": f"(ROOT (S {hypothesis}))",
            }
            texts.append(json.dumps(row) + "\n")
        write(folder / f"snli_1.0_{name}.jsonl", "".join(texts))
    data = {
        "train": {"path": str(folder / "snli_1.0_train.jsonl")},
        "eval": {"path": str(folder / "snli_1.0_dev.jsonl")},
        "columns": {"premise": "sentence1", "hypothesis": "sentence2", "label": "gold_label", "id": "pairID"},
        "label_map": {"-": None},
    }
    train, evaluation = ([row for row in rows if row[1] != "-"] for rows in written.values())
    return PublishedFiles(NLI_TASK, data, train, evaluation)


def anli(folder: Path) -> PublishedFiles:
    """Write JSON Lines with the labels e, n and c, and an evaluation file with other columns and labels."""
    train, evaluation = pairs(15, NLI), pairs(9, NLI, start=200)
    texts = [
        json.dumps(
            {"uid": f"u{number}", "context": premise, "hypothesis": hypothesis, "label": label[0], "model_label": "n",
             "emturk": True, "genre": "news", "reason": None, "tag": ["numérique"]},
            ensure_ascii=False,
        )
        for number, ((premise, hypothesis), label) in enumerate(train)
    ]  # fmt: skip
    (folder / "R1").mkdir()
    (folder / "test").mkdir()
    write(folder / "R1" / "train.jsonl", "\n".join(texts))
    table = [("language", "gold_label", "sentence1", "sentence2")]
    table += [("fr", label, *two) for two, label in evaluation]  # type: ignore[list-item]
    write(folder / "test" / "xnli.test.tsv", lines(table))
    data = {
        "train": {
            "path": str(folder / "R1" / "train.jsonl"),
            "columns": {"premise": "context", "id": "uid"},
            "label_map": {"e": "entailment", "n": "neutral", "c": "contradiction"},
        },
        "eval": {
            "path": str(folder / "test" / "xnli.test.tsv"),
            "columns": {"premise": "sentence1", "hypothesis": "sentence2", "label": "gold_label"},
        },
    }
    return PublishedFiles(NLI_TASK, data, train, evaluation)


def hans(folder: Path) -> PublishedFiles:
    """Write two-way TSV files named .txt, in which the label comes first and parses separate it from the sentences."""
    labels = ["entailment", "non-entailment"]
    train, evaluation = pairs(14, labels), pairs(8, labels, start=300)
    header = (
        "gold_label",
        "sentence1_binary_parse",
        "sentence1_parse",
        "sentence1",
        "sentence2",
        "pairID",
        "heuristic",
    )
    for name, rows in (("train", train), ("evaluation", evaluation)):
        table = [
            (label, f"( ( {one} ) . )", f"(ROOT {one})", one, two, f"ex{number}", "lexical_overlap")
            for number, ((one, two), label) in enumerate(rows)
        ]
        write(folder / f"heuristics_{name}_set.txt", lines([header, *table]))
    data = {
        "train": {"path": str(folder / "heuristics_train_set.txt")},
        "eval": {"path": str(folder / "heuristics_evaluation_set.txt")},
        "columns": {"premise": "sentence1", "hypothesis": "sentence2", "label": "gold_label"},
    }
    return PublishedFiles(
        {**NLI_TASK, "labels": labels}, data, train, evaluation, {"evaluation": {"slice_by": ["heuristic"]}}
    )


def rte(folder: Path) -> PublishedFiles:
    """Write two-way TSV files with an index column and lone quotation marks."""
    labels = ["entailment", "not_entailment"]
    written = {"train": pairs(14, labels), "dev": pairs(8, labels, start=500)}
    for name, rows in written.items():
        for number in range(0, len(rows), 3):  # a quotation that starts a field, and one that only ends
            (one, two), label = rows[number]
            rows[number] = ((f'"{one}', f'{two}"') if number % 2 else (one, f'"{two}'), label)
        table = [(str(number), *two, label) for number, (two, label) in enumerate(rows)]
        write(folder / f"{name}.tsv", lines([("index", "sentence1", "sentence2", "label"), *table]))
    form = {"quoting": "none"}
    data = {
        "train": {"path": str(folder / "train.tsv"), "format": form},
        "eval": {"path": str(folder / "dev.tsv"), "format": form},
        "columns": {"premise": "sentence1", "hypothesis": "sentence2", "id": "index"},
    }
    return PublishedFiles({**NLI_TASK, "labels": labels}, data, written["train"], written["dev"])


def mrpc(folder: Path) -> PublishedFiles:
    """Write TSV files named .txt with a byte-order mark, CRLF and lone quotation marks."""
    labels = ["not_equivalent", "equivalent"]
    written = {"train": pairs(16, labels), "test": pairs(8, labels, start=600)}
    for name, rows in written.items():
        for number in range(1, len(rows), 4):
            (one, two), label = rows[number]
            rows[number] = ((f'" {one}', f'Il a dit : " {two}'), label)
        table = [(str(labels.index(label)), f"70{n}", f"71{n}", *two) for n, (two, label) in enumerate(rows)]
        header = ("Quality", "#1 ID", "#2 ID", "#1 String", "#2 String")
        write(folder / f"msr_paraphrase_{name}.txt", lines([header, *table], "\r\n"), "utf-8-sig")
    form = {"quoting": "none"}
    data = {
        "train": {"path": str(folder / "msr_paraphrase_train.txt"), "format": form},
        "eval": {"path": str(folder / "msr_paraphrase_test.txt"), "format": form},
        "columns": {"sentence1": "#1 String", "sentence2": "#2 String", "label": "Quality"},
        "label_map": {1: "equivalent", 0: "not_equivalent"},
    }
    return PublishedFiles({"labels": labels, "user": TWO_SENTENCES}, data, written["train"], written["test"])


def paws_x(folder: Path) -> PublishedFiles:
    """Write TSV files with the labels 0 and 1, in which quotation marks occur inside of fields."""
    labels = ["différent", "paraphrase"]
    (folder / "fr").mkdir()
    written = {"translated_train": pairs(14, labels), "dev_2k": pairs(8, labels, start=800)}
    for name, rows in written.items():
        (one, two), label = rows[0]
        rows[0] = ((f"{one} « {two} »", f'Le "{two}" dure 3" environ.'), label)
        table = [(str(number), *two, str(labels.index(label))) for number, (two, label) in enumerate(rows, 1)]
        write(folder / "fr" / f"{name}.tsv", lines([("id", "sentence1", "sentence2", "label"), *table]))
    data = {
        "train": {"path": str(folder / "fr" / "translated_train.tsv")},
        "eval": {"path": str(folder / "fr" / "dev_2k.tsv")},
        "columns": {"id": "id"},
        "label_map": {0: "différent", 1: "paraphrase"},
    }
    return PublishedFiles(
        {"labels": labels, "user": TWO_SENTENCES}, data, written["translated_train"], written["dev_2k"]
    )


def sick(folder: Path) -> PublishedFiles:
    """Write one TSV file named .txt with labels in capitals and scores; its splits are in a column."""
    rows = pairs(30, NLI)
    header = ("pair_ID", "sentence_A", "sentence_B", "entailment_label", "relatedness_score", "SemEval_set")
    table = [
        (str(number), *two, label.upper(), f"{1 + number % 40 / 10}", "TRAIN" if number % 3 else "TEST")
        for number, (two, label) in enumerate(rows, 1)
    ]
    data = {
        "train": {"path": write(folder / "SICK.txt", lines([header, *table]))},
        "eval_share": 0.2,
        "columns": {
            "premise": "sentence_A", "hypothesis": "sentence_B", "label": "entailment_label", "id": "pair_ID",
        },
        "label_map": {label.upper(): label for label in NLI},
    }  # fmt: skip
    return PublishedFiles(NLI_TASK, data, rows)


def gqnli_fr(folder: Path) -> PublishedFiles:
    """Write one CSV file without a split, with the labels as numbers and as text."""
    rows = [((f"{one[:-1]}, et {two.lower()}", two), label) for (one, two), label in pairs(30, NLI)]
    table = [("uid", "premise", "hypothesis", "label", "label_text", "premise_original")]
    table += [
        (str(number), *two, str(NLI.index(label)), label, "There are (at least) two, maybe more.")  # type: ignore[misc]
        for number, (two, label) in enumerate(rows)
    ]
    data = {
        "train": {"path": write(folder / "gqnli_fr.csv", quoted_csv(table))},
        "eval_share": 0.2,
        "columns": {"id": "uid"},
        "label_map": dict(enumerate(NLI)),
    }
    return PublishedFiles(NLI_TASK, data, rows)


def daccord(folder: Path) -> PublishedFiles:
    """Write one TSV file without a split, with two labels as numbers and a genre."""
    labels = ["compatibles", "contradiction"]
    rows = pairs(30, labels)
    table = [("id", "premise", "hypothesis", "label", "label_text", "genre")]
    table += [
        (f"D{number}", *two, str(labels.index(label)), label, ("covid", "climat")[number // 2 % 2])  # type: ignore[misc]
        for number, (two, label) in enumerate(rows)
    ]
    data = {
        "train": {"path": write(folder / "daccord.tsv", lines(table))},
        "eval_share": 0.2,
        "columns": {"id": "id"},
        "label_map": {0: "compatibles", 1: "contradiction"},
    }
    return PublishedFiles({**NLI_TASK, "labels": labels}, data, rows)


def tweets(folder: Path) -> PublishedFiles:
    """Write semicolon-separated CSV as a spreadsheet does: byte-order mark, CRLF, commas and quotation marks."""
    labels = ["négatif", "positif"]
    rows = [((f'{text[:-1]}, dit "@jean" ; #quel {label}, non ?\nvia l’appli',), label)
            for (text,), label in single(20, labels)]  # fmt: skip
    train, evaluation = rows[:14], rows[14:]
    for name, some in (("train", train), ("test", evaluation)):
        table = [("id", "date", "tweet", "sentiment")]
        table += [(str(n), "12/03/2024", texts[0], label) for n, (texts, label) in enumerate(some)]
        write(folder / f"{name}.csv", quoted_csv(table, ";", "\r\n"), "utf-8-sig")
    form = {"delimiter": ";"}
    data = {
        "train": {"path": str(folder / "train.csv"), "format": form},
        "eval": {"path": str(folder / "test.csv"), "format": form},
        "columns": {"text": "tweet", "label": "sentiment"},
    }
    return PublishedFiles({"labels": labels, "user": "Tweet : {text}"}, data, train, evaluation)


def pandas_tsv(folder: Path) -> PublishedFiles:
    """Write a TSV file with pandas: an index without a name, and texts that contain line breaks and tabs."""
    import pandas

    labels = ["plainte", "question"]
    rows = [((f'{text}\nSuite :\t"oui"\n\nFin.',), label) for (text,), label in single(20, labels)]
    for name, some in (("train", rows[:14]), ("test", rows[14:])):
        frame = pandas.DataFrame({"texte": [texts[0] for texts, _ in some], "label": [label for _, label in some]})
        frame.to_csv(folder / f"{name}.tsv", sep="\t")
    form = {"quoting": "standard"}
    data = {
        "train": {"path": str(folder / "train.tsv"), "format": form},
        "eval": {"path": str(folder / "test.tsv"), "format": form},
        "columns": {"text": "texte"},
    }
    return PublishedFiles({"labels": labels, "user": "{text}"}, data, rows[:14], rows[14:])


def compressed_tsv(folder: Path) -> PublishedFiles:
    """Write a .tsv.gz file for training and a .jsonl inside of a zip file for evaluation."""
    labels = ["spam", "ham"]
    rows = single(20, labels)
    train, evaluation = rows[:14], rows[14:]
    table = lines([("text", "label"), *((*texts, label) for texts, label in train)])
    (folder / "train.tsv.gz").write_bytes(gzip.compress(table.encode()))
    objects = "".join(json.dumps({"text": texts[0], "label": label}) + "\n" for texts, label in evaluation)
    with zipfile.ZipFile(folder / "test.jsonl.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("test.jsonl", objects)
    data = {"train": {"path": str(folder / "train.tsv.gz")}, "eval": {"path": str(folder / "test.jsonl.zip")}}
    return PublishedFiles({"labels": labels, "user": "{text}"}, data, train, evaluation)


def categorical_parquet(folder: Path) -> PublishedFiles:
    """Write Parquet files whose label column is a dictionary (a pandas categorical)."""
    import pandas

    labels = ["bas", "moyen", "élevé"]
    rows = single(21, labels)
    for name, some in (("train", rows[:15]), ("test", rows[15:])):
        levels = pandas.Categorical([label for _, label in some], categories=labels, ordered=True)
        frame = pandas.DataFrame({"text": [texts[0] for texts, _ in some], "level": levels, "views": range(len(some))})
        frame.to_parquet(folder / f"{name}.parquet")
    data = {
        "train": {"path": str(folder / "train.parquet")},
        "eval": {"path": str(folder / "test.parquet")},
        "columns": {"label": "level"},
    }
    return PublishedFiles({"labels": labels, "user": "{text}"}, data, rows[:15], rows[15:])


def float_labels(folder: Path) -> PublishedFiles:
    """Write labels as floats, as pandas does with integers once a column had a gap: 1.0 in CSV, and in Parquet."""
    import pandas

    labels = ["refusé", "accepté"]
    rows = single(20, labels)
    for name, some in (("train", rows[:14]), ("test", rows[14:])):
        numbers = [float(labels.index(label)) for _, label in some]
        frame = pandas.DataFrame({"text": [texts[0] for texts, _ in some], "label": numbers})
        frame.to_csv(folder / f"{name}.csv", index=False)
        frame.to_parquet(folder / f"{name}.parquet")
    data = {
        "train": {"path": str(folder / "train.csv")},
        "eval": {"path": str(folder / "test.parquet")},
        "label_map": {0: "refusé", 1: "accepté"},
    }
    return PublishedFiles({"labels": labels, "user": "{text}"}, data, rows[:14], rows[14:])


def boolean_labels(folder: Path) -> PublishedFiles:
    """Write labels as booleans: True in a file .CSV, and true in JSON, nested in an object."""
    labels = ["non", "oui"]
    rows = single(20, labels)
    table = [("text", "answer"), *((*texts, str(label == "oui")) for texts, label in rows[:14])]
    write(folder / "TRAIN.CSV", quoted_csv(table))
    objects = [{"text": texts[0], "annotation": {"choice": label == "oui"}} for texts, label in rows[14:]]
    write(folder / "test.json", json.dumps(objects))
    data = {
        "train": {"path": str(folder / "TRAIN.CSV"), "columns": {"label": "answer"}},
        "eval": {"path": str(folder / "test.json"), "columns": {"label": "annotation.choice"}},
        "label_map": {True: "oui", False: "non"},
    }
    return PublishedFiles({"labels": labels, "user": "{text}"}, data, rows[:14], rows[14:])


def three_inputs(folder: Path) -> PublishedFiles:
    """Write question, context and answer to several JSON Lines files, which one pattern names."""
    labels = ["correcte", "incorrecte"]
    rows = [((f"Quand le {NOUNS[n % 12]} part-il ?", one, two), label)
            for n, ((one, two), label) in enumerate(pairs(24, labels))]  # fmt: skip
    for name, some in (("train-0", rows[:8]), ("train-1", rows[8:16]), ("test", rows[16:])):
        objects = [dict(zip(("question", "passage", "reponse"), texts, strict=True)) | {"label": label}
                   for texts, label in some]  # fmt: skip
        write(folder / f"{name}.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in objects))
    data = {
        "train": {"path": str(folder / "train-*.jsonl")},
        "eval": {"path": str(folder / "test.jsonl")},
        "columns": {"context": "passage", "response": "reponse"},
    }
    user = "Question : {question}\nContexte : {context}\nRéponse : {response}"
    return PublishedFiles({"labels": labels, "user": user, "truncate": "context"}, data, rows[:16], rows[16:])


SHAPES: dict[str, Callable[[Path], PublishedFiles]] = {
    function.__name__: function
    for function in (
        ag_news, banking77, clinc150, snli, anli, hans, rte, mrpc, paws_x, sick, gqnli_fr, daccord, tweets, pandas_tsv,
        compressed_tsv, categorical_parquet, float_labels, boolean_labels, three_inputs,
    )
}  # fmt: skip
"""Functions that write files of one shape into an empty folder. TREC's need a conversion, see `trec`."""
