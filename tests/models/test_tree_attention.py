"""Split attention in real layers: trees give the results of separate rows, and other inputs are not affected."""

import ast
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

import numpy as np
import pytest
import torch

from tests.models.stand_ins import stand_in_config
from tests.models.window_cases import CASES, WINDOW
from toolkit.batching.collators import TreeAttention, tree_inputs
from toolkit.batching.prefix_tree import Branch, PrefixTree, build_tree
from toolkit.models import tree_attention
from toolkit.models.backend import ALL_ATTENTION_FUNCTIONS, AutoModelForCausalLM, DynamicCache
from toolkit.models.tree_attention import MASK_ERRORS, accept_trees
from toolkit.models.tree_layout import model_inputs

SHAPES = ["llama", "smollm2", "croissant", "mistral-window", "qwen2.5-window", "smollm3-window", "gemma3-window"]
"""Cases with and without grouped-query attention, and with a window in none, some or all layers."""
PLAIN = torch.arange(2 * 40).reshape(2, 40) % 90


def make_model(case: str = "llama", *, installed: bool = True, **overrides: Any) -> Any:
    """Return a model in float32 whose random weights make attention matter."""
    shape, fields = CASES[case]
    model = AutoModelForCausalLM.from_config(
        stand_in_config(shape, vocab_size=100, pad_token_id=0, **fields, **overrides), dtype=torch.float32
    )
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        is_norm = name.endswith("norm.weight") and shape != "gemma3"
        torch.nn.init.normal_(parameter, float(is_norm), 0.1, generator=generator)
    if installed:
        accept_trees(model)
    return model.eval()


def make_tree(seed: int, instruction: int = 2 * WINDOW, multiple: int = 1) -> tuple[PrefixTree, list[list[int]]]:
    """Return a tree of random rows below a common instruction, and the rows."""
    generator = np.random.default_rng(seed)
    start = generator.integers(0, 90, instruction).tolist()
    rows = [[*start, *generator.integers(0, 3, generator.integers(2, 20)).tolist()] for _ in range(5)]
    tree = build_tree([Branch(row, max(0, len(row) - 3), owner) for owner, row in enumerate(rows)])
    return tree.with_length_multiple_of(multiple), rows


def last_nodes(tree: PrefixTree) -> np.ndarray:
    """Return the last two nodes of each row, which are at most half of all nodes."""
    return np.unique(np.concatenate([path[-2:] for path in tree.paths]))


def all_nodes(tree: PrefixTree) -> np.ndarray:
    """Return all nodes, as for a loss on the full text, so that there are no `queries`."""
    return np.unique(np.concatenate(tree.paths))


def compute_tree(
    model: Any, tree: PrefixTree, nodes: np.ndarray, attention: TreeAttention, prefix: list[int] | None = None
) -> torch.Tensor:
    """Return the final hidden states of nodes, with or without a cached prefix."""
    decoder, cache = model.get_decoder(), None
    if prefix:
        cache = DynamicCache()
        with torch.no_grad():
            decoder(input_ids=torch.tensor([prefix]), past_key_values=cache, use_cache=True)
    inputs = model_inputs(tree_inputs(tree, nodes, attention), model.config, torch.float32, len(prefix or []))
    assert ("tree_layout" in inputs) == (attention == "split")
    return decoder(**inputs, past_key_values=cache, use_cache=False).last_hidden_state[0, nodes]


def compute_rows(model: Any, tree: PrefixTree, nodes: np.ndarray, rows: list[list[int]]) -> torch.Tensor:
    """Return the final hidden states of nodes from separate forward passes over the rows of a tree."""
    states: dict[int, torch.Tensor] = {}
    for row, path in zip(rows, tree.paths, strict=True):
        hidden = model.get_decoder()(input_ids=torch.tensor([row]), use_cache=False).last_hidden_state[0]
        states |= dict(zip(path.tolist(), hidden[len(row) - len(path) :], strict=True))
    return torch.stack([states[node] for node in nodes.tolist()])


def gradient(model: Any, hidden: torch.Tensor) -> torch.Tensor:
    """Return the gradient of a random projection of hidden states."""
    weights = torch.randn(hidden.shape, generator=torch.Generator().manual_seed(1))
    model.zero_grad()
    (hidden * weights).sum().backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def assert_close(actual: torch.Tensor, expected: torch.Tensor) -> None:
    assert actual.isfinite().all() and expected.norm() > 0
    assert ((actual - expected).norm() / expected.norm()).item() < 1e-5


