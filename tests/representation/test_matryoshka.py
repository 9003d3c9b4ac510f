from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from holdfast.nn.matryoshka import MatryoshkaHead
from holdfast.representation.matryoshka import (
    MatryoshkaLoss,
    MatryoshkaPairLoss,
    PCATruncator,
    PrefixCrossEntropy,
    RandomSubset,
)

DIMS = [2, 4, 8]


def _randn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def _head(dims: list[int] = DIMS, efficient: bool = False) -> MatryoshkaHead:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return MatryoshkaHead(dims, 3, efficient=efficient)


def _info_nce(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(a @ b.T / 0.2, torch.arange(len(a)))


@pytest.mark.parametrize("efficient", [False, True])
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_loss_is_the_explicit_sum_over_prefixes(efficient: bool, reduction: str) -> None:
    head, z, y = _head(efficient=efficient), _randn(9, 8), torch.arange(9) % 3
    weights = [0.5, 1.0, 2.0]
    loss = MatryoshkaLoss(PrefixCrossEntropy(head), DIMS, weights, reduction=reduction)
    explicit = sum(c * F.cross_entropy(logits, y) for c, logits in zip(weights, head(z)))
    torch.testing.assert_close(loss(z, y), explicit / (3 if reduction == "mean" else 1), atol=1e-6, rtol=0)


def test_weights_scale_the_loss_linearly() -> None:
    head, z, y = _head(), _randn(9, 8), torch.arange(9) % 3
    once = MatryoshkaLoss(PrefixCrossEntropy(head), DIMS, [1, 2, 3])(z, y)
    thrice = MatryoshkaLoss(PrefixCrossEntropy(head), DIMS, [3, 6, 9])(z, y)
    torch.testing.assert_close(thrice, 3 * once)


def test_weight_zero_removes_the_term_and_its_gradient() -> None:
    head, z, y = _head(), _randn(9, 8).requires_grad_(), torch.arange(9) % 3
    MatryoshkaLoss(PrefixCrossEntropy(head), DIMS, [1, 0, 0])(z, y).backward()
    assert head.heads[1].weight.grad is None
    assert head.heads[2].weight.grad is None
    assert torch.equal(z.grad[:, 2:], torch.zeros(9, 6))
    assert z.grad[:, :2].abs().min() > 0


def test_gradient_on_the_shared_prefix_is_the_sum_of_both_terms() -> None:
    target = _randn(5, 4, seed=1, dtype=torch.float64)

    def base(prefix: torch.Tensor) -> torch.Tensor:
        return (prefix - target[:, : prefix.shape[1]]).pow(4).sum()

    loss = MatryoshkaLoss(base, [2, 4])
    z = _randn(5, 4, dtype=torch.float64).requires_grad_()
    loss(z).backward()
    single = [torch.autograd.grad(base(z[:, :m]), z)[0] for m in (2, 4)]
    torch.testing.assert_close(z.grad, single[0] + single[1])
    step = 1e-5
    for i, j in [(0, 0), (3, 1), (4, 3)]:
        moved = [z.detach().clone() for _ in range(2)]
        moved[0][i, j] += step
        moved[1][i, j] -= step
        numeric = (loss(moved[0]) - loss(moved[1])) / (2 * step)
        assert abs(float(numeric - z.grad[i, j])) < 1e-4


@pytest.mark.parametrize("efficient", [False, True])
def test_full_length_alone_equals_linear_layer_and_cross_entropy_bitwise(efficient: bool) -> None:
    head = _head([8], efficient)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        linear = nn.Linear(8, 3)
    z, y = _randn(9, 8), torch.arange(9) % 3
    ours = MatryoshkaLoss(PrefixCrossEntropy(head), [8])(z, y)
    assert torch.equal(ours, F.cross_entropy(linear(z), y))


def test_pair_loss_ignores_scale_and_equals_explicit_normalised_sum() -> None:
    a, b = _randn(6, 8), _randn(6, 8, seed=1)
    loss = MatryoshkaPairLoss(_info_nce, DIMS)
    explicit = sum(_info_nce(F.normalize(a[:, :m]), F.normalize(b[:, :m])) for m in DIMS)
    torch.testing.assert_close(loss(a, b), explicit)
    for c in (0.01, 7.0):
        torch.testing.assert_close(loss(c * a, b), loss(a, b))


def test_normalising_before_truncation_is_a_different_loss() -> None:
    a, b = _randn(6, 8), _randn(6, 8, seed=1)
    right = MatryoshkaPairLoss(_info_nce, [2])(a, b)
    wrong = MatryoshkaPairLoss(_info_nce, [2], normalize=False)(F.normalize(a), F.normalize(b))
    assert abs(float(right - wrong)) > 1e-2


def test_triplet_loss_cuts_all_three_embeddings() -> None:
    a, p, n = (_randn(5, 8, seed=s) for s in range(3))
    base = nn.TripletMarginLoss()
    loss = MatryoshkaLoss(base, DIMS, embeddings=3)
    torch.testing.assert_close(loss(a, p, n), sum(base(a[:, :m], p[:, :m], n[:, :m]) for m in DIMS))


def test_linear_autoencoder_with_nested_reconstruction_orders_principal_components() -> None:
    # The optimum of the nested mean squared error is the PCA basis: every prefix reaches its PCA tail sum.
    eigenvalues = torch.tensor([4.0, 2.0, 1.0, 0.5], dtype=torch.float64)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        rotation = torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64))[0]
        encoder = nn.Linear(4, 4, bias=False, dtype=torch.float64)
        decoder = nn.Linear(4, 4, bias=False, dtype=torch.float64)
    x = torch.diag(eigenvalues.sqrt()) @ rotation.T * 2  # 4 rows whose second moment X'X/4 is exactly the covariance

    def reconstruction(prefix: torch.Tensor) -> torch.Tensor:
        return (prefix @ decoder.weight[:, : prefix.shape[1]].T - x).square().sum(1).mean()

    loss = MatryoshkaLoss(reconstruction, [1, 2, 3, 4])
    parameters = [*encoder.parameters(), *decoder.parameters()]
    optimizer = torch.optim.LBFGS(parameters, max_iter=2000, line_search_fn="strong_wolfe", tolerance_change=1e-14)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        value = loss(encoder(x))
        value.backward()
        return value

    optimizer.step(closure)
    errors = torch.stack([reconstruction(encoder(x)[:, :m]) for m in (1, 2, 3, 4)])
    tails = eigenvalues.flip(0).cumsum(0).flip(0) - eigenvalues
    torch.testing.assert_close(errors.detach(), tails, atol=1e-2, rtol=0)


