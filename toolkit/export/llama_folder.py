"""The tensors of a Llama folder as Hugging Face writes it, checked to be whole, with their GGUF names."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from toolkit.errors import ExportError
from toolkit.export.llama_config import read_config, read_json

_FLOAT_TYPES = ("F16", "BF16", "F32")
_MODEL_NAMES = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
_LAYER_NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


@dataclass(frozen=True)
class Tensor:
    """One tensor of the folder, not yet read."""

    hf_name: str
    gguf_name: str
    file: Path
    shape: tuple[int, ...]
    row_order: np.ndarray | None
    """Which row of the folder's tensor stands where in the GGUF file; None where the order stays."""

    def read(self, start: int, stop: int) -> np.ndarray:
        """Rows `start` to `stop` of the GGUF file's order, as float32."""
        with safe_open(self.file, framework="pt") as file:
            tensor_slice = file.get_slice(self.hf_name)
            if self.row_order is None:
                return tensor_slice[start:stop].to(torch.float32).numpy()
            # Rows change places within a head, so those that are wanted stand near each other.
            row_indices = self.row_order[start:stop]
            first = int(row_indices.min())
            return tensor_slice[first : int(row_indices.max()) + 1].to(torch.float32).numpy()[row_indices - first]


class LlamaFolder:
    """A folder that was checked to hold a whole Llama model.

    Args:
        path: the folder.

    Raises:
        ExportError: see `read_config`; or the weights are missing, incomplete, quantised, or of unknown names.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = read_config(path)
        tensors = [tensor for file in _weight_files(path) for tensor in self._tensors(file)]
        self.tensors = sorted(tensors, key=lambda tensor: _file_order(tensor.gguf_name))
        self._check_complete()

    def _tensors(self, file: Path) -> Iterator[Tensor]:
        try:
            with safe_open(file, framework="pt") as weights:
                for hf_name in weights.keys():  # noqa: SIM118 - the handle is not a mapping and cannot be iterated
                    tensor_slice = weights.get_slice(hf_name)
                    # A tied head repeats the embedding; rotary tables of older checkpoints follow from the config.
                    if hf_name.endswith(".rotary_emb.inv_freq"):
                        continue
                    if hf_name == "lm_head.weight" and self.config.tie_word_embeddings:
                        continue
                    yield self._tensor(hf_name, file, tuple(tensor_slice.get_shape()), tensor_slice.get_dtype())
        except (OSError, SafetensorError) as error:
            raise ExportError(
                f"{file} cannot be read: {error}.", hint="Merge again, or copy the file again."
            ) from error

    def _tensor(self, hf_name: str, file: Path, shape: tuple[int, ...], dtype: str) -> Tensor:
        gguf_name = gguf_tensor_name(hf_name, self.config.num_hidden_layers)
        if gguf_name is None:
            raise ExportError(
                f"{file} holds the tensor {hf_name}, which no Llama model of {self.config.num_hidden_layers} layers "
                "has.",
                hint="Merge the adapter into its base model first, and give the merged folder.",
            )
        if dtype not in _FLOAT_TYPES:
            raise ExportError(
                f"Tensor {hf_name} of {file} is stored as {dtype}; GGUF needs the 16- or 32-bit weights.",
                hint="Merge the adapter into the 16-bit base model and export that folder.",
            )
        expected = self._expected_shape(gguf_name)
        if shape != expected:
            raise ExportError(
                f"Tensor {hf_name} has the shape {list(shape)}, but config.json makes it {list(expected)}.",
                hint="The weights and config.json are not of one model: merge again.",
            )
        return Tensor(hf_name, gguf_name, file, shape, self._row_order(gguf_name, shape[0]))

    def _expected_shape(self, gguf_name: str) -> tuple[int, ...]:
        config = self.config
        query_rows, key_rows = (
            config.num_attention_heads * config.head_dim,
            config.num_key_value_heads * config.head_dim,
        )
        module, parameter = gguf_name.split(".")[-2:]
        intermediate, vocabulary = config.intermediate_size, config.vocab_size
        output_rows = {
            "attn_q": query_rows,
            "attn_k": key_rows,
            "attn_v": key_rows,
            "ffn_gate": intermediate,
            "ffn_up": intermediate,
        }
        rows = {**output_rows, "token_embd": vocabulary, "output": vocabulary}.get(module, config.hidden_size)
        if module.endswith("_norm") or parameter == "bias":
            return (rows,)
        columns = {"attn_output": query_rows, "ffn_down": intermediate}.get(module, config.hidden_size)
        return (rows, columns)

    def _row_order(self, gguf_name: str, rows: int) -> np.ndarray | None:
        """Hugging Face rotates a head's first half against its second, llama.cpp neighbours: interleave the halves."""
        module = gguf_name.split(".")[-2]
        if module not in ("attn_q", "attn_k"):
            return None
        heads = self.config.num_attention_heads if module == "attn_q" else self.config.num_key_value_heads
        return np.arange(rows).reshape(heads, 2, -1).swapaxes(1, 2).reshape(rows)

    def _check_complete(self) -> None:
        names = ["token_embd", "output_norm"] if self.config.tie_word_embeddings else [*_MODEL_NAMES.values()]
        names += [f"blk.{i}.{module}" for i in range(self.config.num_hidden_layers) for module in _LAYER_NAMES.values()]
        present = {tensor.gguf_name for tensor in self.tensors}
        missing = [name for name in names if f"{name}.weight" not in present]
        if missing:
            raise ExportError(
                f"{self.path} lacks {len(missing)} of the model's tensors, {missing[0]}.weight (GGUF name) among them.",
                hint="A shard is missing or merging was interrupted: merge again.",
            )


