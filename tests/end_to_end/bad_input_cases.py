"""The bad inputs of `test_bad_input.py`."""

from collections.abc import Sequence
from pathlib import Path

from tests.end_to_end.bad_inputs import (
    ADAPTER,
    GOOD,
    METRICS,
    PAIR,
    PREDICTIONS,
    Bad,
    Place,
    at,
    config,
    cut,
    gguf,
    jsonl,
    merge,
    model,
    overrides,
    rename,
    row,
    rows,
    run,
    sft,
    text,
    u32,
    write,
)

_YAML, _KEYS = "Compare with a file in recipes/", "python scripts/sft.py --help"
_CSV = "premise,hypothesis,label\n"
_AGAIN, _COPY, _MERGE = "Evaluate again", "Copy the file again", "copy both again"


def _loop(place: Place) -> Path:
    link = place.folder / "loop.yaml"
    link.symlink_to(link)
    return link


def _folder(place: Place) -> Path:
    (place.folder / "recipes.yaml").mkdir()
    return place.folder / "recipes.yaml"


RECIPE_CASES = [
    Bad("an anchor bomb", text("a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n"), "aliases are not used", "in each place"),
    Bad("deep nesting", text("a: " + "[" * 20_000), "it is nested too deeply", "Close each bracket"),
    Bad("a huge integer", text(GOOD + "seed: " + "9" * 5000), "a number has 5,000 digits", _YAML),
    Bad("a large integer", overrides("seed=" + "9" * 90), "it should be less than 4294967296", _KEYS),
    Bad("infinity", overrides("training.learning_rate=1e999"), "it should be a finite number", _KEYS),
    Bad("NaN", overrides("training.epochs=.nan"), "it should be a finite number", _KEYS),
    Bad("a key twice", text(GOOD + "seed: 1\nseed: 2\n"), "the key 'seed' stands twice", "Keep one of the two"),
    Bad("a tab", text("task:\n\tlabels: [a]\n"), "a tab is used for indentation", "Indent with spaces"),
    Bad("NUL bytes", text(GOOD + "# \0\n"), "holds NUL characters", "Is it UTF-16"),
    Bad("a control character", text(GOOD + "# \x07\n"), "unacceptable character #x0007", _YAML),
    Bad("UTF-16", text(GOOD.encode("utf-16")), "is not UTF-8 text (byte 0)", "Save it as UTF-8"),
    Bad("Latin-1", text(GOOD.encode() + b"# \xe9\n"), "is not UTF-8 text", "Save it as UTF-8"),
    Bad("an empty recipe", text(""), "holds nothing, not sections", _KEYS),
    Bad("a list as recipe", text("- a\n"), "holds a list, not sections", _KEYS),
    Bad("a Python tag", text(GOOD + "x: !!python/object/apply:os.system [true]\n"), "are not used in recipes", "plain"),
    Bad("a YAML 1.1 tag", text(GOOD + "seed: !!timestamp x\n"), "tags such as", "Write the plain value"),
    Bad("a million characters", text("# " + "x" * 1_000_000), "which no recipe has", "Rows belong into a data file"),
    Bad("a NUL in a value", overrides('task.system="a\\0b"'), "holds a NUL or half of a character", "whole characters"),
    Bad("half a character", overrides('task.system="\\ud800"'), "holds a NUL or half of a", "whole characters"),
    Bad("an unknown key", overrides("lora.rank=3"), "you meant lora.r", _KEYS),
    Bad("a wrong type", overrides("lora.r=[1]"), "it should be a valid integer", _KEYS),
    Bad("a long wrong value", overrides(f"lora.r=[{'a, ' * 9999}]"), "... cannot be used", _KEYS),
    Bad("a folder as recipe", sft(_folder), "is a folder", "Give the name of a .yaml file"),
    Bad("no recipe", sft(lambda place: place.folder / "no.yaml"), "There is no recipe file", "Give the name"),
    Bad("a link in a circle", sft(_loop), "There is no recipe file", "Give the name"),
    Bad("--set without =", overrides("seed"), "--set 'seed' has no '='", "section.key=value"),
    Bad("--set of nothing", overrides("=1"), "has no '='", "section.key=value"),
    Bad("an unfinished template", overrides("task.chat_template='{% for'"), "cannot be rendered", "Mend task.chat"),
    Bad(
        "a template that digs",
        overrides("task.chat_template=\"{{ ''.__class__.x() }}\""),
        "is unsafe",
        "Mend task.chat",
    ),
]