@pytest.mark.parametrize("choose", [last_nodes, all_nodes])
@pytest.mark.parametrize("case", SHAPES)
def test_trees_equal_dense_and_separate_rows(case: str, choose: Callable[[PrefixTree], np.ndarray]) -> None:
    """Hidden states and gradients agree, with a common path or without, and with padded lengths."""
    model = make_model(case)
    for seed, instruction, multiple in ((0, 2 * WINDOW, 1), (1, 2 * WINDOW, 64), (2, 0, 16)):
        tree, rows = make_tree(seed, instruction, multiple)
        nodes = choose(tree)
        expected = compute_rows(model, tree, nodes, rows)
        expected_gradient = gradient(model, expected)
        for attention in ("dense", "split"):
            actual = compute_tree(model, tree, nodes, attention)
            assert_close(actual, expected)
            assert_close(gradient(model, actual), expected_gradient)


@pytest.mark.parametrize("choose", [last_nodes, all_nodes])
@pytest.mark.parametrize("case", SHAPES)
def test_cached_prefix_is_attended_to(case: str, choose: Callable[[PrefixTree], np.ndarray]) -> None:
    """The prefix is longer than the window, and the tree after it has a common path or none."""
    model, prefix = make_model(case), [7, 8, 9] * WINDOW
    for seed, instruction in ((0, 5), (1, 0)):
        tree, rows = make_tree(seed, instruction)
        nodes = choose(tree)
        expected = compute_rows(model, tree, nodes, [[*prefix, *row] for row in rows])
        dense, split = (compute_tree(model, tree, nodes, attention, prefix) for attention in ("dense", "split"))
        assert_close(dense, expected)
        assert_close(split, expected)
        assert_close(gradient(model, split), gradient(model, dense))


@pytest.mark.parametrize("use_reentrant", [True, False])
@pytest.mark.parametrize("case", ["llama", "gemma3-window"])
def test_checkpointing_finds_the_layout_again(case: str, use_reentrant: bool) -> None:
    """The backward pass computes each layer a second time, outside of the forward pass that had the layout."""
    model = make_model(case)
    tree, _ = make_tree(0)
    rows_of_last_layer: list[int] = []
    model.get_decoder().layers[-1].mlp.gate_proj.register_forward_pre_hook(
        lambda _, arguments: rows_of_last_layer.append(arguments[0].shape[1])
    )
    for choose in (last_nodes, all_nodes):
        nodes = choose(tree)
        model.gradient_checkpointing_disable()
        expected = gradient(model.train(), compute_tree(model, tree, nodes, "split"))
        model.gradient_checkpointing_enable({"use_reentrant": use_reentrant})
        model.enable_input_require_grads()
        rows_of_last_layer.clear()
        actual = gradient(model, compute_tree(model, tree, nodes, "split"))
        assert rows_of_last_layer == [len(nodes)] * 2
        assert_close(actual, expected)
        assert tree_attention._active.layer is None


def test_last_layer_computes_only_predicting_nodes() -> None:
    """Keys and values are those of all nodes, and so are all results of the other layers."""
    model = make_model(num_hidden_layers=3)
    layers, counts = model.get_decoder().layers, {}
    names = ("mlp.gate_proj", "mlp.down_proj", "self_attn.q_proj", "self_attn.o_proj", "self_attn.k_proj",
             "self_attn.v_proj", "input_layernorm")  # fmt: skip
    for index, layer in enumerate(layers):
        for name in names:

            def count(_module: Any, arguments: Any, key: tuple[int, str] = (index, name)) -> None:
                counts[key] = arguments[0].shape[1]

            layer.get_submodule(name).register_forward_pre_hook(count)
    tree, _ = make_tree(0)
    nodes = last_nodes(tree)
    assert len(nodes) < len(tree) / 2
    compute_tree(model, tree, nodes, "split")
    partial_names = set(names[:4])
    for (layer, name), count_of_nodes in counts.items():
        assert count_of_nodes == (len(nodes) if layer == 2 and name in partial_names else len(tree)), (layer, name)
    for choose, attention in ((all_nodes, "split"), (last_nodes, "dense")):
        compute_tree(model, tree, choose(tree), attention)
        assert set(counts.values()) == {len(tree)} and len(counts) == 3 * len(names)


@pytest.mark.parametrize("case", ["llama", "gemma3-window"])
@torch.no_grad()
def test_other_inputs_are_computed_as_before(case: str) -> None:
    """Padded rows and generation give the same bits after installation and after a tree."""
    model, tree = make_model(case, installed=False), make_tree(0)[0]
    mask = torch.ones_like(PLAIN)
    mask[0, 30:] = 0

    def results() -> list[torch.Tensor]:
        generated = model.generate(PLAIN[:1], max_new_tokens=5, do_sample=False, eos_token_id=-1)
        return [model(PLAIN, attention_mask=mask).logits, model(PLAIN).logits, generated]

    expected = results()
    accept_trees(model)
    first = results()
    compute_tree(model, tree, last_nodes(tree), "split")
    second = results()
    for actual in (first, second):
        assert all(torch.equal(one, other) for one, other in zip(actual, expected, strict=True))


