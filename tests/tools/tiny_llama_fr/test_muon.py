"""Muon: an update has the singular directions of the gradient, all of about equal length."""

import torch

from tools.tiny_llama_fr.muon import Muon, orthogonalize


def test_singular_values_become_nearly_one() -> None:
    torch.manual_seed(0)
    for shape in ((2, 16, 48), (2, 48, 16)):
        matrices = torch.randn(shape)
        update = orthogonalize(matrices)
        assert update.shape == shape
        values = torch.linalg.svdvals(update)
        assert values.min() > 0.6 and values.max() < 1.3
        left, _, right = torch.linalg.svd(matrices, full_matrices=False)
        assert torch.nn.functional.cosine_similarity(update.flatten(1), (left @ right).flatten(1)).min() > 0.97


def test_a_step_moves_every_direction_equally() -> None:
    torch.manual_seed(0)
    matrix = torch.nn.Parameter(torch.randn(8, 8))
    before = matrix.detach().clone()
    matrix.grad = torch.randn(8, 8) * 1e-3
    Muon([matrix], lr=0.1, weight_decay=0.5).step()
    moved = torch.linalg.svdvals(before * (1 - 0.1 * 0.5) - matrix.detach())
    assert moved.min() > 0.06 and moved.max() < 0.13
