"""Shared fixtures: tiny random models, recipes on embedded rows, trained runs, and a function that calls a script."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

# A shell that starts the suite in the background sets SIGINT to be ignored, but some tests send it to themselves.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Test processes share the cores. More threads than cores would slow down all of them.
if workers := os.environ.get("PYTEST_XDIST_WORKER_COUNT"):
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // int(workers))))

from toolkit.cli.command_line import run_command
from toolkit.recipe.loading import load_recipe
from toolkit.recipe.schema import Recipe
from toolkit.runs.run_folder import RunFolder

ROOT = Path(__file__).parent.parent
SHARED = ROOT.parent / "shared"

RECIPE: dict[str, Any] = {
    "task": {
        "labels": ["entailment", "neutral", "contradiction"],
        "system": "Compare.",
        "user": "{premise}\n{hypothesis}",
    },
    "data": {
        "train": {"path": "embedded:nli-fr", "split": "train", "limit": 48},
        "eval": {"path": "embedded:nli-fr", "split": "dev", "limit": 24},
        "columns": {"id": "id"},
    },
    "model": {"name": "embedded:tiny-llama-fr", "dtype": "float32", "max_seq_length": 256},
    "lora": {"r": 4, "alpha": 8, "dropout": 0.0},
    "training": {"batch_size": 8, "max_steps": 3, "learning_rate": 1e-3},
    "evaluation": {"slice_by": ["phenomenon"]},
}


@pytest.fixture(scope="session", autouse=True)
def unsloth_first() -> None:
    """Import Unsloth before transformers, because the API rejects the reverse order.

    Loading a tokenizer already imports transformers.
    """
    import toolkit.models.backend  # noqa: F401


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with real data and the real tokenizer. Without it the test is skipped."""
    if not SHARED.is_dir():
        pytest.skip("needs ../shared, which is not part of the repository")
    return SHARED


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder with a random Llama of 2 layers and the embedded model's tokenizer."""
    from toolkit.embedded import MODEL_FOLDER
    from toolkit.models import backend
    from toolkit.prompts.tokenizer import load_tokenizer

    folder = tmp_path_factory.mktemp("tiny") / "tiny-llama"
    config = backend.AutoConfig.from_pretrained(MODEL_FOLDER)
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    config.update({**sizes, "num_key_value_heads": 2, "head_dim": 32})
    import torch

    torch.manual_seed(0)
    model = backend.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    for parameter in model.parameters():  # large enough that the scores of the labels differ
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    model.to(torch.bfloat16).save_pretrained(folder)
    load_tokenizer(MODEL_FOLDER).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def nano(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model with the architecture and the real tokenizer of Llama 3.2 and random weights."""
    folder = tmp_path_factory.mktemp("nano") / "nano"
    subprocess.run([sys.executable, shared / "llama-3.2" / "make_standin.py", "nano", folder], check=True)
    return folder


@pytest.fixture(scope="session")
def make_recipe(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Recipe]:
    """A function that builds a small recipe. Its arguments are overrides such as `"lora.r=2"`."""
    path = tmp_path_factory.mktemp("recipe") / "small.yaml"
    path.write_text(yaml.safe_dump(RECIPE, allow_unicode=True), encoding="utf-8")
    return lambda *overrides: load_recipe(path, overrides)


@pytest.fixture
def recipe_file(tmp_path: Path, tiny_model: Path) -> Path:
    """A small recipe for the tiny model, the only file in its folder."""
    values = {**RECIPE, "model": {**RECIPE["model"], "name": str(tiny_model)}}
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(values, allow_unicode=True), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def trained(
    tmp_path_factory: pytest.TempPathFactory, make_recipe: Callable[..., Recipe], tiny_model: Path
) -> RunFolder:
    """A run of a few steps on the tiny random model. Tests must not change it."""
    from toolkit.training.training_run import TrainingOptions, train_run

    run = RunFolder(tmp_path_factory.mktemp("outputs") / "small")
    # A high learning rate, so that the adapter clearly differs from the base model.
    recipe = make_recipe(f"model.name={tiny_model}", "training.learning_rate=0.02", "lora.dropout=0.0")
    train_run(recipe, run, TrainingOptions())
    return run


ENCODER_RECIPE: dict[str, Any] = {
    "task": {"labels": ["entailment", "neutral", "contradiction"]},
    "data": RECIPE["data"],
    "model": {"kind": "encoder", "dtype": "float32", "max_seq_length": 128},
    "lora": {"r": 4, "alpha": 8, "dropout": 0.0},
    "training": {"batch_size": 8, "max_steps": 3, "learning_rate": 1e-2},
    "evaluation": {"slice_by": ["phenomenon"]},
}


@pytest.fixture(scope="session")
def tiny_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder with a random CamemBERT of 2 layers without a classification head, and a small tokenizer."""
    import toolkit.models.backend  # noqa: F401 - Unsloth must be imported before transformers

    folder = tmp_path_factory.mktemp("tiny") / "tiny-camembert"
    import tokenizers
    import torch
    from transformers import CamembertConfig, CamembertForMaskedLM, CamembertTokenizer

    from toolkit.embedded import nli_fr

    unigram = tokenizers.Tokenizer(tokenizers.models.Unigram())
    unigram.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    special = ["<s>NOTUSED", "<pad>", "</s>NOTUSED", "<unk>"]
    trainer = tokenizers.trainers.UnigramTrainer(
        vocab_size=300,
        special_tokens=special,
        unk_token="<unk>",  # noqa: S106
        show_progress=False,
    )
    unigram.train_from_iterator((row["premise"] for row in nli_fr.load_split("train")), trainer)
    vocabulary = [tuple(piece) for piece in json.loads(unigram.to_str())["model"]["vocab"]]
    tokenizer = CamembertTokenizer(vocab=vocabulary)
    config = CamembertConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=130, type_vocab_size=1,
        initializer_range=0.2,  # large enough that the scores of the rows differ
        pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    torch.manual_seed(0)
    CamembertForMaskedLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def make_encoder_recipe(tmp_path_factory: pytest.TempPathFactory, tiny_encoder: Path) -> Callable[..., Recipe]:
    """A function that builds a small recipe for the tiny encoder. Its arguments are overrides."""
    path = tmp_path_factory.mktemp("recipe") / "encoder.yaml"
    path.write_text(yaml.safe_dump(ENCODER_RECIPE, allow_unicode=True), encoding="utf-8")
    return lambda *overrides: load_recipe(path, [f"model.name={tiny_encoder}", *overrides])


@pytest.fixture(scope="session")
def trained_encoder(tmp_path_factory: pytest.TempPathFactory, make_encoder_recipe: Callable[..., Recipe]) -> RunFolder:
    """A run of a few steps on the tiny encoder. Tests must not change it."""
    from toolkit.training.training_run import TrainingOptions, train_run

    run = RunFolder(tmp_path_factory.mktemp("outputs") / "encoder")
    train_run(make_encoder_recipe(), run, TrainingOptions())
    return run


def load_script(name: str) -> ModuleType:
    """Import scripts/<name>.py as a module."""
    spec = importlib.util.spec_from_file_location(f"script_{name}", ROOT / "scripts" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """A function that calls a script in this process and returns exit code, standard output and standard error."""

    def run(name: str, *arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *map(str, arguments)])
        script = load_script(name)
        try:
            parsed = script.parse()
        except SystemExit as exit_:  # argparse exits after --help and wrong flags
            captured = capsys.readouterr()
            return int(exit_.code or 0), captured.out, captured.err
        code = run_command(lambda: script.main(parsed))
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run