def gguf_tensor_name(hf_name: str, layers: int) -> str | None:
    """The GGUF name of a Llama tensor (`model.layers.0.mlp.up_proj.weight` is `blk.0.ffn_up.weight`), or None."""
    module, _, parameter = hf_name.rpartition(".")
    if parameter == "weight" and module in _MODEL_NAMES:
        return f"{_MODEL_NAMES[module]}.weight"
    match = re.fullmatch(r"model\.layers\.(\d+)\.(.+)", module)
    if match is None or int(match[1]) >= layers or match[2] not in _LAYER_NAMES:
        return None
    if parameter != "weight" and not (parameter == "bias" and match[2].startswith(("self_attn.", "mlp."))):
        return None
    return f"blk.{match[1]}.{_LAYER_NAMES[match[2]]}.{parameter}"


def _file_order(gguf_name: str) -> tuple[int, str]:
    """Embedding, layers in turn, final norm, head."""
    if gguf_name.startswith("blk."):
        _, layer, parameter = gguf_name.split(".", 2)
        return int(layer), parameter
    return (-1, gguf_name) if gguf_name.startswith("token_embd") else (1 << 30, gguf_name)


def _weight_files(folder: Path) -> list[Path]:
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        files = [folder / name for name in sorted(set(read_json(index).get("weight_map", {}).values()))]
        if missing := [file.name for file in files if not file.is_file()]:
            raise ExportError(
                f"{folder} lacks {', '.join(missing)}, named in {index.name}.", hint="Merge again, or copy every shard."
            )
        return files
    if (folder / "model.safetensors").is_file():
        return [folder / "model.safetensors"]
    if list(folder.glob("*.bin")):
        raise ExportError(
            f"{folder} holds its weights as .bin files, which are pickles and can run code when read.",
            hint="Save the model again with save_pretrained, which writes safetensors.",
        )
    if (folder / "adapter_config.json").is_file():
        raise ExportError(
            f"{folder} holds an adapter, not a whole model.", hint="Merge it into its base model and export the result."
        )
    raise ExportError(f"{folder} has no model.safetensors.", hint="Give the folder that merging wrote.")
