"""The tensors of a decoder's folder in Hugging Face's layout, checked for completeness and mapped to GGUF names."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from gguf import get_tensor_name_map
from safetensors import SafetensorError, safe_open

from toolkit.errors import ExportError, first_line
from toolkit.models.backend import AutoModelForCausalLM
from toolkit.models.decoder_config import read_config, read_json
from toolkit.models.parameters import model_config

_FLOAT_DTYPES = ("F16", "BF16", "F32")


@dataclass(frozen=True)
class Tensor:
    """A tensor of the folder whose values have not been read yet."""

    hf_name: str
    gguf_name: str
    file: Path
    shape: tuple[int, ...]
    row_order: np.ndarray | None
    """For each row of the GGUF tensor, the index of that row in the folder's tensor. None if the order is the same."""
    offset: float
    """The number to add to each value."""

    def read(self, start: int, stop: int) -> np.ndarray:
        """Return rows `start` to `stop` of the GGUF tensor as float32."""
        with safe_open(self.file, framework="pt") as file:
            tensor_slice = file.get_slice(self.hf_name)
            if self.row_order is None:
                return tensor_slice[start:stop].to(torch.float32).numpy() + np.float32(self.offset)
            # Rows move only within their head, so one contiguous slice covers them and reads less than two heads extra.
            row_indices = self.row_order[start:stop]
            first = int(row_indices.min())
            return tensor_slice[first : int(row_indices.max()) + 1].to(torch.float32).numpy()[row_indices - first]


class DecoderFolder:
    """A folder that holds a complete decoder of a known family.

    Args:
        path: The model folder.

    Raises:
        ExportError: If `read_config` refuses the folder, or if weights are missing, quantized, or have unknown names.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = read_config(path)
        # The map also knows the names of other layouts, Meta's original one among them, whose query and key rows must
        # not be reordered. `_tensor_shapes` therefore decides which names are accepted.
        self._name_map = get_tensor_name_map(self.config.family.gguf, self.config.num_hidden_layers)
        self._shapes = _tensor_shapes(path)
        tensors = [tensor for file in _weight_files(path) for tensor in self._tensors(file)]
        self.tensors = sorted(tensors, key=lambda tensor: _file_order(tensor.gguf_name))
        self._check_complete()

    def _tensors(self, file: Path) -> Iterator[Tensor]:
        try:
            with safe_open(file, framework="pt") as weights:
                for hf_name in weights.keys():  # noqa: SIM118 - the handle is not a mapping and cannot be iterated
                    tensor_slice = weights.get_slice(hf_name)
                    # Older checkpoints store the rotary frequencies, which llama.cpp computes from the metadata.
                    if hf_name.endswith(".rotary_emb.inv_freq"):
                        continue
                    # A tied head is a copy of the embedding. llama.cpp uses the embedding if there is no head.
                    if hf_name == "lm_head.weight" and self.config.tie_word_embeddings:
                        continue
                    yield self._tensor(hf_name, file, tuple(tensor_slice.get_shape()), tensor_slice.get_dtype())
        except (OSError, SafetensorError) as error:
            raise ExportError(
                f"{file} cannot be read: {error}.", hint="Merge again, or copy the file again."
            ) from error

    def _tensor(self, hf_name: str, file: Path, shape: tuple[int, ...], dtype: str) -> Tensor:
        expected_shape = self._shapes.get(hf_name)
        gguf_name = self._name_map.get_name(hf_name, try_suffixes=(".weight", ".bias"))
        if expected_shape is None or gguf_name is None:
            raise ExportError(
                f"{file} contains the tensor {hf_name}, which does not belong to a {self.config.family.name} "
                f"model of {self.config.num_hidden_layers} layers.",
                hint="Merge the adapter into its base model first and export the merged folder.",
            )
        if dtype not in _FLOAT_DTYPES:
            raise ExportError(
                f"Tensor {hf_name} of {file} is stored as {dtype}, but GGUF needs 16- or 32-bit weights.",
                hint="Merge the adapter into the 16-bit base model and export that folder.",
            )
        if shape != expected_shape:
            raise ExportError(
                f"Tensor {hf_name} has shape {list(shape)}, but config.json implies {list(expected_shape)}.",
                hint="The weights and config.json belong to different models. Merge again.",
            )
        offset = self.config.family.norm_offset if hf_name.endswith("norm.weight") else 0.0
        return Tensor(hf_name, gguf_name, file, shape, self._row_order(gguf_name, shape[0]), offset)

    def _row_order(self, gguf_name: str, rows: int) -> np.ndarray | None:
        """Return the order in which llama.cpp expects the rows of a query or key projection, None for other tensors.

        Rotary embeddings rotate pairs of a head's dimensions. Hugging Face pairs dimension i with i + head_dim / 2. For
        some families, llama.cpp pairs 2i with 2i + 1: the two halves of each head are then interleaved.
        """
        module = gguf_name.split(".")[-2]
        if self.config.family.rotary_pairing == "halves" or module not in ("attn_q", "attn_k"):
            return None
        heads = self.config.num_attention_heads if module == "attn_q" else self.config.num_key_value_heads
        return np.arange(rows).reshape(heads, 2, -1).swapaxes(1, 2).reshape(rows)

    def _check_complete(self) -> None:
        present = {tensor.hf_name for tensor in self.tensors}
        missing = [name for name in self._shapes if name not in present]
        if missing:
            raise ExportError(
                f"{self.path} lacks {len(missing)} of the model's tensors, for example {missing[0]}.",
                hint="A shard is missing or the merge was interrupted. Merge again.",
            )


def _tensor_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Return the shape of each of the model's tensors by its Hugging Face name. A tied head is not among them."""
    try:
        with torch.device("meta"):  # allocates no weights
            model = AutoModelForCausalLM.from_config(model_config(folder), trust_remote_code=False)
    except Exception as error:  # an invalid configuration can fail anywhere in transformers
        raise ExportError(
            f"{folder / 'config.json'} has a missing or invalid value: {first_line(error)}.", hint="Merge again."
        ) from error
    return {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}


def _file_order(gguf_name: str) -> tuple[int, str]:
    """Return a sort key that puts the embedding first, then the layers by number, then the final norm and the head."""
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
                f"{folder} lacks {', '.join(missing)}, which {index.name} lists.",
                hint="Merge again, or copy every shard.",
            )
        return files
    if (folder / "model.safetensors").is_file():
        return [folder / "model.safetensors"]
    if list(folder.glob("*.bin")):
        raise ExportError(
            f"{folder} holds its weights as .bin files. These are pickles, which can run code when they are loaded.",
            hint="Save the model again with save_pretrained, which writes safetensors.",
        )
    if (folder / "adapter_config.json").is_file():
        raise ExportError(
            f"{folder} holds an adapter, not a complete model.",
            hint="Merge it into its base model and export the merged folder.",
        )
    raise ExportError(f"{folder} has no model.safetensors.", hint="Give the folder that merging wrote.")
