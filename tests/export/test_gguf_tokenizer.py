"""Tokenizers in GGUF files: llama.cpp must split every text, and every chat, into the tokenizer's own token ids.

The real vocabularies need LLAMA_CPP_SOURCE, a folder with llama.cpp's models and convert_hf_to_gguf.py, and the real
models REAL_MODELS, a folder with the models that ../shared/real-models/make.py writes.
"""

import json
import os
import shutil
import subprocess
import sys
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gguf
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, models

from tests.nli import nli
from tests.prompts.small_tokenizers import BUILDERS, BYTES, HOSTILE, ZEPHYR, build, save, sentences
from toolkit.errors import ExportError
from toolkit.export.chat_tokens import compare_chat_tokens
from toolkit.export.gguf_writer import write_gguf
from toolkit.export.modelfile import render_readme
from toolkit.inference.llama_cpp import LlamaCpp
from toolkit.models.backend import AutoConfig, AutoModelForCausalLM
from toolkit.models.gguf_vocabulary import GgufVocabulary
from toolkit.planning.model_checks import find_export_problem
from toolkit.prompts.messages import prompt_messages
from toolkit.prompts.ollama_template import render_ollama_template
from toolkit.prompts.prompt_tokenizer import PromptTokenizer
from toolkit.prompts.tokenizer import load_tokenizer
from toolkit.recipe.schema import TaskSection

TASK = TaskSection(labels=("entailment", "neutral", "contradiction"), user="{premise}\n{hypothesis}")


def write_file(folder: Path, vocab_size: int) -> Path:
    """Write a GGUF file with the tokenizer of a folder and the smallest Llama."""
    config = AutoConfig.for_model(
        "llama", vocab_size=vocab_size, hidden_size=32, intermediate_size=32, num_hidden_layers=1,
        num_attention_heads=1, num_key_value_heads=1, max_position_embeddings=64, tie_word_embeddings=True,
    )  # fmt: skip
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    write_gguf(folder, folder / "model.gguf", "f16", date_string=None, name="m")
    return folder / "model.gguf"


def llama_cpp_ids(model: LlamaCpp, text: str, add_special: bool = False) -> list[int]:
    return model._post("/tokenize", content=text, add_special=add_special, parse_special=True)["tokens"]


Opened = tuple[str, LlamaCpp, Tokenizer, Path]


@pytest.fixture(scope="module", params=BUILDERS)
def opened(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Opened]:
    """A small tokenizer: its kind, a GGUF file with it that llama.cpp has opened, itself, and its folder."""
    kind = request.param
    folder, tokenizer = save(kind, tmp_path_factory.mktemp("tokenizer")), build(kind)
    file = write_file(folder, tokenizer.get_vocab_size() + 3)
    with LlamaCpp(file, context_length=64, sequences=1, threads=1, use_chat_template=True) as model:
        yield kind, model, tokenizer, folder


def comparable(kind: str, text: str) -> str:
    """Return a text for which equal ids are promised."""
    if kind == "qwen2":  # llama.cpp does not normalize
        return unicodedata.normalize("NFC", text)
    return f"<s>{text}" if kind == "mistral" else text  # it writes a space only if no special token precedes the text


def test_ids_match_llama_cpp(opened: Opened) -> None:
    kind, model, tokenizer, _ = opened
    for text in [*HOSTILE, *sentences()[:100], "".join(HOSTILE)]:
        text = comparable(kind, text)
        assert llama_cpp_ids(model, text) == tokenizer.encode(text, add_special_tokens=False).ids, text


ALPHABET = sorted(set("".join([*HOSTILE, *sentences()[:50]])))


@settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(ALPHABET, min_size=1) | st.text(" ab'1é\n▁!", min_size=1, max_size=200))
def test_ids_match_on_any_text(opened: Opened, text: str) -> None:
    kind, model, tokenizer, _ = opened
    text = comparable(kind, text)
    assert llama_cpp_ids(model, text) == tokenizer.encode(text, add_special_tokens=False).ids


def small_prompt_tokenizer(folder: Path) -> PromptTokenizer:
    return PromptTokenizer(load_tokenizer(folder), TASK, 4096)


def test_chat_gives_the_training_tokens(opened: Opened) -> None:
    _, model, _, folder = opened
    prompt_tokenizer = small_prompt_tokenizer(folder)
    rows = [nli(str(i), text, "Il dort.", "neutral") for i, text in enumerate([*HOSTILE, *sentences()[:20]])]
    assert compare_chat_tokens(model.gguf, prompt_tokenizer, rows, prompt_tokenizer.encode(rows)) == (0, "")


