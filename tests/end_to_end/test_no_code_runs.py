"""The source never unpickles or runs remote code, even if a model, an adapter or a dataset contains it."""

import json
import pickle
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import ROOT
from toolkit.errors import DataError, ModelError
from toolkit.recipe.data_section import Source
from toolkit.recipe.schema import Recipe
from toolkit.runs.run_folder import RunFolder

Call = Callable[..., tuple[int, str, str]]
SOURCES = sorted(path for folder in ("toolkit", "tools", "scripts") for path in (ROOT / folder).rglob("*.py"))


class Trap:
    """An object that creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (self.path,)  # type: ignore[return-value]


def set_traps(folder: Path) -> Path:
    """Put code and pickles into a folder, each of which creates the returned file when it runs."""
    marker = folder / "sprung"
    code = f"from pathlib import Path\nPath({str(marker)!r}).touch()\nclass Own: pass\n"
    for name in ("own.py", "modeling_own.py", "tokenization_own.py", "setup.py", "__init__.py"):
        (folder / name).write_text(code, encoding="utf-8")
    for name in ("pytorch_model.bin", "adapter_model.bin", "training_args.bin", "optimizer.pt", "model.pkl"):
        (folder / name).write_bytes(pickle.dumps(Trap(marker)))
    return marker


def test_traps_work(tmp_path: Path) -> None:
    marker = set_traps(tmp_path)
    pickle.loads((tmp_path / "pytorch_model.bin").read_bytes())  # noqa: S301
    assert marker.exists()


def test_no_source_unpickles_or_trusts_code() -> None:
    forbidden = re.compile(
        r"trust_remote_code\s*=\s*True|^\s*(import|from) (pickle|dill|cloudpickle|marshal|shelve)\b"
        r"|torch\.(load|save)\(|joblib\.(load|dump)\(|allow_pickle\s*=\s*True|weights_only|read_pickle|unsafe_load|FullLoader|\beval\(|\bexec\(",
        re.MULTILINE,
    )
    assert len(SOURCES) > 90
    for path in SOURCES:
        text = re.sub(r"\.eval\(\)", "", path.read_text(encoding="utf-8"))
        assert (match := forbidden.search(text)) is None, f"{path}: {match.group() if match else ''}"


def test_model_loading_forbids_remote_code() -> None:
    calls = 0
    for path in SOURCES:
        for call in re.findall(
            r"(?<!ModelShape)\.from_(?:pretrained|config)\(((?:[^()]|\([^()]*\))*)\)", path.read_text(encoding="utf-8")
        ):
            # PEFT loads adapters, and a hint in a message contains `.from_pretrained(...)`.
            if "adapter" in call or "save_pretrained" in call or not call.strip(". "):
                continue
            calls += 1
            assert "trust_remote_code=False" in call, f"{path}: {call}"
    assert calls >= 7


@pytest.mark.parametrize("kind", ["config.json", "tokenizer_config.json"])
@pytest.mark.parametrize("model_type", ["llama", "own"])
def test_custom_model_code_never_runs(
    kind: str, model_type: str, tiny_model: Path, call: Call, make_recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    from tests.end_to_end.bad_inputs import VALID

    folder = tmp_path / "model"
    shutil.copytree(tiny_model, folder)
    marker = set_traps(folder)
    own = {"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.Own", "AutoTokenizer": ["own.Own", "own.Own"]}
    config = json.loads((folder / kind).read_text(encoding="utf-8")) | {"auto_map": own}
    config |= {"model_type": model_type} if kind == "config.json" else {"tokenizer_class": "Own"}
    (folder / kind).write_text(json.dumps(config), encoding="utf-8")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(VALID, encoding="utf-8")
    code, _, err = call("sft", recipe, "--set", f"model.name={folder}", "--output-dir", tmp_path / "run")
    assert code == 2 and f"{kind} refers to custom code (auto_map), which is never run" in err
    assert not marker.exists()


Trapped = tuple[Path, Path, list[Path]]


@pytest.fixture
def trapped(tiny_model: Path, trained: RunFolder, tmp_path: Path) -> Trapped:
    """A model folder and an adapter folder with traps next to the weights, and the files that the traps create."""
    model, adapter = tmp_path / "model", tmp_path / "adapter"
    shutil.copytree(tiny_model, model)
    shutil.copytree(trained.adapter, adapter)
    return model, adapter, [set_traps(model), set_traps(adapter)]


def test_traps_next_to_safetensors_are_ignored(trapped: Trapped, make_recipe: Callable[..., Recipe]) -> None:
    from toolkit.models.loading import load_for_scoring
    from toolkit.models.precision import Precision

    model, adapter, traps = trapped
    load_for_scoring(model, make_recipe(), Precision("float32", "test"), adapter)
    assert not any(marker.exists() for marker in traps)


def test_pickled_weights_are_rejected_unread(trapped: Trapped) -> None:
    from toolkit.models.loading import load_adapter
    from toolkit.models.model_folder import find_model

    model, adapter, traps = trapped
    (model / "model.safetensors").unlink()
    (adapter / "adapter_model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"pickled \.bin files are not read"):
        find_model(str(model))
    with pytest.raises(ModelError, match=r"pickled \.bin files are not read"):
        load_adapter(None, adapter)
    assert not any(marker.exists() for marker in traps)


def test_dataset_loading_script_never_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from toolkit.data.hub import load_hub_rows
    from toolkit.data.sources import read_rows

    folder = tmp_path / "data"
    folder.mkdir()
    marker = set_traps(folder)
    shutil.copy(folder / "own.py", folder / "data.py")
    with pytest.raises(DataError, match="is not a data file: its name does not end in one of"):
        read_rows(Source(path=str(folder), split="train"))
    monkeypatch.setattr("toolkit.data.hub._is_reachable", lambda _: True)
    for path in (folder, folder / "data.py"):  # the folder or script that a Hub id of such a dataset resolves to
        with pytest.raises(DataError, match="neither a local file nor a dataset"):
            load_hub_rows(str(path), None, "train")
    assert not marker.exists()
