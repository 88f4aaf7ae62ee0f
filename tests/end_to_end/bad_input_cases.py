"""The bad inputs that `test_bad_input.py` tests."""

import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from tests.end_to_end.bad_inputs import (
    ADAPTER,
    METRICS,
    PAIR,
    PREDICTIONS,
    VALID,
    Case,
    Workspace,
    config,
    gguf,
    jsonl,
    merge,
    model,
    overrides,
    rename,
    row,
    rows,
    run,
    set_number,
    set_u32,
    sft,
    text,
    truncate,
    write,
)

_YAML, _KEYS = "Compare with a file in recipes/", "python scripts/sft.py --help"
_CSV = "premise,hypothesis,label\n"
_AGAIN, _COPY, _MERGE = "Evaluate again", "Copy the file again", "Copy both again"


def _recipe_loop(workspace: Workspace) -> Path:
    link = workspace.folder / "loop.yaml"
    link.symlink_to(link)
    return link


def _recipe_folder(workspace: Workspace) -> Path:
    (workspace.folder / "recipes.yaml").mkdir()
    return workspace.folder / "recipes.yaml"


def _evaluate_tie(workspace: Workspace) -> Path:
    path = workspace.put("a.jsonl", jsonl(row(label={"neutral": 0.5, "entailment": 0.5})))
    data = {"eval": {"path": str(path)}, "columns": {"id": None}}
    return workspace.recipe(data=data, evaluation={"slice_by": []})


RECIPE_CASES = [
    Case(
        "exponential aliases",
        text("a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n"),
        "aliases are not allowed",
        "in each place",
    ),
    Case("deep nesting", text("a: " + "[" * 20_000), "it is nested too deeply", "Close each bracket"),
    Case("a huge integer", text(VALID + "seed: " + "9" * 5000), "a number has 5,000 digits", _YAML),
    Case("a large integer", overrides("seed=" + "9" * 90), "it should be less than 4294967296", _KEYS),
    Case("infinity", overrides("training.learning_rate=1e999"), "it should be a finite number", _KEYS),
    Case("NaN", overrides("training.epochs=.nan"), "it should be a finite number", _KEYS),
    Case("a duplicate key", text(VALID + "seed: 1\nseed: 2\n"), "the key 'seed' occurs twice", "Keep one of the two"),
    Case("a tab as indentation", text("task:\n\tlabels: [a]\n"), "a tab is used for indentation", "Indent with spaces"),
    Case("NUL bytes", text(VALID + "# \0\n"), "contains NUL characters", "If it is UTF-16"),
    Case("a control character", text(VALID + "# \x07\n"), "unacceptable character #x0007", _YAML),
    Case("UTF-16", text(VALID.encode("utf-16")), "is not UTF-8 text (byte 0)", "Save it as UTF-8"),
    Case("Latin-1", text(VALID.encode() + b"# \xe9\n"), "is not UTF-8 text", "Save it as UTF-8"),
    Case("an empty recipe", text(""), "is empty. A recipe must contain sections", _KEYS),
    Case("a list as recipe", text("- a\n"), "contains a list. A recipe must contain sections", _KEYS),
    Case(
        "a Python tag",
        text(VALID + "x: !!python/object/apply:os.system [true]\n"),
        "are not allowed in recipes",
        "plain",
    ),
    Case("a YAML 1.1 tag", text(VALID + "seed: !!timestamp x\n"), "tags such as", "Write the plain value"),
    Case("a million characters", text("# " + "x" * 1_000_000), "too long for a recipe", "Put rows into a data file"),
    Case("a NUL in a value", overrides('task.system="a\\0b"'), "contains a NUL or a lone surrogate", "Remove it"),
    Case("a lone surrogate", overrides('task.system="\\ud800"'), "contains a NUL or a lone", "Remove it"),
    Case("an unknown key", overrides("lora.rank=3"), "did you mean lora.r", _KEYS),
    Case("a wrong type", overrides("lora.r=[1]"), "it should be a valid integer", _KEYS),
    Case("a long invalid value", overrides(f"lora.r=[{'a, ' * 9999}]"), "... cannot be used", _KEYS),
    Case("a folder as recipe", sft(_recipe_folder), "is a folder", "Give the path of a .yaml file"),
    Case("a missing recipe", sft(lambda w: w.folder / "no.yaml"), "does not exist", "Give the path"),
    Case("a link loop", sft(_recipe_loop), "does not exist", "Give the path"),
    Case("--set without =", overrides("seed"), "--set 'seed' has no '='", "section.key=value"),
    Case("--set without a key", overrides("=1"), "has no '='", "section.key=value"),
    Case("an unclosed template tag", overrides("task.chat_template='{% for'"), "cannot be rendered", "Fix task.chat"),
    Case(
        "an unsafe template",
        overrides("task.chat_template=\"{{ ''.__class__.x() }}\""),
        "is unsafe",
        "Fix task.chat",
    ),
]

