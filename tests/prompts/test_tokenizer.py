"""Loading of tokenizers: tokenizer.json decides, texts survive, and failures in Rust are one sentence."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from toolkit.embedded import MODEL_FOLDER
from toolkit.errors import ModelError
from toolkit.prompts.prompt_tokenizer import PromptTokenizer
from toolkit.prompts.sentence_pairs import PairTokenizer
from toolkit.prompts.tokenizer import encode_for_encoder, encode_plain, load_tokenizer
from toolkit.recipe.schema import Recipe, TaskSection

MakeRecipe = Callable[..., Recipe]
SENTENCE = "Eh bien, je ne pense même pas à cela !"


def edited_tokenizer(folder: Path, class_name: str | None = None, source: Path = MODEL_FOLDER, **changes: Any) -> Path:
    """Copy a tokenizer with another class in tokenizer_config.json and other top-level keys in tokenizer.json."""
    folder.mkdir(exist_ok=True)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copyfile(source / name, folder / name)
    for file, new in (("tokenizer_config.json", {"tokenizer_class": class_name}), ("tokenizer.json", changes)):
        content = json.loads((folder / file).read_text(encoding="utf-8"))
        kept = {key: value for key, value in {**content, **new}.items() if key != "tokenizer_class" or value}
        (folder / file).write_text(json.dumps(kept, ensure_ascii=False), encoding="utf-8")
    return folder


CLASSES = [
    "LlamaTokenizerFast", "LlamaTokenizer", "GPT2Tokenizer", "Qwen2Tokenizer", "TokenizersBackend", "NoSuchTokenizer",
    None,
]  # fmt: skip
BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}


def pre_tokenizer(regex: str) -> dict[str, Any]:
    """Return a byte-level pre-tokenizer that splits text by a regular expression."""
    split = {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False}
    return {"type": "Sequence", "pretokenizers": [split, BYTES]}


@pytest.mark.parametrize("class_name", CLASSES)
def test_tokenizer_file_decides(class_name: str | None, tmp_path: Path, make_recipe: MakeRecipe) -> None:
    """DeepSeek-R1-Distill-Llama names LlamaTokenizerFast for its byte-level BPE, which lost every space."""
    tokenizer = load_tokenizer(edited_tokenizer(tmp_path / "base", class_name))
    expected = encode_plain(load_tokenizer(MODEL_FOLDER), SENTENCE)
    assert encode_plain(tokenizer, SENTENCE) == expected and tokenizer.decode(expected) == SENTENCE
    prompt, _ = PromptTokenizer(tokenizer, make_recipe().task, 256).encode_prompt(
        {"premise": SENTENCE, "hypothesis": "Il dort."}
    )
    assert SENTENCE in tokenizer.decode(prompt)
    tokenizer.save_pretrained(tmp_path / "adapter")
    assert encode_plain(load_tokenizer(tmp_path / "adapter"), SENTENCE) == expected


@pytest.mark.parametrize("class_name", ["GemmaTokenizer", "T5TokenizerFast"])
def test_class_that_cannot_read_is_refused(class_name: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="has no tokenizer that can be loaded"):
        load_tokenizer(edited_tokenizer(tmp_path, class_name))


LOSSY = {
    "spaces": {"pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": True}},
    "accents": {"normalizer": {"type": "Sequence", "normalizers": [{"type": "NFD"}, {"type": "StripAccents"}]}},
    "case": {"normalizer": {"type": "Lowercase"}},
    "bytes": {"decoder": None},
    "words": {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "Whitespace"}, BYTES]}},
    "punctuation": {"normalizer": {"type": "Replace", "pattern": {"Regex": "[?!;:]"}, "content": ""}},
}


@pytest.mark.parametrize("name", LOSSY)
def test_tokenizer_that_changes_texts_is_refused(name: str, tmp_path: Path, make_recipe: MakeRecipe) -> None:
    """The tokenizer is the base model's at preflight, and that of the run's adapter folder afterwards."""
    tokenizer = load_tokenizer(edited_tokenizer(tmp_path, "TokenizersBackend", **LOSSY[name]))
    with pytest.raises(ModelError, match="tokenizer changes texts: "):
        PromptTokenizer(tokenizer, make_recipe().task, 256)


def test_encoder_that_ignores_spaces_is_refused(tmp_path: Path) -> None:
    """Lost case and accents are fine for an encoder."""
    tokenizer = load_tokenizer(edited_tokenizer(tmp_path, "TokenizersBackend", **LOSSY["spaces"]))
    with pytest.raises(ModelError, match="tokenizer ignores spaces: "):
        PairTokenizer(tokenizer, TaskSection(labels=("a", "b")), 64)
    PairTokenizer(
        load_tokenizer(edited_tokenizer(tmp_path, "TokenizersBackend", **LOSSY["case"])),
        TaskSection(labels=("a", "b")),
        64,
    )


@pytest.mark.parametrize("regex", ["(a+)+b", "(x+x+)+y", "(?:a|a|ab)+c"])
def test_panic_in_rust_is_one_sentence(regex: str, tmp_path: Path) -> None:
    """A regular expression that backtracks without end, which pyo3 raises as a BaseException."""
    text = "a" * 60 + " " + "x" * 60
    with pytest.raises(ModelError, match="retry-limit"):
        tokenizer = load_tokenizer(edited_tokenizer(tmp_path, pre_tokenizer=pre_tokenizer(regex)))
        encode_plain(tokenizer, text)
    with pytest.raises(ModelError, match="retry-limit"):
        encode_for_encoder(load_tokenizer(edited_tokenizer(tmp_path, pre_tokenizer=pre_tokenizer(regex))), ["x", text])


@pytest.mark.parametrize("class_name", ["TokenizersBackend", "LlamaTokenizerFast"])
def test_bpe_dropout_is_turned_off(class_name: str, tmp_path: Path) -> None:
    """Some tokenizers are saved with it. Every call would then give other token ids."""
    model = json.loads((MODEL_FOLDER / "tokenizer.json").read_text(encoding="utf-8"))["model"]
    tokenizer = load_tokenizer(edited_tokenizer(tmp_path / "base", class_name, model={**model, "dropout": 0.5}))
    assert encode_plain(tokenizer, SENTENCE) == encode_plain(load_tokenizer(MODEL_FOLDER), SENTENCE)
    tokenizer.save_pretrained(tmp_path / "adapter")
    assert json.loads((tmp_path / "adapter" / "tokenizer.json").read_text(encoding="utf-8"))["model"]["dropout"] is None


def test_saved_truncation_and_padding_are_ignored(tmp_path: Path) -> None:
    truncation = {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
    padding = {"strategy": {"Fixed": 64}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0,
               "pad_type_id": 0, "pad_token": "!"}  # fmt: skip
    tokenizer = load_tokenizer(edited_tokenizer(tmp_path, truncation=truncation, padding=padding))
    assert encode_plain(tokenizer, SENTENCE) == encode_plain(load_tokenizer(MODEL_FOLDER), SENTENCE)
