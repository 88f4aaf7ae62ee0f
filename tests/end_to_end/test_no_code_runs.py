"""No pickle and no foreign code: not asked for in the source, not run where a model, an adapter or a dataset has it."""

import json
import pickle
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import ROOT
from toolkit.errors import DataError, ModelError
from toolkit.recipe.schema import Recipe, Source
from toolkit.runs.run_folder import RunFolder

Call = Callable[..., tuple[int, str, str]]
SOURCES = sorted(path for folder in ("toolkit", "tools", "scripts") for path in (ROOT / folder).rglob("*.py"))


class Trap:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (self.path,)  # type: ignore[return-value]


def lay(folder: Path) -> Path:
    """Code and pickles in a folder, each of which would make the file that is returned."""
    sprung = folder / "sprung"
    code = f"from pathlib import Path\nPath({str(sprung)!r}).touch()\nclass Own: pass\n"
    for name in ("own.py", "modeling_own.py", "tokenization_own.py", "setup.py", "__init__.py"):
        (folder / name).write_text(code, encoding="utf-8")
    for name in ("pytorch_model.bin", "adapter_model.bin", "training_args.bin", "optimizer.pt", "model.pkl"):
        (folder / name).write_bytes(pickle.dumps(Trap(sprung)))
    return sprung


def test_the_trap_works(tmp_path: Path) -> None:
    sprung = lay(tmp_path)
    pickle.loads((tmp_path / "pytorch_model.bin").read_bytes())  # noqa: S301
    assert sprung.exists()


def test_no_source_unpickles_or_trusts_code() -> None:
    forbidden = re.compile(
        r"trust_remote_code\s*=\s*True|^\s*(import|from) (pickle|dill|cloudpickle|marshal|shelve)\b"
        r"|torch\.(load|save)\(|joblib\.(load|dump)\(|allow_pickle\s*=\s*True|weights_only|read_pickle|unsafe_load|FullLoader|\beval\(|\bexec\(",
        re.MULTILINE,
    )
    assert len(SOURCES) > 90
    for path in SOURCES:
        text = re.sub(r"\.eval\(\)", "", path.read_text(encoding="utf-8"))
        assert (found := forbidden.search(text)) is None, f"{path}: {found.group() if found else ''}"


def test_every_load_of_a_model_or_tokenizer_forbids_code_and_network() -> None:
    calls = 0
    for path in SOURCES:
        for call in re.findall(
            r"(?<!ModelShape)\.from_(?:pretrained|config)\(((?:[^()]|\([^()]*\))*)\)", path.read_text(encoding="utf-8")
        ):
            if "adapter" in call or "save_pretrained" in call or not call.strip(". "):  # PEFT's, and words of a hint
                continue
            calls += 1
            assert "trust_remote_code=False" in call, f"{path}: {call}"
    assert calls >= 7


@pytest.mark.parametrize("kind", ["config.json", "tokenizer_config.json"])
@pytest.mark.parametrize("model_type", ["llama", "own"])
def test_a_models_own_code_never_runs(
    kind: str, model_type: str, tiny_model: Path, call: Call, make_recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    from tests.end_to_end.bad_inputs import GOOD

    folder = tmp_path / "model"
    shutil.copytree(tiny_model, folder)
    sprung = lay(folder)
    own = {"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.Own", "AutoTokenizer": ["own.Own", "own.Own"]}
    config = json.loads((folder / kind).read_text(encoding="utf-8")) | {"auto_map": own}
    config |= {"model_type": model_type} if kind == "config.json" else {"tokenizer_class": "Own"}
    (folder / kind).write_text(json.dumps(config), encoding="utf-8")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(GOOD, encoding="utf-8")
    code, _, err = call("sft", recipe, "--set", f"model.name={folder}", "--output-dir", tmp_path / "run")
    assert code == 2 and f"{kind} names code of its own (auto_map), which is never run" in err
    assert not sprung.exists()


Trapped = tuple[Path, Path, list[Path]]


@pytest.fixture
def trapped(tiny_model: Path, trained: RunFolder, tmp_path: Path) -> Trapped:
    """A model's and an adapter's folder with traps beside their weights, and what springs where one is stepped on."""
    model, adapter = tmp_path / "model", tmp_path / "adapter"
    shutil.copytree(tiny_model, model)
    shutil.copytree(trained.adapter, adapter)
    return model, adapter, [lay(model), lay(adapter)]


def test_pickles_and_code_beside_safetensors_are_left_alone(
    trapped: Trapped, make_recipe: Callable[..., Recipe]
) -> None:
    from toolkit.models.loading import load_for_scoring
    from toolkit.models.precision import Precision

    model, adapter, traps = trapped
    load_for_scoring(model, make_recipe(), Precision("float32", "test"), adapter)
    assert not any(sprung.exists() for sprung in traps)


def test_what_is_pickled_alone_is_refused_unread(trapped: Trapped) -> None:
    from toolkit.models.loading import load_adapter
    from toolkit.models.model_folder import find_model

    model, adapter, traps = trapped
    (model / "model.safetensors").unlink()
    (adapter / "adapter_model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"pickled \.bin files are not read"):
        find_model(str(model))
    with pytest.raises(ModelError, match=r"pickled \.bin files are not read"):
        load_adapter(None, adapter)
    assert not any(sprung.exists() for sprung in traps)


def test_a_datasets_loading_script_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from toolkit.data.hub import load_hub_rows
    from toolkit.data.sources import read_rows

    folder = tmp_path / "data"
    folder.mkdir()
    sprung = lay(folder)
    shutil.copy(folder / "own.py", folder / "data.py")
    with pytest.raises(DataError, match="is a file or folder, but not one of"):
        read_rows(Source(path=str(folder), split="train"))
    monkeypatch.setattr("toolkit.data.hub._is_reachable", lambda _: True)
    for path in (folder, folder / "data.py"):  # and what a hub id of such a dataset would come to
        with pytest.raises(DataError, match="neither a local file nor a dataset"):
            load_hub_rows(str(path), None, "train")
    assert not sprung.exists()