DATA_CASES = [
    Case("a missing column", rows("a.csv", "p,hypothesis,label\na,b,neutral\n"), "no column 'premise'", "data.columns"),
    Case("an empty file", rows("a.jsonl", ""), "contains no rows", "at least one row"),
    Case("an empty text", rows("a.jsonl", jsonl(row(premise=" "))),
        "row 25: column 'premise' must contain text, not ' '", "Fix"),
    Case("an unknown label", rows("a.jsonl", jsonl(row(label="x"))), "label 'x' is not one of", "data.label_map"),
    Case("a missing label", rows("a.jsonl", jsonl(row(label=None))), "must contain a label, not None", "Fix the rows"),
    Case("a ragged csv", rows("a.csv", _CSV + "a,b\n"), "row 1 (line 2) has 2 fields for 3 columns", "stray"),
    Case("an unclosed quote", rows("a.csv", _CSV + '"a,b,c,neutral\n'), "cannot be read: unexpected end",
        "quotation mark"),
    Case("duplicate columns", rows("a.csv", "premise," + _CSV + "a,b,c,neutral\n"), "two columns", "Rename"),
    Case("invalid JSON", rows("a.jsonl", jsonl("{")), "line 25 is not JSON", "one JSON object per line"),
    Case("a duplicate JSON key", rows("a.jsonl", jsonl('{"premise": "a", "premise": "b"}')), "occurs twice",
        "per line"),
    Case("a number as text", rows("a.jsonl", jsonl(row(premise=3))), "must contain text, not 3", "Fix the rows"),
    Case("a list as a row", rows("a.jsonl", "[1]\n"), "line 1 is a list", 'e.g. {"text"'),
    Case("deeply nested JSON", rows("a.jsonl", "[" * 99_999), "is nested too deeply", "one object whose values"),
    Case("a huge number", rows("a.jsonl", '{"label": ' + "9" * 5000 + "}"), "is not JSON", "one JSON object per line"),
    Case("a surrogate in a text", rows("a.jsonl", jsonl(row(premise="\ud800"))), "a lone surrogate", "Fix"),
    Case("a surrogate in an id", rows("a.jsonl", jsonl(row(id="\ud800")), id="id"), "a lone surrogate", "Fix"),
    Case("NUL bytes in JSON", rows("a.jsonl", jsonl('{"premise": "\0"}')), "Invalid control character", "per line"),
    Case("Latin-1 rows", rows("a.csv", _CSV.encode() + b"\xe9,b,neutral\n"), "line 2 is not UTF-8 text",
        "format.encoding"),
    Case("UTF-16 without a mark", rows("a.csv", _CSV.encode("utf-16-le")), "as in UTF-16", "to utf-16-le"),
    Case("not a Parquet file", rows("a.parquet", b"PAR1"), "is not a readable Parquet file", "Create the file again"),
    Case("a long hypothesis", rows("a.jsonl", jsonl(row(hypothesis="mot " * 250_000))), "too short", "Raise model"),
    Case("a folder as rows", sft(lambda w: _rows_folder(w)), "is not a file", "Check the path"),
    Case("a long file name", overrides("data.train.path=" + "a" * 300 + ".csv"), "a... is too long.", ""),
    Case("dev rows in training", overrides("data.dev={path: embedded:nli-fr, split: train}"),
        "48 pairs occur in both data.train and data.dev", "data.allow_overlap: true"),
    Case("dev rows in evaluation", overrides("data.dev={path: embedded:nli-fr, split: dev}"),
        "24 pairs occur in both data.dev and data.eval", "data.allow_overlap: true"),
    Case("the best step without dev rows", overrides("training.keep=best"),
        "training.keep: best needs dev rows", _KEYS),
    Case("patience without dev rows", overrides("training.early_stopping_patience=2"),
        "training.early_stopping_patience: needs dev rows", _KEYS),
    Case("weights for an unknown label", overrides("training.class_weights={maybe: 2}"),
        "training.class_weights: 'maybe' is not one of the labels", _KEYS),
    Case("weights that are zero", overrides("training.class_weights={neutral: 0, entailment: 0, contradiction: 0}"),
        "training.class_weights: 0 cannot be used", _KEYS),
    Case("a large dev share", overrides("data.dev_share=0.99"), 
        "data.dev_share 0.99 would hold out all 48 training rows", "Change data.dev_share"),
    Case("probabilities below 1", rows("a.jsonl", jsonl(row(label={"neutral": 0.5, "entailment": 0.4}))),
        "row 25: column 'label' has probabilities that sum to 0.9, not to 1", "by their sum"),
    Case("a negative probability", rows("a.jsonl", jsonl(row(label={"neutral": -0.5, "entailment": 1.5}))),
        "row 25: column 'label' has -0.5 as the probability of 'neutral'", "at least 0"),
    Case("a NaN as probability", rows("a.jsonl", jsonl(row(label={"neutral": float("nan"), "entailment": 1}))),
        "row 25: column 'label' has nan as the probability of 'neutral'", "at least 0"),
    Case("a probability of no label", rows("a.jsonl", jsonl(row(label={"neutral": 0.5, "maybe": 0.5}))),
        "the key 'maybe', which is not one of entailment, neutral, contradiction", "data.label_map"),
    Case("a mapping in a csv", rows("a.csv", _CSV + 'a,b,"{""neutral"": 1}"\n'), "has a mapping as text", "JSON Lines"),
    Case("a tie in evaluation", sft(lambda w: _evaluate_tie(w)),
        "several labels are equally probable in 1 row (row 25)", "choose one label"),
]  # fmt: skip