def test_ollama_template_gives_the_training_tokens(opened: Opened) -> None:
    """Ollama adds a BOS to the rendered template if and only if the file says so."""
    _, model, _, folder = opened
    prompt_tokenizer = small_prompt_tokenizer(folder)
    inputs = {"premise": "L'été 2024 !", "hypothesis": "Il dort."}
    [question] = prompt_messages(TASK, inputs)
    text = render_ollama_template(prompt_tokenizer).replace("{{ .Prompt }}", question["content"])
    assert tuple(llama_cpp_ids(model, text, add_special=True)) == prompt_tokenizer.encode_prompt(inputs)[0]


def test_decoded_text_is_unchanged(opened: Opened) -> None:
    kind, model, tokenizer, _ = opened
    for text in sentences()[:20]:
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        assert model._post("/detokenize", tokens=ids)["content"].strip() == text, kind


def test_partial_space_prefix_is_reported(tmp_path: Path) -> None:
    """A tokenizer that writes a space before the first text only, and a template that starts with a text."""
    write_file(save("mistral", tmp_path), 1000)
    assert find_export_problem(tmp_path, small_prompt_tokenizer(tmp_path), 50) is None
    task = TASK.model_copy(update={"chat_template": ZEPHYR})
    problem = find_export_problem(tmp_path, PromptTokenizer(load_tokenizer(tmp_path), task, 4096), 50)
    assert problem is not None and "writes a space before only some texts of the chat template" in problem


def test_readme_asks_for_normalized_texts(tmp_path: Path) -> None:
    for kind in ("qwen2", "smollm"):
        prompt_tokenizer = small_prompt_tokenizer(save(kind, tmp_path / kind))
        readme = render_readme(prompt_tokenizer, [Path("m.gguf")], nli("1", "a", "b", "neutral"))
        assert ("Unicode's NFC form" in readme) is (kind == "qwen2")


def changed(kind: str, change: Callable[[dict[str, Any]], object]) -> Tokenizer:
    raw = json.loads(build(kind).to_str())
    change(raw)
    return Tokenizer.from_str(json.dumps(raw))


def with_flag(flag: str, **token: Any) -> Callable[[dict[str, Any]], object]:
    return lambda raw: raw["added_tokens"][-1].update({flag: True, **token})


def with_two_piece_token(raw: dict[str, Any]) -> None:
    raw["model"]["vocab"]["▁▁La"] = len(raw["model"]["vocab"]) + len(raw["added_tokens"])


def unigram() -> Tokenizer:
    return Tokenizer(models.Unigram([("<unk>", 0.0), ("a", -1.0)], unk_id=0))