DATA_CASES = [
    Bad("no premise column", rows("a.csv", "p,hypothesis,label\na,b,neutral\n"), "no column 'premise'", "data.columns"),
    Bad("an empty file", rows("a.jsonl", ""), "holds no rows", "rows below its header"),
    Bad("an empty text", rows("a.jsonl", jsonl(row(premise=" "))), "row 25: column 'premise' holds ' '", "Mend"),
    Bad("an unknown label", rows("a.jsonl", jsonl(row(label="x"))), "its label is 'x'", "data.label_map"),
    Bad("no label", rows("a.jsonl", jsonl(row(label=None))), "its label is None", "data.label_map"),
    Bad("a ragged csv", rows("a.csv", _CSV + "a,b\n"), "row 1 (line 2) has 2 fields where the header has 3", "lone"),
    Bad("an open quote", rows("a.csv", _CSV + '"a,b,neutral\n'), "cannot be read: unexpected end", "quotation mark"),
    Bad("two columns of a name", rows("a.csv", "premise," + _CSV + "a,b,c,neutral\n"), "two columns", "Rename"),
    Bad("broken JSON", rows("a.jsonl", jsonl("{")), "line 25 is not JSON", "one JSON object per line"),
    Bad("a name twice", rows("a.jsonl", jsonl('{"premise": "a", "premise": "b"}')), "stands there twice", "per line"),
    Bad("a number as text", rows("a.jsonl", jsonl(row(premise=3))), "holds 3, not a text", "Mend the rows"),
    Bad("a list as row", rows("a.jsonl", "[1]\n"), "line 1 is a list", 'Write {"premise"'),
    Bad("deep JSON", rows("a.jsonl", "[" * 99_999), "is nested too deeply", "one object with texts"),
    Bad("a huge number", rows("a.jsonl", '{"label": ' + "9" * 5000 + "}"), "is not JSON", "one JSON object per line"),
    Bad("half a character in a text", rows("a.jsonl", jsonl(row(premise="\ud800"))), "a lone surrogate", "Mend"),
    Bad("half a character in an id", rows("a.jsonl", jsonl(row(id="\ud800")), id="id"), "a lone surrogate", "Mend"),
    Bad("NUL bytes in JSON", rows("a.jsonl", jsonl('{"premise": "\0"}')), "Invalid control character", "per line"),
    Bad("UTF-16 rows", rows("a.csv", _CSV.encode("utf-16")), "is not UTF-8 text (byte 0)", "Convert it to UTF-8"),
    Bad("no Parquet", rows("a.parquet", b"PAR1"), "is not a Parquet file that can be read", "Write it again"),
    Bad("too long a hypothesis", rows("a.jsonl", jsonl(row(hypothesis="mot " * 250_000))), "too short", "Raise model"),
    Bad("a folder as rows", sft(lambda place: _rows_folder(place)), "is no file", "Give"),
    Bad("too long a name", overrides("data.train.path=" + "a" * 300 + ".csv"), "is too long for the name of a", ""),
]  # fmt: skip


def _rows_folder(place: Place) -> Path:
    (place.folder / "rows.csv").mkdir()
    return place.recipe(data={"train": {"path": str(place.folder / "rows.csv")}})


def _index(name: str) -> str:
    return f'{{"weight_map": {{"model.norm.weight": "{name}"}}}}'


def _indexed(name: str):  # type: ignore[no-untyped-def]
    def edit(folder: Path) -> None:
        (folder / "model.safetensors").unlink()
        (folder / "model.safetensors.index.json").write_text(_index(name), encoding="utf-8")

    return edit


