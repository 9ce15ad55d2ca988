"""Muon: orthogonal updates, the same for a matrix alone and among others of its shape."""

from __future__ import annotations

import pytest
import torch

from tiercel.students.micro_optimiser import Muon, orthogonal


@pytest.mark.parametrize("shape", [(3, 16, 16), (2, 8, 40), (4, 40, 8)])
def test_updates_have_singular_values_of_about_one(shape: tuple[int, int, int]) -> None:
    matrices = torch.randn(*shape, generator=torch.Generator().manual_seed(0))
    found = orthogonal(matrices)
    values = torch.linalg.svdvals(found)
    assert values.min() > 0.3
    assert values.max() < 1.3
    left, _, right = torch.linalg.svd(matrices, full_matrices=False)
    direction = torch.nn.functional.cosine_similarity(found.flatten(1), (left @ right).flatten(1))
    assert direction.min() > 0.95


def test_a_matrix_alone_moves_as_among_others() -> None:
    torch.manual_seed(0)
    shapes = [(8, 8), (16, 8), (8, 8), (8, 16)]
    starts, gradients = ([torch.randn(s) for s in shapes] for _ in range(2))

    def moved(which: list[int]) -> list[torch.Tensor]:
        parameters = [torch.nn.Parameter(starts[i].clone()) for i in which]
        optimiser = Muon(parameters, lr=0.1)
        for _ in range(3):
            for p, i in zip(parameters, which, strict=True):
                p.grad = gradients[i].clone()
            optimiser.step()
        return [p.detach() for p in parameters]

    together = moved([0, 1, 2, 3])
    for i, found in enumerate(together):
        torch.testing.assert_close(found, moved([i])[0], atol=1e-5, rtol=1e-5)


def test_a_quadratic_is_solved() -> None:
    torch.manual_seed(0)
    wanted, weight = torch.randn(12, 6), torch.nn.Parameter(torch.zeros(12, 6))
    optimiser = Muon([weight], lr=0.1, weight_decay=0.0)
    for step in range(300):
        optimiser.param_groups[0]["lr"] = 0.1 * (1 - step / 300)
        optimiser.zero_grad()
        (weight - wanted).square().sum().backward()
        optimiser.step()
    assert (weight - wanted).abs().max() < 0.05