METASPACE = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": False}
REFUSALS: dict[str, tuple[Callable[[], Tokenizer], str]] = {
    "Unigram": (unigram, "is a Unigram model, and only BPE can be exported"),
    "parts of words": (
        lambda: changed("gpt-2", lambda raw: raw["model"].update(end_of_word_suffix="</w>")),
        "marks parts of words",
    ),
    "a space before the first word": (
        lambda: changed("gpt-2", lambda raw: raw["pre_tokenizer"].update(add_prefix_space=True)),
        "ByteLevel with add_prefix_space True",
    ),
    "digits in groups": (
        lambda: changed("smollm", lambda raw: raw["pre_tokenizer"]["pretokenizers"][0].update(individual_digits=False)),
        "Digits with individual_digits False",
    ),
    "compatibility characters": (
        lambda: changed("qwen2", lambda raw: raw.update(normalizer={"type": "NFKC"})),
        r"normalizes text \(NFKC\)",
    ),
    "whole words": (
        lambda: changed(
            "qwen2", lambda raw: raw["model"].update(ignore_merges=True, merges=raw["model"]["merges"][:9])
        ),
        "never produces its token .* by merging, but the tokenizer would use it",
    ),
    "no byte fallback": (
        lambda: changed("llama", lambda raw: raw["model"].update(byte_fallback=False)),
        "byte_fallback",
    ),
    "a missing byte": (lambda: changed("llama", lambda raw: raw["model"]["vocab"].pop("<0x41>")), "lacks 1 of the 256"),
    "another normalizer": (
        lambda: changed("gemma", lambda raw: raw.update(normalizer={"type": "Lowercase"})),
        r"other steps \(Lowercase\)",
    ),
    "words": (
        lambda: changed(
            "mistral", lambda raw: (raw.update(pre_tokenizer=METASPACE | {"split": True}), with_two_piece_token(raw))
        ),
        r"other steps \(Metaspace\)",
    ),
    "a token that only llama.cpp builds": (lambda: changed("gemma", with_two_piece_token), "▁▁La"),
    "a token with its spaces": (
        lambda: changed("qwen2", with_flag("lstrip")),
        "matches its token '<tool>' by .*lstrip",
    ),
    "a normalized token": (lambda: changed("llama", with_flag("normalized")), "matches its token '<tool>' by .*normal"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_other_tokenizers_are_refused(name: str) -> None:
    make, message = REFUSALS[name]
    with pytest.raises(ExportError, match=message) as refusal:
        GgufVocabulary(make(), 2000, Path("folder"))
    assert "converter=PATH" in (refusal.value.hint or "")


def test_embedding_decides_the_vocabulary(tmp_path: Path) -> None:
    """A special token beyond the embedding, as in Gemma 3, is left out; another one would be a wrong tokenizer."""
    size = build("gemma").get_vocab_size()
    tokenizer = Tokenizer.from_str(build("gemma").to_str())
    tokenizer.add_special_tokens([AddedToken("<image_soft_token>", normalized=False)])
    vocabulary = GgufVocabulary(tokenizer, size, tmp_path)
    assert "<image_soft_token>" not in vocabulary.tokens_and_types()[0]
    padded, types = GgufVocabulary(tokenizer, size + 3, tmp_path).tokens_and_types()
    assert padded[-3:] == ["<image_soft_token>", f"[PAD{size + 1}]", f"[PAD{size + 2}]"]
    assert types[-3:] == [gguf.TokenType.CONTROL, gguf.TokenType.UNUSED, gguf.TokenType.UNUSED]
    with pytest.raises(ExportError, match=rf"token id {size - 1}, but the embedding has {size - 1} rows"):
        GgufVocabulary(build("gemma"), size - 1, tmp_path)


def test_metadata_of_each_kind(opened: Opened) -> None:
    kind, model, tokenizer, folder = opened
    fields = {key: field.contents() for key, field in gguf.GGUFReader(model.gguf).fields.items()}
    is_sentencepiece = "<s>" in tokenizer.get_vocab()
    assert fields["tokenizer.ggml.model"] == ("llama" if is_sentencepiece else "gpt2")
    assert fields["tokenizer.ggml.pre"] == ("default" if is_sentencepiece else kind)
    assert fields["tokenizer.ggml.add_bos_token"] is (load_tokenizer(folder).bos_token is not None)
    assert ("tokenizer.ggml.merges" in fields) is not is_sentencepiece
    if is_sentencepiece:
        assert fields["tokenizer.ggml.add_space_prefix"] is (kind not in ("gemma", "mistral"))
        types = dict(zip(fields["tokenizer.ggml.tokens"], fields["tokenizer.ggml.token_type"], strict=True))
        assert [types[token] for token in ("<unk>", "<s>", "<tool>", "▁")] == [2, 3, 4, 1]
        assert {types[token] for token in BYTES} == {gguf.TokenType.BYTE}


LLAMA_CPP = Path(os.environ.get("LLAMA_CPP_SOURCE", "nowhere"))
REAL_MODELS = Path(os.environ.get("REAL_MODELS", "nowhere"))
VOCABULARIES = {"llama-spm": "llama", "llama-bpe": "llama-bpe", "qwen2": "qwen2", "gpt-2": "gpt-2"}
"""llama.cpp's copies of real vocabularies, and the kind of each."""


def vocabulary_fields(name: str) -> dict[str, Any]:
    file = LLAMA_CPP / "models" / f"ggml-vocab-{name}.gguf"
    if not file.is_file():
        pytest.skip("needs LLAMA_CPP_SOURCE, a folder with llama.cpp's models/ggml-vocab-*.gguf")
    return {
        key.removeprefix("tokenizer.ggml."): field.contents() for key, field in gguf.GGUFReader(file).fields.items()
    }


def merges_by_score(tokens: dict[str, int], scores: list[float], types: list[int]) -> list[list[str]]:
    """Return all merges of a SentencePiece vocabulary in the order in which it merges."""
    normal = {token for token, token_id in tokens.items() if types[token_id] == gguf.TokenType.NORMAL}
    merges = [
        (-scores[tokens[token]], tokens[token[:cut]], tokens[token[cut:]], token[:cut], token[cut:])
        for token in normal
        for cut in range(1, len(token))
        if token[:cut] in normal and token[cut:] in normal
    ]
    return [list(merge[3:]) for merge in sorted(merges)]


def save_real(name: str, folder: Path) -> Tokenizer:
    """Write the folder of a real tokenizer and return it."""
    from transformers import PreTrainedTokenizerFast  # after Unsloth

    folder.mkdir(exist_ok=True)
    if name not in VOCABULARIES:
        if not (REAL_MODELS / name).is_dir():
            pytest.skip("needs REAL_MODELS, a folder that ../shared/real-models/make.py filled")
        for file in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
            shutil.copy(REAL_MODELS / name / file, folder)
        return Tokenizer.from_file(str(folder / "tokenizer.json"))
    fields = vocabulary_fields(name)
    types, vocabulary = fields["token_type"], {token: i for i, token in enumerate(fields["tokens"])}
    merges = [merge.split(" ") for merge in fields.get("merges", [])]
    raw = json.loads(build(VOCABULARIES[name]).to_str()) | {"added_tokens": []}
    raw["model"] |= {
        "vocab": vocabulary,
        "merges": merges or merges_by_score(vocabulary, fields["scores"], types),
    }
    tokenizer = Tokenizer.from_str(json.dumps(raw))
    special = {gguf.TokenType.CONTROL, gguf.TokenType.UNKNOWN}
    tokenizer.add_special_tokens(
        [AddedToken(token, normalized=False) for token, i in vocabulary.items() if types[i] in special]
    )
    names = {f"{kind}_token": fields["tokens"][fields[f"{kind}_token_id"]] for kind in ("bos", "eos")}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(folder)
    return tokenizer


@pytest.mark.parametrize("name", [*VOCABULARIES, "smollm2", "gemma3"])
def test_real_ids_match_on_xnli(name: str, shared: Path, tmp_path: Path) -> None:
    lines = (shared / "data" / "xnli_fr" / "test.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    texts = [row[side] for row in rows for side in ("premise", "hypothesis")]
    tokenizer = save_real(name, tmp_path / name)
    assert len(texts) == 4980
    file = write_file(tmp_path / name, tokenizer.get_vocab_size())
    # llama.cpp takes </s> for a special token wherever it is in the vocabulary, and in Qwen's it is an ordinary one.
    hostile = [comparable(name, text) for text in HOSTILE if "</s>" not in text]
    with LlamaCpp(file, context_length=64, sequences=1, threads=1) as model:
        for text in [*hostile, *texts]:
            assert llama_cpp_ids(model, text) == tokenizer.encode(text, add_special_tokens=False).ids, text


def test_scores_keep_sentencepiece_order(tmp_path: Path) -> None:
    """Llama 2's scores from SentencePiece, and ours from its merges, sort the tokens that merges build equally."""
    fields = vocabulary_fields("llama-spm")
    tokenizer = save_real("llama-spm", tmp_path / "llama")
    scores = GgufVocabulary(tokenizer, len(fields["tokens"]), tmp_path).scores()
    built = {left + right for left, right in json.loads(tokenizer.to_str())["model"]["merges"]}
    ids = [i for i, token in enumerate(fields["tokens"]) if token in built]
    assert len(ids) > 30_000
    assert sorted(ids, key=lambda i: scores[i]) == sorted(ids, key=lambda i: fields["scores"][i])


# The converter writes no flag for a BOS that the tokenizer itself does not add. Without SentencePiece's tokenizer.model
# it scores all tokens -1000, which merges them in a wrong order, and it does not know the unknown token.
NO_FLAG = {"tokenizer.ggml.add_bos_token"}
EXPECTED_DIFFERENCES = {
    "llama-spm": {f"tokenizer.ggml.{name}" for name in ("scores", "token_type", "add_space_prefix", "add_bos_token")},
    "llama-bpe": NO_FLAG,
    "qwen2": NO_FLAG,
    "gpt-2": NO_FLAG,
    "smollm2": NO_FLAG,
}


@pytest.mark.parametrize("name", [*VOCABULARIES, "smollm2"])
def test_fields_match_llama_cpp_converter(name: str, tmp_path: Path) -> None:
    folder = tmp_path / name
    tokenizer = save_real(name, folder)
    ours = write_file(folder, tokenizer.get_vocab_size())
    (tmp_path / "sentencepiece.py").write_text("SentencePieceProcessor = None\n", encoding="utf-8")
    theirs = tmp_path / "theirs.gguf"
    command = [sys.executable, LLAMA_CPP / "convert_hf_to_gguf.py", folder, "--vocab-only", "--outfile", theirs]
    subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": str(tmp_path)})
    expected_fields, fields = (
        {key: field.contents() for key, field in gguf.GGUFReader(file).fields.items() if key.startswith("tokenizer.")}
        for file in (theirs, ours)
    )
    different = {key for key in expected_fields.keys() | fields.keys() if expected_fields.get(key) != fields.get(key)}
    assert different == EXPECTED_DIFFERENCES[name]