def _without_norm(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    del weights["model.norm.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


_CODE = {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"}

MODEL_CASES = [
    Bad("pickled weights", model(rename("model.safetensors", "pytorch_model.bin")), "pickled .bin files", "save"),
    Bad("weights of another name", model(rename("model.safetensors", "x.safetensors")), "no safetensors", "Convert it"),
    Bad("an index to a pickle", model(_indexed("pytorch_model.bin")), "names the file 'pytorch_model.bin'", "Convert"),
    Bad("an index that leaves", model(_indexed("../x.safetensors")), "names the file '../x.safetens", "Convert"),
    Bad("a missing shard", model(_indexed("x.safetensors")), "lacks x.safetensors", "Copy every shard"),
    Bad("no config", model(rename("config.json", "x.json")), "it has no config.json", "save_pretrained"),
    Bad("a broken config", model(write("config.json", "{")), "config.json cannot be read", _COPY),
    Bad("a list as config", model(write("config.json", "[]")), "config.json holds a list", _COPY),
    Bad("code of its own", model(config(auto_map=_CODE)), "names code of its own (auto_map)", "Use a model"),
    Bad("trust_remote_code", model(config(trust_remote_code=True)), "its own (trust_remote_code)", "Use a model"),
    Bad("a tokenizer's code", model(merge("tokenizer_config.json", auto_map=_CODE)), "tokenizer_config.json names code",
        "Use a model"),
    Bad("a billion layers", model(config(num_hidden_layers=10**9)), "num_hidden_layers as 1000000000", "damaged"),
    Bad("a negative size", model(config(hidden_size=-4)), "hidden_size as -4, which no model has", "damaged"),
    Bad("no heads", model(config(num_attention_heads=0)), "num_attention_heads as 0", "damaged"),
    Bad("layers without weights", model(config(num_hidden_layers=5)), "as 5, but the weights have 2", _MERGE),
    Bad("weights without a layer", model(config(num_hidden_layers=1)), "as 1, but the weights have 2", _MERGE),
    Bad("a missing tensor", model(_without_norm), "lacks 1 of the model's weights (first: model.norm.weight)", _MERGE),
    Bad("an unknown activation", model(config(hidden_act="x")), "cannot carry the recipe's adapter", ""),
    Bad("cut weights", model(cut("model.safetensors", 5000)), "model.safetensors cannot be loaded", _COPY),
    Bad("a zip as weights", model(write("model.safetensors", b"PK\3\4" * 99)), "cannot be loaded", _COPY),
    Bad("an adapter as model", model(write("adapter_config.json", "{}")), "holds an adapter", "as model.name"),
    Bad("no chat template", model(rename("chat_template.jinja", "x")), "has no chat template", "task.chat_template"),
    Bad("a broken tokenizer", model(write("tokenizer.json", "{}")), "has no tokenizer that can be", "tokenizer.json"),
    Bad("half a tokenizer", model(cut("tokenizer.json", 5000)), "has no tokenizer that can be", "tokenizer.json"),
]  # fmt: skip


def _new(name: str, *flags: str):  # type: ignore[no-untyped-def]
    return lambda place: ["sft", place.recipe(), "--output-dir", place.folder / name, *flags]


def _link(place: Place) -> Sequence[object]:
    (place.folder / "elsewhere").mkdir()
    (place.folder / "link").symlink_to(place.folder / "elsewhere")
    return ["sft", place.recipe(), "--output-dir", place.folder / "link"]


def _below_a_file(place: Place) -> Sequence[object]:
    return ["sft", place.recipe(), "--output-dir", place.put("file", "x") / "new"]


def _inside_a_run(place: Place) -> Sequence[object]:
    inner = place.copy(place.run.path, lambda folder: None) / "eval" / ".." / "new"
    return ["sft", place.recipe(), "--output-dir", inner]


PLACE_CASES = [
    Bad("a link as run folder", _link, "is a symbolic link to", "Give the folder itself"),
    Bad("a run below a file", _below_a_file, "is a file", "--output-dir"),
    Bad("a file as run", lambda p: ["sft", p.recipe(), "--output-dir", p.put("run", "x")], "is a file", "--output-dir"),
    Bad("a run in a run", _inside_a_run, "would stand inside the run", "--output-dir"),
    Bad("a line break in its name", _new("a\nb"), "'a\\nb' has characters that cannot be printed", "--output-dir"),
    Bad("bytes that are no text in its name", _new("a\udcff"), "cannot be printed", "--output-dir"),
    Bad("a run that leaves", _new("x/../.."), "leads through a folder that does not exist", "--output-dir"),
]

RUN_CASES = [
    Bad("a pickled adapter", run("predict", rename(ADAPTER, "adapter/adapter_model.bin"), *PAIR),
        "no adapter_model.safetensors", "again"),
    Bad("half an adapter", run("predict", cut(ADAPTER, 500), *PAIR), "deserializing header",
        "the run's recipe.yaml"),
    Bad("no adapter config", run("predict", write("adapter/adapter_config.json", "{"), *PAIR), "cannot be read", _COPY),
    Bad("an absurd rank", run("predict", merge("adapter/adapter_config.json", r=10**9), *PAIR), "gives r as", "Copy"),
    Bad("pickled merged weights",
        run("predict", rename("merged/model.safetensors", "merged/pytorch_model.bin"), "--model", "merged", *PAIR),
        "pickled .bin files are not read", "Convert it"),
    Bad("a broken run.json", run("eval_generate", write("run.json", "{")), "run.json is not JSON",
        "Put it back from a copy, or train again with --overwrite or another --output-dir"),
    Bad("an odd run.json", run("eval_generate", merge("run.json", data=3)), "no object under 'data'", _COPY),
    Bad("broken metrics", run("eval_generate", write("eval/base/metrics.json", "[]")), "holds a list", "Make it again"),
    Bad("odd metrics", run("eval_generate", merge("eval/base/metrics.json", n="x")), "has a str as 'n'", _AGAIN),
    Bad("a broken parity.json", run("eval_generate", write("gguf/parity.json", "{")), "is not JSON", "Make"),
    Bad("no temperature", run("predict", merge(METRICS, calibration={"temperature": 0}), "--calibrated", *PAIR),
        "holds no temperature above 0", _AGAIN),
    Bad("rows of unknown labels", lambda p: ["eval_generate", p.run.path, "--data", p.put("r.jsonl", row(label="x"))],
        "its label is 'x'", "data.label_map"),
    Bad("a column twice to predict",
        lambda p: ["predict", p.run.path, "--input", p.put("r.csv", "premise," + _CSV + "a,b,c,d\n"), "--output",
                   p.folder / "o.csv"], "two columns 'premise'", "Rename one"),
]  # fmt: skip


def _compare(edit) -> object:  # type: ignore[no-untyped-def]
    def arguments(place: Place) -> Sequence[object]:
        folder = place.copy(place.run.path, edit) / "eval"
        return ["compare", folder / "adapter", folder / "base"]

    return arguments


def _reversed(folder: Path) -> None:
    path = folder / PREDICTIONS
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[::-1]))


COMPARE_CASES = [
    Bad("other rows", _compare(_reversed), "are not about the same rows", "with the same --data FILE and --limit N"),
    Bad("half a row", _compare(cut(PREDICTIONS, 300)), "is not JSON", _AGAIN),
    Bad("no rows", _compare(write(PREDICTIONS, "")), "holds no rows", _AGAIN),
    Bad("rows that are lists", _compare(write(PREDICTIONS, "[1]\n")), "line 1 is no prediction on the labels", _AGAIN),
    Bad("deep predictions", _compare(write(PREDICTIONS, "[" * 99_999)), "line 1 is not JSON", _AGAIN),
    Bad("deep metrics", _compare(write(METRICS, "[" * 99_999)), "is nested too deeply", "Make it again"),
    Bad("no labels", _compare(write(METRICS, '{"labels": "abc"}')), "names no labels", _AGAIN),
]

_DAMAGED = "is cut short or damaged"


def _other_words(content: bytearray) -> bytes:
    """Every a an A and the other way round, in tokens and merges alike: llama.cpp finds nothing amiss."""
    start, end = content.index(b"tokenizer.ggml.tokens"), content.index(b"tokenizer.ggml.bos_token_id")
    return bytes(content[:start] + content[start:end].translate(bytes.maketrans(b"aA", b"Aa")) + content[end:])


GGUF_CASES = [
    Bad("another file", gguf(lambda content: b"PK\3\4" + content), "is not a GGUF file", "export_gguf.py"),
    Bad("four bytes", gguf(lambda content: content[:4]), f"{_DAMAGED}: it ends within", "Export it again"),
    Bad("half a file", gguf(lambda content: content[: len(content) // 2]), "does not lie within the file", "Export it"),
    Bad("another version", gguf(at(4, "I", 9)), "its version is 9", "Export it again"),
    Bad("giant tensor count", gguf(at(8, "Q", 2**62)), "tensors, more than it has room for", "Export it again"),
    Bad("giant field count", gguf(at(16, "Q", 2**62)), "fields, more than it has room for", "Export it again"),
    Bad("a million layers", gguf(u32(b"llama.block_count", 10**6)), "its llama.block_count is 1000000", "Export it"),
    Bad("no context", gguf(u32(b"llama.context_length", 0)), "its llama.context_length is 0", "Export it again"),
    Bad("a negative epsilon", gguf(u32(b"layer_norm_rms_epsilon", 0xBF800000)), "epsilon is -1.0", "Export it again"),
    Bad("an id beyond the vocabulary", gguf(u32(b"ggml.bos_token_id", 10**6)), "bos_token_id is 1000000", "Export it"),
    Bad("another architecture", gguf(lambda content: content.replace(b"llama", b"zzzzz")), "llama.cpp cannot load",
        "Export it again"),
    Bad("another vocabulary", gguf(_other_words), "has another vocabulary than the run", "Give a"),
    Bad("a link in a circle as GGUF", lambda place: ["predict", place.run.path, "--model", _gguf_loop(place), *PAIR],
        "There is no GGUF file", "export_gguf.py"),
]  # fmt: skip


def _gguf_loop(place: Place) -> Path:
    link = place.folder / "loop.gguf"
    link.symlink_to(link)
    return link


CASES = [*RECIPE_CASES, *DATA_CASES, *MODEL_CASES, *PLACE_CASES, *RUN_CASES, *COMPARE_CASES, *GGUF_CASES]