def test_second_installation_adds_nothing() -> None:
    def hooks(model: Any) -> int:
        return sum(len(module._forward_pre_hooks) + len(module._forward_hooks) for module in model.modules())

    model = make_model(installed=False)
    assert hooks(model) == 0
    accept_trees(model)
    count, function = hooks(model), ALL_ATTENTION_FUNCTIONS["sdpa"]
    assert count == 2 * (len(model.get_decoder().layers) + len(tree_attention._LAST_LAYER_MODULES))
    accept_trees(model, False)
    accept_trees(model)
    accept_trees(make_model(installed=False))
    assert hooks(model) == count and ALL_ATTENTION_FUNCTIONS["sdpa"] is function
    assert not hasattr(function.original, "original")


def test_replaced_attention_is_wrapped_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unsloth replaces transformers' function when it loads some models, and its own then calls ours."""
    model = make_model()
    previous = ALL_ATTENTION_FUNCTIONS["sdpa"]
    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS, "sdpa", lambda *args, **keywords: previous(*args, **keywords))
    accept_trees(model)
    tree = make_tree(0)[0]
    nodes = last_nodes(tree)
    split, dense = (
        model.get_decoder()(**model_inputs(tree_inputs(tree, nodes, attention), model.config, torch.float32))
        for attention in get_args(TreeAttention)
    )
    assert_close(split.last_hidden_state[0, nodes], dense.last_hidden_state[0, nodes])


def test_failed_layer_leaves_nothing_active(monkeypatch: pytest.MonkeyPatch) -> None:
    model, tree = make_model(), make_tree(0)[0]
    expected = model(PLAIN).logits

    def fail(*_: Any) -> Any:
        assert tree_attention._active.layer is not None
        raise RuntimeError("out of memory")

    for layer in model.get_decoder().layers:
        with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="out of memory"):
            patch.setattr(layer.mlp, "forward", fail)
            compute_tree(model, tree, last_nodes(tree), "split")
        assert tree_attention._active.layer is None
        assert torch.equal(model(PLAIN).logits, expected)


@torch.no_grad()
def test_each_thread_has_its_own_layer() -> None:
    """While one thread is inside a layer of a tree, another computes padded rows with the same model."""
    model, tree = make_model(), make_tree(0)[0]
    nodes = last_nodes(tree)
    expected, expected_tree = model(PLAIN).logits, compute_tree(model, tree, nodes, "split")
    main, results = threading.current_thread(), []

    def compute_in_thread(*_: Any) -> None:
        if threading.current_thread() is main:
            thread = threading.Thread(target=lambda: results.append(model(PLAIN).logits))
            thread.start()
            thread.join()

    for layer in model.get_decoder().layers:
        layer.self_attn.register_forward_pre_hook(compute_in_thread)
        layer.mlp.act_fn.register_forward_pre_hook(compute_in_thread)
    actual = compute_tree(model, tree, nodes, "split")
    assert torch.equal(actual, expected_tree) and len(results) == 4
    for logits in results:
        torch.testing.assert_close(logits, expected, rtol=0, atol=1e-6)


def drop_layout(model: Any) -> None:
    decoder = model.get_decoder()
    forward = decoder.forward
    decoder.forward = lambda *arguments, tree_layout=None, **keywords: forward(*arguments, **keywords)


def compute_eagerly(model: Any) -> None:
    model.set_attn_implementation("eager")


@pytest.mark.parametrize("ignore", [drop_layout, compute_eagerly])
@pytest.mark.parametrize("case", ["llama", "gemma3"])
def test_ignored_layout_is_an_error(case: str, ignore: Callable[[Any], None]) -> None:
    """The mask is empty, so layers that use it fail instead of attending to all nodes."""
    model, tree = make_model(case), make_tree(0)[0]
    ignore(model)
    for choose in (last_nodes, all_nodes):
        with pytest.raises(MASK_ERRORS):
            compute_tree(model, tree, choose(tree), "split")
    compute_tree(model, tree, last_nodes(tree), "dense")


def test_decoder_without_layers_is_left_alone() -> None:
    decoder = torch.nn.Linear(1, 1)
    decoder.get_decoder = lambda: decoder
    accept_trees(decoder)
    assert not decoder._forward_hooks and decoder._unsloth_keep_padding_mask is True


def attention_of_layer(
    run: Callable[..., torch.Tensor], mask: torch.Tensor | None, scale: float | None
) -> torch.Tensor:
    """Return the result of Unsloth's attention, [1, nodes, heads, size], for random queries, keys and values."""
    from unsloth.utils.attention_dispatch import SDPA, AttentionConfig, AttentionContext

    generator, length = torch.Generator().manual_seed(0), len(make_tree(0)[0])
    query, key, value = (torch.randn(1, heads, length, 16, generator=generator) for heads in (4, 2, 2))
    config = AttentionConfig(SDPA, n_kv_heads=2, n_groups=2, sdpa_kwargs=scale and {"scale": scale})
    context = AttentionContext(
        bsz=1, q_len=length, kv_seq_len=length, n_heads=4, head_dim=16, requires_grad=False, seq_info=None,
        attention_mask=mask, causal_mask=None,
    )  # fmt: skip
    return run(config=config, context=context, Q=query, K=key, V=value)