def _rows_folder(workspace: Workspace) -> Path:
    (workspace.folder / "rows.csv").mkdir()
    return workspace.recipe(data={"train": {"path": str(workspace.folder / "rows.csv")}})


def _index_json(name: str) -> str:
    return f'{{"weight_map": {{"model.norm.weight": "{name}"}}}}'


def _with_index(name: str):  # type: ignore[no-untyped-def]
    def edit(folder: Path) -> None:
        (folder / "model.safetensors").unlink()
        (folder / "model.safetensors.index.json").write_text(_index_json(name), encoding="utf-8")

    return edit


def _without_norm(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    del weights["model.norm.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


_CODE = {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"}

MODEL_CASES = [
    Case("pickled weights", model(rename("model.safetensors", "pytorch_model.bin")), "pickled .bin files", "save"),
    Case("weights with another name", model(rename("model.safetensors", "x.safetensors")), "no safetensors",
        "Convert the model"),
    Case("an index of a pickle", model(_with_index("pytorch_model.bin")), "refers to 'pytorch_model.bin'",
        "Convert"),
    Case("an index outside the folder", model(_with_index("../x.safetensors")), "refers to '../x.safetens",
        "Convert"),
    Case("a missing shard", model(_with_index("x.safetensors")), "lacks x.safetensors", "Copy all shards"),
    Case("a missing config", model(rename("config.json", "x.json")), "it has no config.json", "save_pretrained"),
    Case("an invalid config", model(write("config.json", "{")), "config.json cannot be read", _COPY),
    Case("a list as config", model(write("config.json", "[]")), "config.json contains a list", _COPY),
    Case("custom code", model(config(auto_map=_CODE)), "refers to custom code (auto_map)", "Use a model"),
    Case("trust_remote_code", model(config(trust_remote_code=True)), "custom code (trust_remote_code)", "Use a model"),
    Case("custom tokenizer code", model(merge("tokenizer_config.json", auto_map=_CODE)),
        "tokenizer_config.json refers to custom code", "Use a model"),
    Case("a billion layers", model(config(num_hidden_layers=10**9)), "num_hidden_layers: 1000000000", "damaged"),
    Case("a negative size", model(config(hidden_size=-4)), "an impossible value for hidden_size: -4", "damaged"),
    Case("no heads", model(config(num_attention_heads=0)), "num_attention_heads: 0", "damaged"),
    Case("more layers than weights", model(config(num_hidden_layers=5)), "5, but the weights have 2", _MERGE),
    Case("more weights than layers", model(config(num_hidden_layers=1)), "1, but the weights have 2", _MERGE),
    Case("a missing tensor", model(_without_norm), "lacks 1 of the model's weights (first: model.norm.weight)", _MERGE),
    Case("an unknown activation", model(config(hidden_act="x")), "No model can be built from", "Copy it again"),
    Case("truncated weights", model(truncate("model.safetensors", 5000)), "model.safetensors cannot be loaded", _COPY),
    Case("a zip as weights", model(write("model.safetensors", b"PK\3\4" * 99)), "cannot be loaded", _COPY),
    Case("an adapter as model", model(write("adapter_config.json", "{}")), "contains an adapter", "Set model.name"),
    Case("a missing chat template", model(rename("chat_template.jinja", "x")), "has no chat template",
        "task.chat_template"),
    Case("an invalid tokenizer", model(write("tokenizer.json", "{}")), "has no tokenizer that can be",
        "tokenizer.json"),
    Case("a truncated tokenizer", model(truncate("tokenizer.json", 5000)), "has no tokenizer that can be",
        "tokenizer.json"),
]  # fmt: skip


def _train_into(name: str, *flags: str):  # type: ignore[no-untyped-def]
    return lambda w: ["sft", w.recipe(), "--output-dir", w.folder / name, *flags]


def _link(workspace: Workspace) -> Sequence[object]:
    (workspace.folder / "elsewhere").mkdir()
    (workspace.folder / "link").symlink_to(workspace.folder / "elsewhere")
    return ["sft", workspace.recipe(), "--output-dir", workspace.folder / "link"]


def _below_a_file(workspace: Workspace) -> Sequence[object]:
    return ["sft", workspace.recipe(), "--output-dir", workspace.put("file", "x") / "new"]


def _inside_a_run(workspace: Workspace) -> Sequence[object]:
    inner = workspace.copy(workspace.run.path, lambda folder: None) / "eval" / ".." / "new"
    return ["sft", workspace.recipe(), "--output-dir", inner]


PATH_CASES = [
    Case("a link as run folder", _link, "is a symbolic link to", "Give the folder itself"),
    Case("a run below a file", _below_a_file, "is a file", "--output-dir"),
    Case(
        "a file as run", lambda w: ["sft", w.recipe(), "--output-dir", w.put("run", "x")], "is a file", "--output-dir"
    ),
    Case("a run inside a run", _inside_a_run, "is inside the run", "--output-dir"),
    Case("a line break in a name", _train_into("a\nb"), "'a\\nb' contains unprintable characters", "--output-dir"),
    Case("undecodable bytes in a name", _train_into("a\udcff"), "unprintable characters", "--output-dir"),
    Case("a path through ..", _train_into("x/../.."), "through a folder that does not exist", "--output-dir"),
]

_ACCEPTED = ["--accept-changes", *PAIR]  # without it, the seal refuses a changed file before it is read

RUN_CASES = [
    Case("a pickled adapter", run("predict", rename(ADAPTER, "adapter/adapter_model.bin"), *_ACCEPTED),
        "no adapter_model.safetensors", "again"),
    Case("a truncated adapter", run("predict", truncate(ADAPTER, 500), *_ACCEPTED), "is damaged", _COPY.split()[0]),
    Case("an invalid adapter config", run("predict", write("adapter/adapter_config.json", "{"), *_ACCEPTED),
        "cannot be read", _COPY),
    Case("an absurd rank", run("predict", merge("adapter/adapter_config.json", r=10**9), *_ACCEPTED), "value for r",
        "Copy"),
    Case("pickled merged weights",
        run("predict", rename("merged/model.safetensors", "merged/pytorch_model.bin"), *_ACCEPTED, "--model", "merged"),
        "pickled .bin files are not read", "Convert the model"),
    Case("an invalid run.json", run("eval_generate", write("run.json", "{")), "run.json is not JSON",
        "Restore it from a copy, or train again with --overwrite or another --output-dir"),
    Case("wrong dev rows in run.json", run("eval_generate", merge("run.json", data={"dev": "x"})),
        "'data.dev' is not an object", "Restore it"),
    Case("a wrong type in run.json", run("eval_generate", merge("run.json", data=3)), "'data' is not an object",
        "Restore it from a copy"),
    Case("invalid metrics", run("eval_generate", write("eval/base/metrics.json", "[]")), "contains a list",
        "Recreate it"),
    Case("a wrong type in metrics", run("eval_generate", merge("eval/base/metrics.json", n="x")), "field 'n' is a str",
        _AGAIN),
    Case("an invalid parity.json", run("eval_generate", write("gguf/parity.json", "{")), "is not JSON", "Recreate"),
    Case("a zero temperature",
        run("predict", merge(METRICS, calibration={"temperature": 0}), "--calibrated", *_ACCEPTED),
        "its temperature is not a number above 0", _AGAIN),
    Case("rows with unknown labels",
        lambda w: ["eval_generate", w.run.path, "--data", w.put("r.jsonl", row(label="x"))],
        "label 'x' is not one of", "data.label_map"),
    Case("duplicate columns to predict",
        lambda w: ["predict", w.run.path, "--input", w.put("r.csv", "premise," + _CSV + "a,b,c,d\n"), "--output",
                   w.folder / "o.csv"], "two columns named 'premise'", "Rename one"),
]  # fmt: skip


def _compare(edit) -> object:  # type: ignore[no-untyped-def]
    def arguments(workspace: Workspace) -> Sequence[object]:
        run = workspace.copy(workspace.run.path, edit)
        for path in (run / "run.json", *run.glob("eval/*/metrics.json")):
            _remove_seal(path)
        return ["compare", run / "eval" / "adapter", run / "eval" / "base"]

    return arguments


def _remove_seal(path: Path) -> None:
    """Make a file one from before runs were sealed, so that a comparison reads what it would refuse unread."""
    with suppress(ValueError, RecursionError):
        path.write_text(
            json.dumps({key: value for key, value in json.loads(path.read_bytes()).items() if key != "seal"})
        )


def _reversed(folder: Path) -> None:
    path = folder / PREDICTIONS
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[::-1]))


COMPARE_CASES = [
    Case("other rows", _compare(_reversed), "do not have the same rows", "with the same --data FILE and --limit N"),
    Case("a truncated row", _compare(truncate(PREDICTIONS, 300)), "is not JSON", _AGAIN),
    Case("missing rows", _compare(write(PREDICTIONS, "")), "has no rows", _AGAIN),
    Case("lists as rows", _compare(write(PREDICTIONS, "[1]\n")), "line 1 is not a prediction for the labels", _AGAIN),
    Case("deeply nested predictions", _compare(write(PREDICTIONS, "[" * 99_999)), "line 1 is not JSON", _AGAIN),
    Case("deeply nested metrics", _compare(write(METRICS, "[" * 99_999)), "is nested too deeply", "Recreate it"),
    Case("missing labels", _compare(write(METRICS, '{"labels": "abc"}')), "has no list of labels", _AGAIN),
]

_DAMAGED = "is truncated or damaged"


def _swap_letters(content: bytearray) -> bytes:
    """Swap a and A in tokens and merges. The file stays consistent, so llama.cpp loads it without an error."""
    start, end = content.index(b"tokenizer.ggml.tokens"), content.index(b"tokenizer.ggml.bos_token_id")
    return bytes(content[:start] + content[start:end].translate(bytes.maketrans(b"aA", b"Aa")) + content[end:])


GGUF_CASES = [
    Case("a zip as GGUF", gguf(lambda content: b"PK\3\4" + content), "is not a GGUF file", "export_gguf.py"),
    Case("four bytes", gguf(lambda content: content[:4]), f"{_DAMAGED}: it ends within", "Export it again"),
    Case("a truncated GGUF", gguf(lambda content: content[: len(content) // 2]), "is not within the file",
        "Export it"),
    Case("an unknown version", gguf(set_number(4, "I", 9)), "its version is 9", "Export it again"),
    Case("a huge tensor count", gguf(set_number(8, "Q", 2**62)), "tensors, more than the file can hold",
        "Export it again"),
    Case("a huge field count", gguf(set_number(16, "Q", 2**62)), "fields, more than the file can hold",
        "Export it again"),
    Case("a million layers", gguf(set_u32(b"llama.block_count", 10**6)), "llama.block_count is 1000000",
        "Export it"),
    Case("a zero context", gguf(set_u32(b"llama.context_length", 0)), "llama.context_length is 0",
        "Export it again"),
    Case("a negative epsilon", gguf(set_u32(b"layer_norm_rms_epsilon", 0xBF800000)), "epsilon is -1.0",
        "Export it again"),
    Case("an id outside the vocabulary", gguf(set_u32(b"ggml.bos_token_id", 10**6)), "bos_token_id is 1000000",
        "Export it"),
    Case("an unknown architecture", gguf(lambda content: content.replace(b"llama", b"zzzzz")), "llama.cpp cannot load",
        "Export it again"),
    Case("another vocabulary", gguf(_swap_letters), "does not have the vocabulary of the run", "Use a"),
    Case("a link loop as GGUF", lambda w: ["predict", w.run.path, "--model", _gguf_loop(w), *PAIR],
        "There is no GGUF file", "export_gguf.py"),
]  # fmt: skip


def _gguf_loop(workspace: Workspace) -> Path:
    link = workspace.folder / "loop.gguf"
    link.symlink_to(link)
    return link


CASES = [*RECIPE_CASES, *DATA_CASES, *MODEL_CASES, *PATH_CASES, *RUN_CASES, *COMPARE_CASES, *GGUF_CASES]
