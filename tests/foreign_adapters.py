"""Adapters as other tools save them: trained with plain PEFT, with the files that each tool writes next to them."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch

from toolkit.models.backend import AutoModelForCausalLM, LoraConfig, get_peft_model
from toolkit.prompts.tokenizer import load_tokenizer

# As Unsloth's FastModel writes it: one pattern for all layers, which must not be matched (it could take forever).
UNSLOTH_TARGETS = (
    r"(?:.*?(?:language|text).*?(?:self_attn|attention|attn|mlp|feed_forward|ffn|dense).*?(?:q_proj|k_proj|v_proj|o_proj).*?)"
    r"|(?:\bmodel\.layers\.[\d]{1,}\.(?:self_attn|attention|attn|mlp|feed_forward|ffn|dense)\.(?:(?:q_proj|k_proj|v_proj|o_proj)))"
)


def train_with_peft(model: Any, folder: Path, ids: torch.Tensor, labels: torch.Tensor, **options: Any) -> Path:
    """Train a new adapter for a few steps with PyTorch and PEFT alone, and save it."""
    torch.manual_seed(1)
    adapted = get_peft_model(model, LoraConfig(r=8, lora_alpha=16, lora_dropout=0.05, **options)).train()
    trained = [parameter for parameter in adapted.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=0.02)
    for _ in range(4):
        adapted(input_ids=ids, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    adapted.save_pretrained(str(folder), save_embedding_layers=False)
    return folder


def train_decoder_adapter(base: Path, folder: Path, **options: Any) -> Path:
    """Train an adapter for a decoder on random tokens."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    torch.manual_seed(0)
    ids = torch.randint(10, 400, (4, 24))
    return train_with_peft(model, folder, ids, ids, **{"task_type": "CAUSAL_LM", **options})


def edit_config(adapter: Path, **changes: Any) -> None:
    """Change values of adapter_config.json; "absent" removes a key."""
    path = adapter / "adapter_config.json"
    values = json.loads(path.read_text(encoding="utf-8")) | changes
    path.write_text(json.dumps({key: value for key, value in values.items() if value != "absent"}), encoding="utf-8")


def like_unsloth(adapter: Path, base: Path) -> None:
    """Add what Unsloth's save_pretrained writes: a tokenizer padded on the left, a pattern, and a mapping."""
    mapping = {"base_model_class": "LlamaForCausalLM", "parent_library": "transformers.models.llama.modeling_llama"}
    edit_config(
        adapter,
        auto_mapping={**mapping, "unsloth_fixed": True},
        base_model_name_or_path=f"unsloth/{base.name}-unsloth-bnb-4bit",
        target_modules=UNSLOTH_TARGETS,
        peft_version="0.18.1",
        task_type="CAUSAL_LM",
    )
    tokenizer = load_tokenizer(base)
    tokenizer.padding_side = "left"
    tokenizer.save_pretrained(adapter)
    card = "---\nlibrary_name: peft\ntags:\n- lora\n- unsloth\n- trl\n---\n# Model Card\n"
    (adapter / "README.md").write_text(card, encoding="utf-8")


def like_llama_factory(adapter: Path, base: Path) -> None:
    """Add what LLaMA-Factory writes into a checkpoint: an older configuration, a card, and the trainer's files."""
    newer = (
        "arrow_config", "use_bdlora", "kasa_config", "velora_config", "monteclora_config", "lora_ga_config",
        "lora_bias", "alora_invocation_tokens", "target_parameters", "ensure_weight_tying", "use_qalora",
        "qalora_group_size",
    )  # fmt: skip
    absent = dict.fromkeys((*newer, "peft_version", "corda_config"), "absent")
    edit_config(adapter, **absent, target_modules=["v_proj", "q_proj", "o_proj", "k_proj"])
    card = "---\nlibrary_name: peft\ntags:\n- llama-factory\n- lora\n---\n"
    (adapter / "README.md").write_text(card, encoding="utf-8")
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin"):
        (adapter / name).write_bytes(b"\x80\x04not to be read")
    (adapter / "trainer_state.json").write_text('{"global_step": 4}', encoding="utf-8")


def like_axolotl(adapter: Path, base: Path) -> None:
    """Add what axolotl writes: the base's configuration and the tokenizer in the same folder, and no task type."""
    edit_config(adapter, task_type=None, base_model_name_or_path="someone/renamed-base", newer_option=None)
    shutil.copy(base / "config.json", adapter)
    load_tokenizer(base).save_pretrained(adapter)
    (adapter / "README.md").write_text("---\ntags:\n- axolotl\n- generated_from_trainer\n---\n", encoding="utf-8")