@pytest.mark.parametrize("scale", [None, 0.5])
def test_fused_attention_equals_a_dense_mask(monkeypatch: pytest.MonkeyPatch, scale: float | None) -> None:
    """Both are computed through the function that Unsloth's fused layers call on a GPU."""
    if "unsloth.models.llama" not in sys.modules:
        pytest.skip("importing Unsloth's Llama without a GPU changes models of other tests in this process")
    from unsloth.models.llama import run_attention

    replacement, tree = tree_attention._wrap_fused_attention(run_attention), make_tree(0)[0]
    config, nodes = stand_in_config("llama"), last_nodes(tree)
    mask = model_inputs(tree_inputs(tree, nodes, "dense"), config, torch.float32)["attention_mask"]
    layout = model_inputs(tree_inputs(tree, nodes, "split"), config, torch.float32)["tree_layout"]
    expected = attention_of_layer(run_attention, mask, scale)
    assert torch.equal(attention_of_layer(replacement, mask, scale), expected), "outside of a tree"
    for layer, computed in ((0, all_nodes(tree)), (1, nodes)):
        monkeypatch.setattr(tree_attention._active, "layer", layout[layer])
        actual = attention_of_layer(replacement, None, scale)
        assert actual.shape == expected.shape
        assert_close(actual[:, computed], expected[:, computed])


def calls_of(function: ast.AST, names: set[str]) -> list[ast.Call]:
    return [
        node
        for node in ast.walk(function)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in names
    ]


@pytest.mark.parametrize("name", ["llama", "mistral", "qwen3", "granite", "cohere", "gemma2", "falcon_h1"])
def test_unsloth_still_calls_run_attention(name: str) -> None:
    """Each fused family imports it into its own module and calls it with keyword arguments."""
    calls = calls_of(parse_unsloth(name), {"run_attention"})
    assert calls
    for call in calls:
        assert not call.args and [keyword.arg for keyword in call.keywords] == ["config", "context", "Q", "K", "V"]


def parse_unsloth(name: str) -> ast.Module:
    """Parse a module of Unsloth without importing it, because the import changes models in this process."""
    import unsloth

    return ast.parse((Path(unsloth.__path__[0]) / "models" / f"{name}.py").read_text(encoding="utf-8"))


def find_function(module: ast.Module, name: str) -> ast.FunctionDef:
    return next(node for node in ast.walk(module) if isinstance(node, ast.FunctionDef) and node.name == name)


def test_unsloth_still_passes_the_layout_on() -> None:
    """Its forwards pass unknown keyword arguments on to the layers, even under gradient checkpointing."""
    llama = parse_unsloth("llama")
    for forward, names in (
        ("LlamaModel_fast_forward", {"decoder_layer", "module"}),
        ("CausalLM_fast_forward", {"_run_backbone"}),
    ):
        calls = calls_of(find_function(llama, forward), names)
        assert len(calls) == len(names)
        assert all(any(keyword.arg is None for keyword in call.keywords) for call in calls)
    # Its signature and its two calls.
    assert ast.unparse(find_function(llama, "PeftModel_fast_forward")).count("**kwargs") == 3


def test_fused_attention_is_replaced_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is replaced in every module of Unsloth's models that has it, and in no other."""
    for name, module in list(sys.modules.items()):
        if name.startswith("unsloth.models.") and hasattr(module, "run_attention"):
            monkeypatch.delitem(sys.modules, name)  # the real ones stay as they are

    def run_attention(*, config: Any, context: Any, Q: Any, K: Any, V: Any) -> Any:
        return config, context, Q, K, V

    modules = {name: ModuleType(name) for name in ("unsloth.models.one", "unsloth.models.two", "unsloth.utils.three")}
    for name, module in modules.items():
        module.run_attention = run_attention  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setitem(sys.modules, "unsloth.models.four", ModuleType("unsloth.models.four"))
    monkeypatch.setattr(tree_attention, "DEVICE", "cuda")
    accept_trees(make_model(installed=False))
    one, two, three = (module.run_attention for module in modules.values())
    assert one is not run_attention and two is not run_attention and three is run_attention
    assert one(config=1, context=2, Q=3, K=4, V=5) == (1, 2, 3, 4, 5), "outside of a tree"
    accept_trees(make_model(installed=False))
    assert [module.run_attention for module in modules.values()] == [one, two, three]
