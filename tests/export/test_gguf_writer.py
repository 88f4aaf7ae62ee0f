"""The GGUF writer: llama.cpp must compute the same scores as torch and produce the same tokens as transformers."""

import json
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
import xllamacpp
from safetensors.torch import load_file, save_file
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from toolkit.errors import ExportError
from toolkit.export import gguf_writer as gguf_module
from toolkit.export.gguf_header import Origin
from toolkit.export.gguf_writer import write_gguf
from toolkit.inference.label_trie import LabelTrie
from toolkit.inference.llama_cpp_scorer import LlamaCppScorer
from toolkit.models.backend import AutoConfig, AutoModelForCausalLM
from toolkit.prompts.split_rules import LLAMA_BPE

MARKERS = ["<|begin|>", "<|start_header|>", "<|end_header|>", "<|eot|>", "<|pad|>"]
FRENCH = [
    "L'élève n'a pas vu « l'œuvre » d'hier : 1234567 pages !",
    "Où  est-il ?\n\n   Près du café, peut-être…\t(DÉJÀ VU)",
    "Ça coûte 12,50 €\r\nn'est-ce pas ? 🦙🦙 ‽",
]
TEMPLATE = "{{- bos_token }}{{- date_string }}{%- for m in messages %}{{- m['content'] }}{%- endfor %}"
ROPE = {"rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32}  # fmt: skip


def train_tokenizer(ignore_merges: bool = True) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    split = pre_tokenizers.Split(Regex(LLAMA_BPE), behavior="isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=alphabet, special_tokens=MARKERS, show_progress=False
    )
    tokenizer.train_from_iterator(FRENCH * 20 + ["oui mais non, le chat dort sur le tapis."] * 20, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<|begin|> $A", special_tokens=[("<|begin|>", 0)])
    return tokenizer


def build_model(folder: Path, *, shard_size: str = "1GB", std: float = 0.2, **overrides: Any) -> Path:
    """Save a random Llama with two layers, grouped-query attention, and a head dimension other than hidden / heads."""
    tokenizer = train_tokenizer()
    sizes: dict[str, Any] = {
        "vocab_size": tokenizer.get_vocab_size(), "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32, "max_position_embeddings": 512,
        "tie_word_embeddings": True, "rope_parameters": ROPE, "bos_token_id": 0, "eos_token_id": 3,
    }  # fmt: skip
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **{**sizes, **overrides}))
    for parameter in model.parameters():  # large enough for attention to matter; norms vary around 1
        torch.nn.init.normal_(parameter, std=std, mean=1.0 if parameter.dim() == 1 else 0.0)
    model.to(torch.float16).save_pretrained(folder, max_shard_size=shard_size)
    tokenizer.save(str(folder / "tokenizer.json"))
    special = {"bos_token": "<|begin|>", "eos_token": "<|eot|>", "pad_token": "<|pad|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(special), encoding="utf-8")
    (folder / "chat_template.jinja").write_text(TEMPLATE, encoding="utf-8")
    return folder


def export(folder: Path, destination: Path, file_type: Any = "f16", date_string: str | None = "26 Jul 2024") -> Path:
    write_gguf(folder, destination, file_type, date_string=date_string, name="tiny")
    return destination


def torch_scores(folder: Path, trie: LabelTrie, prompts: list[list[int]]) -> np.ndarray:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    rows = []
    for prompt in prompts:
        with torch.inference_mode():
            logits = [model(torch.tensor([[*prompt, *edge.path]])).logits[0, -1].double() for edge in trie.edges]
        rows.append([row.log_softmax(-1)[edge.token].item() for row, edge in zip(logits, trie.edges, strict=True)])
    return np.array(rows)


def gguf_scores(file: Path, trie: LabelTrie, prompts: list[list[int]]) -> np.ndarray:
    with LlamaCppScorer(file, trie, context_length=256, threads=1) as scorer:
        return scorer.score(prompts)


def metadata(file: Path) -> dict[str, Any]:
    return {key: field.contents() for key, field in gguf.GGUFReader(file).fields.items()}


def tensors(file: Path) -> dict[str, gguf.ReaderTensor]:
    return {tensor.name: tensor for tensor in gguf.GGUFReader(file).tensors}


def edit_json(path: Path, **changes: Any) -> None:
    raw = json.loads(path.read_text(encoding="utf-8")) | changes
    path.write_text(json.dumps({key: value for key, value in raw.items() if value is not None}), encoding="utf-8")


TRIE = LabelTrie({"yes": (50, 3), "but": (50, 51, 52, 3), "no": (60, 61, 3)})
PROMPTS = [[0, *range(70, 70 + n)] for n in (3, 20, 90)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_model(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture
def copy(model: Path, tmp_path: Path) -> Path:
    """A copy of the model's folder that a test may damage."""
    folder = tmp_path / "copy"
    folder.mkdir()
    for file in model.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


SHAPES: dict[str, dict[str, Any]] = {
    "tied head": {},
    "untied head": {"tie_word_embeddings": False},
    "biases": {"attention_bias": True, "mlp_bias": True},
    "no scaling": {"rope_parameters": ROPE | {"rope_type": "default"}},
}


@pytest.mark.parametrize("overrides", SHAPES.values(), ids=SHAPES.keys())
def test_scores_match_torch(overrides: dict[str, Any], tmp_path: Path) -> None:
    folder = build_model(tmp_path / "model", **overrides)
    actual = gguf_scores(export(folder, tmp_path / "model.gguf", "f32"), TRIE, PROMPTS)
    expected = torch_scores(folder, TRIE, PROMPTS)
    assert np.ptp(expected) > 3
    np.testing.assert_allclose(actual, expected, atol=1e-4)


@pytest.mark.parametrize("file_type, tolerance", [("f16", 1e-3), ("bf16", 0.01)])
def test_16_bit_files_match_torch(file_type: str, tolerance: float, tmp_path: Path) -> None:
    """The tolerance is what llama.cpp's rounding of activations explains."""
    folder = build_model(tmp_path / "model", std=0.06)
    actual = gguf_scores(export(folder, tmp_path / "model.gguf", file_type), TRIE, PROMPTS)
    expected = torch_scores(folder, TRIE, PROMPTS)
    assert np.ptp(expected) > 1
    np.testing.assert_allclose(actual, expected, atol=tolerance)


def test_query_and_key_row_order_matters(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("toolkit.models.decoder_folder.DecoderFolder._row_order", lambda *_: None)
    actual = gguf_scores(export(model, tmp_path / "wrong.gguf", "f32"), TRIE, PROMPTS)
    assert np.abs(actual - torch_scores(model, TRIE, PROMPTS)).max() > 0.1


def test_rotary_scaling_matters(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gguf_module, "compute_rope_factors", lambda _: None)
    actual = gguf_scores(export(model, tmp_path / "wrong.gguf", "f32"), TRIE, PROMPTS)
    assert np.abs(actual - torch_scores(model, TRIE, PROMPTS)).max() > 0.1


def test_transformers_4_rotary_keys_are_read(model: Path, copy: Path, tmp_path: Path) -> None:
    """`rope_theta` with `rope_scaling` (transformers 4) gives the same file as `rope_parameters` (transformers 5)."""
    scaling = {key: value for key, value in ROPE.items() if key != "rope_theta"}
    edit_json(copy / "config.json", rope_parameters=None, rope_theta=ROPE["rope_theta"], rope_scaling=scaling)
    older, newer = export(copy, tmp_path / "older.gguf"), export(model, tmp_path / "newer.gguf")
    assert older.read_bytes() == newer.read_bytes()


def test_shards_give_the_same_bytes(model: Path, tmp_path: Path) -> None:
    sharded = build_model(tmp_path / "sharded", shard_size="40KB")
    assert len(list(sharded.glob("model-*.safetensors"))) > 2
    from_file, from_shards = export(model, tmp_path / "file.gguf"), export(sharded, tmp_path / "shards.gguf")
    assert from_file.read_bytes() == from_shards.read_bytes()


def test_block_size_does_not_change_bytes(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = export(model, tmp_path / "whole.gguf", "q8_0").read_bytes()
    monkeypatch.setattr(gguf_module, "_CHUNK_VALUES", 7 * 64)
    assert export(model, tmp_path / "blocks.gguf", "q8_0").read_bytes() == whole


def test_q8_0_is_accurate_and_small(model: Path, tmp_path: Path) -> None:
    f16, q8_0 = export(model, tmp_path / "f16.gguf"), export(model, tmp_path / "q8_0.gguf", "q8_0")
    difference = np.abs(gguf_scores(f16, TRIE, PROMPTS) - gguf_scores(q8_0, TRIE, PROMPTS)).max()
    assert 0 < difference < 0.5
    small, large = (sum(int(tensor.n_bytes) for tensor in tensors(file).values()) for file in (q8_0, f16))
    assert small < 0.6 * large


def test_types_of_vectors_and_odd_rows(tmp_path: Path) -> None:
    """Vectors are float32. Matrices whose rows do not divide into quantization blocks are float16."""
    folder = build_model(tmp_path / "model", intermediate_size=80)
    types = {
        name: tensor.tensor_type.name for name, tensor in tensors(export(folder, tmp_path / "m.gguf", "q8_0")).items()
    }
    assert types["blk.0.attn_norm.weight"] == types["rope_freqs.weight"] == "F32"
    assert types["blk.0.ffn_up.weight"] == types["token_embd.weight"] == "Q8_0"
    assert types["blk.0.ffn_down.weight"] == "F16"


def test_tied_head_is_written_once(model: Path, copy: Path, tmp_path: Path) -> None:
    state = load_file(copy / "model.safetensors")
    save_file(state | {"lm_head.weight": state["model.embed_tokens.weight"].clone()}, copy / "model.safetensors")
    assert "output.weight" not in tensors(export(copy, tmp_path / "m.gguf"))


def test_date_is_pinned_in_the_template(model: Path, tmp_path: Path) -> None:
    template = metadata(export(model, tmp_path / "m.gguf", date_string='26 "Jul" 2024'))["tokenizer.chat_template"]
    assert template == '{%- set date_string = "26 \\"Jul\\" 2024" %}' + TEMPLATE
    unpinned = metadata(export(model, tmp_path / "n.gguf", date_string=None))["tokenizer.chat_template"]
    assert unpinned == TEMPLATE


def test_metadata_describes_the_model(model: Path, tmp_path: Path) -> None:
    fields = metadata(export(model, tmp_path / "m.gguf", "q8_0"))
    assert fields["general.architecture"] == "llama"
    assert fields["general.name"] == "tiny"
    assert fields["general.file_type"] == 7
    assert fields["llama.attention.key_length"] == fields["llama.rope.dimension_count"] == 32
    assert fields["tokenizer.ggml.pre"] == "llama-bpe"
    assert fields["tokenizer.ggml.add_bos_token"] is True
    assert (fields["tokenizer.ggml.bos_token_id"], fields["tokenizer.ggml.eos_token_id"]) == (0, 3)
    assert fields["tokenizer.ggml.padding_token_id"] == 4
    assert fields["tokenizer.ggml.token_type"][:6] == [3, 3, 3, 3, 3, 1]


def test_metadata_gives_the_origin(model: Path, tmp_path: Path) -> None:
    file = tmp_path / "m.gguf"
    origin = Origin("ab" * 32, "org/base", base_revision="c0ffee", license_="llama3.2")
    write_gguf(model, file, "f16", date_string=None, name="run", origin=origin)
    fields = metadata(file)
    assert fields["general.base_model.0.name"] == "org/base" and fields["general.base_model.0.version"] == "c0ffee"
    assert fields["general.base_model.0.repo_url"] == "https://huggingface.co/org/base"
    assert fields["general.license"] == "llama3.2" and fields["general.toolkit.recipe_sha256"] == "ab" * 32
    origin_keys = {key for key in fields if key not in metadata(export(model, tmp_path / "n.gguf"))}
    assert all(key.startswith("general.") for key in origin_keys)


def test_extra_embedding_rows_are_unused_tokens(tmp_path: Path) -> None:
    folder = build_model(tmp_path / "model", vocab_size=416)
    fields = metadata(export(folder, tmp_path / "m.gguf"))
    assert fields["tokenizer.ggml.tokens"][-1] == "[PAD415]"
    assert fields["tokenizer.ggml.token_type"][-1] == gguf.TokenType.UNUSED


def start_server(file: Path) -> xllamacpp.Server:
    """Serve a GGUF file with llama.cpp in this process."""
    params = xllamacpp.CommonParams()
    params.model.path = str(file)
    params.n_ctx, params.verbosity, params.warmup, params.fit_params = 256, -1, False, False
    server = xllamacpp.Server(params)
    # Freeing a server whose loop has not started yet waits forever, so let it answer one request first.
    server.handle_completions({"prompt": [0], "max_tokens": 1})
    return server


@pytest.fixture(params=["tiny", "nano"])
def server_and_tokenizer(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, Tokenizer]]:
    """The address of a llama.cpp server with an exported model, and the model's Hugging Face tokenizer."""
    folder = request.getfixturevalue("model" if request.param == "tiny" else "nano")
    server = start_server(export(folder, tmp_path / "m.gguf", "q8_0"))
    yield server.listening_address, Tokenizer.from_file(str(folder / "tokenizer.json"))
    del server


def post(address: str, route: str, **body: Any) -> Any:
    data, headers = json.dumps(body).encode(), {"Content-Type": "application/json"}
    request = urllib.request.Request(address + route, data, headers)  # noqa: S310 - the server of this process
    with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
        return json.load(answer)


def test_llama_cpp_tokenizes_like_transformers(server_and_tokenizer: tuple[str, Tokenizer]) -> None:
    address, tokenizer = server_and_tokenizer
    markers = [token.content for token in tokenizer.get_added_tokens_decoder().values()][:10]
    for text in [
        *FRENCH,
        "".join(FRENCH),
        "".join(f"{marker}{text}\n\n" for marker, text in zip(markers, FRENCH * 4, strict=False)),
    ]:
        token_ids = post(address, "/tokenize", content=text, add_special=True, parse_special=True)["tokens"]
        assert token_ids == tokenizer.encode(text).ids


def test_llama_cpp_renders_the_pinned_date(model: Path, tmp_path: Path) -> None:
    server = start_server(export(model, tmp_path / "m.gguf", date_string="3 mars 2025"))
    answer = post(server.listening_address, "/apply-template", messages=[{"role": "user", "content": "Bonjour"}])
    assert answer["prompt"].removeprefix("<|begin|>") == "3 mars 2025Bonjour"


def test_real_tokenizer_and_shape_match_torch(nano: Path, tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_file(str(nano / "tokenizer.json"))
    words = ["entailment", "neutral", "contradiction", "oui", "oui mais"]
    trie = LabelTrie({word: [*tokenizer.encode(word, add_special_tokens=False).ids, 128009] for word in words})
    prompts = [tokenizer.encode(text).ids for text in FRENCH]
    actual = gguf_scores(export(nano, tmp_path / "nano.gguf"), trie, prompts)
    np.testing.assert_allclose(actual, torch_scores(nano, trie, prompts), atol=1e-3)


def break_split_rule(folder: Path) -> None:
    raw = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    raw["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = r"\p{N}|\s+|\S+"
    (folder / "tokenizer.json").write_text(json.dumps(raw), encoding="utf-8")


def break_merges(folder: Path) -> None:
    raw = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    raw["model"] |= {"ignore_merges": False, "merges": raw["model"]["merges"][:-1]}
    (folder / "tokenizer.json").write_text(json.dumps(raw), encoding="utf-8")


def config(**changes: Any) -> Callable[[Path], None]:
    return lambda folder: edit_json(folder / "config.json", **changes)


def weights(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors")

    return damage


def fewer_rows(folder: Path) -> None:
    edit_json(folder / "config.json", vocab_size=100)
    weights(lambda w: w.update({EMBEDDING: w[EMBEDDING][:100].clone()}))(folder)


def only_bin(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def cut(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:1000])


EMBEDDING = "model.embed_tokens.weight"
UP = "model.layers.1.mlp.up_proj.weight"
QUERY, META_QUERY = "model.layers.1.self_attn.q_proj.weight", "layers.1.attention.wq.weight"
NORM_BIAS = "model.layers.1.input_layernorm.bias"
REFUSALS: dict[str, tuple[Callable[[Path], object], str]] = {
    "another architecture": (config(architectures=["OlmoForCausalLM"]), "OlmoForCausalLM"),
    "a 4-bit folder": (config(quantization_config={"quant_method": "bitsandbytes"}), "bitsandbytes"),
    "another activation": (config(hidden_act="gelu"), "gelu"),
    "another rotary scaling": (config(rope_parameters=ROPE | {"rope_type": "yarn"}), "yarn"),
    "a config without its sizes": (config(hidden_size=None), r"implies \[380, 4096\]"),
    "no config": (lambda f: (f / "config.json").unlink(), "config.json"),
    "a config that is not JSON": (lambda f: (f / "config.json").write_text("{", encoding="utf-8"), "config.json"),
    "no tokenizer": (lambda f: (f / "tokenizer.json").unlink(), "tokenizer.json"),
    "another split rule": (break_split_rule, r"\\p\{N\}\|"),
    "a normalizer": (lambda f: edit_json(f / "tokenizer.json", normalizer={"type": "NFKC"}), "NFKC"),
    "tokens that merging never makes": (break_merges, "never produces its token .+ by merging"),
    "more tokens than rows": (fewer_rows, "100 rows"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "model.safetensors"),
    "pickled weights": (only_bin, r"\.bin"),
    "damaged weights": (cut, "cannot be read"),
    "an unknown tensor": (weights(lambda w: w.update({"model.lora_A.weight": w.pop(UP)})), "lora_A"),
    # gguf's name map knows these names, but Meta's layout orders query and key rows differently.
    "a name of Meta's layout": (weights(lambda w: w.update({META_QUERY: w.pop(QUERY)})), "attention.wq"),
    "a bias of a norm": (weights(lambda w: w.update({NORM_BIAS: w["model.norm.weight"].clone()})), "norm.bias"),
    "a layer too many": (weights(lambda w: w.update({UP.replace("1", "2"): w.pop(UP)})), "2 layers"),
    "a missing tensor": (weights(lambda w: w.pop(UP)), UP),
    "a wrong shape": (weights(lambda w: w.update({UP: w[UP][:8].clone()})), r"\[8, 64\]"),
    "8-bit weights": (weights(lambda w: w.update({UP: w[UP].to(torch.uint8)})), "U8"),
    "NaN weights": (weights(lambda w: w[UP].fill_(float("nan"))), "NaN or infinity"),
    "weights beyond float16": (weights(lambda w: w.update({UP: w[UP].float() + 1e6})), "65504"),
}


@pytest.mark.parametrize("damage, message", REFUSALS.values(), ids=REFUSALS.keys())
def test_unsupported_folders_are_refused(
    damage: Callable[[Path], object], message: str, copy: Path, tmp_path: Path
) -> None:
    damage(copy)
    with pytest.raises(ExportError, match=message):
        export(copy, tmp_path / "out" / "m.gguf")
    assert not list(tmp_path.rglob("*.gguf*"))


def test_unknown_file_type_is_refused(model: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="q3_x") as refusal:
        export(model, tmp_path / "m.gguf", "q3_x")
    assert "q8_0" in (refusal.value.hint or "")


def test_missing_shard_is_named(tmp_path: Path) -> None:
    folder = build_model(tmp_path / "sharded", shard_size="40KB")
    missing = sorted(folder.glob("model-*.safetensors"))[1]
    missing.unlink()
    with pytest.raises(ExportError, match=missing.name):
        export(folder, tmp_path / "m.gguf")


def test_merges_that_build_every_token_are_accepted(copy: Path, tmp_path: Path) -> None:
    train_tokenizer(ignore_merges=False).save(str(copy / "tokenizer.json"))
    assert export(copy, tmp_path / "m.gguf").is_file()


def test_interrupted_write_keeps_the_old_file(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    destination = tmp_path / "m.gguf"
    destination.write_text("older", encoding="utf-8")
    calls = iter(range(100))

    def interrupt(*arguments: Any) -> np.ndarray:
        if next(calls) == 5:
            raise KeyboardInterrupt
        return gguf.quants.quantize(*arguments)

    monkeypatch.setattr(gguf_module, "quantize", interrupt)
    with pytest.raises(KeyboardInterrupt):
        export(model, destination)
    assert [file.name for file in tmp_path.iterdir()] == ["m.gguf"]
    assert destination.read_text(encoding="utf-8") == "older"