def test_pca_truncation_keeps_the_most_variance_of_all_subspaces() -> None:
    z = np.random.default_rng(0).normal(size=(300, 6)) * [3, 0.1, 2, 0.2, 1, 0.3]
    pca = PCATruncator(6).fit(z)
    variance = np.sort(np.linalg.eigvalsh(np.cov(z.T)))[::-1]
    np.testing.assert_allclose(pca.transform(z, 3).var(0, ddof=1), variance[:3])
    assert np.array_equal(pca.transform(z)[:, :3], pca.transform(z, 3))


def test_random_subsets_are_nested_columns_of_the_embedding() -> None:
    z = np.random.default_rng(0).normal(size=(5, 10))
    subset = RandomSubset(6, random_state=1).fit(z)
    long, short = subset.transform(z), subset.transform(z, 2)
    assert np.array_equal(long[:, :2], short)
    assert len(set(subset.coordinates_.tolist())) == 6
    assert np.array_equal(long, z[:, subset.coordinates_])


@pytest.mark.parametrize("dims", [[], [4, 2], [2, 2], [0, 4]])
def test_wrong_nesting_lists_are_refused(dims: list[int]) -> None:
    with pytest.raises(ValueError, match="dims"):
        MatryoshkaLoss(nn.MSELoss(), dims)


@pytest.mark.parametrize("weights", [[1, 2], [1, -1, 1], [0, 0, 0], [1, float("nan"), 1], [1, float("inf"), 1]])
def test_wrong_weights_are_refused(weights: list[float]) -> None:
    with pytest.raises(ValueError, match="weights"):
        MatryoshkaLoss(nn.MSELoss(), DIMS, weights)


def test_embedding_shorter_than_the_longest_prefix_is_refused() -> None:
    loss = MatryoshkaLoss(PrefixCrossEntropy(_head()), DIMS)
    with pytest.raises(ValueError, match="at least 8"):
        loss(torch.zeros(3, 6), torch.zeros(3, dtype=torch.long))
    with pytest.raises(ValueError, match="needs 2 embeddings"):
        MatryoshkaPairLoss(nn.MSELoss(), DIMS)(torch.ones(3, 8))
    with pytest.raises(ValueError, match="differ in length"):
        MatryoshkaPairLoss(nn.MSELoss(), DIMS)(torch.ones(3, 8), torch.ones(3, 9))


def test_label_outside_range_and_zero_prefix_are_refused() -> None:
    with pytest.raises(ValueError, match=r"y must lie in \[0, 3\), but entry 1 is 3"):
        MatryoshkaLoss(PrefixCrossEntropy(_head()), DIMS)(torch.zeros(2, 8), torch.tensor([0, 3]))
    z = torch.ones(2, 8)
    z[1, :2] = 0
    with pytest.raises(ValueError, match="norm zero in row 1"):
        MatryoshkaPairLoss(nn.MSELoss(), DIMS)(z, torch.ones(2, 8))


def test_truncation_beyond_the_fitted_length_is_refused() -> None:
    z = np.random.default_rng(0).normal(size=(20, 6))
    for cut in (PCATruncator(4).fit(z), RandomSubset(4).fit(z)):
        with pytest.raises(ValueError, match=r"m must be in \[1, 4\]"):
            cut.transform(z, 5)
    with pytest.raises(ValueError, match="n_components"):
        PCATruncator(7).fit(z)
