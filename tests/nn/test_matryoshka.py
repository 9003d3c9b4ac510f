from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from holdfast.nn.matryoshka import MatryoshkaHead, check_dims, nesting_dims, truncate_embed


def _z(n: int, d: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("d", "start", "n"), [(2048, 8, 9), (768, 12, 7), (64, 8, 4), (8, 8, 1)])
def test_nesting_dims_double_from_start_to_full_length(d: int, start: int, n: int) -> None:
    dims = nesting_dims(d, start)
    assert dims == [start * 2**k for k in range(n)]
    assert dims[-1] == d


def test_nesting_dims_always_end_at_full_length() -> None:
    assert nesting_dims(100) == [8, 16, 32, 64, 100]


def test_efficient_logits_are_the_prefix_of_one_matrix_exactly() -> None:
    head = MatryoshkaHead([2, 4, 8], 3, efficient=True)
    z = _z(5, 8)
    shared = head.heads[0]
    for m in range(1, 9):
        assert torch.equal(head.logits(z, m), F.linear(z[:, :m], shared.weight[:, :m], shared.bias))
    assert all(torch.equal(a, head.logits(z, m)) for a, m in zip(head(z), head.dims))


def test_efficient_head_holds_one_matrix_and_plain_head_one_per_length() -> None:
    def count(h: nn.Module) -> int:
        return sum(p.numel() for p in h.parameters())

    assert count(MatryoshkaHead([2, 4, 8], 3, efficient=True)) == 8 * 3 + 3
    assert count(MatryoshkaHead([2, 4, 8], 3)) == (2 + 4 + 8) * 3 + 3 * 3


@pytest.mark.parametrize("efficient", [False, True])
def test_single_length_equals_linear_layer_bitwise(efficient: bool) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        head = MatryoshkaHead([6], 4, efficient=efficient)
        torch.manual_seed(3)
        linear = nn.Linear(6, 4)
    z, y = _z(7, 6), torch.tensor([0, 1, 2, 3, 0, 1, 2])
    ours, theirs = F.cross_entropy(head(z)[0], y), F.cross_entropy(linear(z), y)
    ours.backward()
    theirs.backward()
    assert torch.equal(ours, theirs)
    assert torch.equal(head.heads[0].weight.grad, linear.weight.grad)


@pytest.mark.parametrize("efficient", [False, True])
def test_truncated_head_gives_the_same_logits_and_owns_its_weights(efficient: bool) -> None:
    head = MatryoshkaHead([2, 4], 3, efficient=efficient)
    z = _z(5, 4)
    layer = head.truncate(2)
    assert isinstance(layer, nn.Linear)
    assert torch.equal(layer(z[:, :2]), head.logits(z, 2))
    with torch.no_grad():
        layer.weight.zero_()
    assert not torch.equal(layer(z[:, :2]), head.logits(z, 2))


def test_no_bias_maps_zero_to_zero() -> None:
    head = MatryoshkaHead([2, 4], 3, bias=False)
    assert all(torch.equal(logits, torch.zeros(1, 3)) for logits in head(torch.zeros(1, 4)))
    assert head.truncate(2).bias is None


def test_truncation_normalises_after_cutting() -> None:
    z = _z(6, 8)
    short = truncate_embed(z, 3)
    torch.testing.assert_close(short.norm(dim=1), torch.ones(6))
    torch.testing.assert_close(short, truncate_embed(5 * z, 3))
    assert not torch.allclose(short, truncate_embed(z, 8)[:, :3])
    assert torch.equal(truncate_embed(z, 3, normalize=False), z[:, :3])


@pytest.mark.parametrize("dims", [[], [4, 4], [8, 4], [0, 4], [-1, 2]])
def test_wrong_nesting_lists_are_refused(dims: list[int]) -> None:
    with pytest.raises(ValueError, match="dims"):
        check_dims(dims)
    with pytest.raises(ValueError, match="dims"):
        MatryoshkaHead(dims, 3)


def test_length_beyond_embedding_is_refused() -> None:
    with pytest.raises(ValueError, match="must not exceed the embedding's 8"):
        check_dims([4, 16], d=8)
    with pytest.raises(ValueError, match="needs 4"):
        MatryoshkaHead([2, 4], 3)(torch.zeros(1, 3))
    with pytest.raises(ValueError, match=r"m must be in \[1, 8\]"):
        truncate_embed(torch.ones(1, 8), 9)


def test_length_without_head_is_refused() -> None:
    with pytest.raises(ValueError, match=r"trained lengths \[2, 4\]"):
        MatryoshkaHead([2, 4], 3).logits(torch.zeros(1, 4), 3)


def test_non_integer_length_is_refused() -> None:
    with pytest.raises(TypeError, match=r"dims\[1\] must be an integer"):
        check_dims([2, 4.0])


def test_zero_prefix_is_refused_with_its_row() -> None:
    z = torch.ones(3, 4)
    z[2, :2] = 0
    with pytest.raises(ValueError, match="norm zero in row 2"):
        truncate_embed(z, 2)
    assert truncate_embed(z, 3).shape == (3, 3)
