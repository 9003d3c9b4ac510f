from __future__ import annotations

import pytest
import torch
from scipy.stats import ortho_group
from sklearn.metrics.pairwise import cosine_similarity

from holdfast.metrics.similarity import cross_space_mrr, topk_jaccard
from holdfast.representation.relative import quantize_similarity, relative_projection, stratified_mean


def _randn(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def _rotation(d, dtype, seed=0):
    return torch.as_tensor(ortho_group.rvs(d, random_state=seed), dtype=dtype)


@pytest.mark.parametrize(("dtype", "atol"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
@pytest.mark.parametrize("c", [1e-3, 1.0, 1e3])
def test_rotation_and_scale_change_nothing(dtype, atol, c):
    z, a, q = _randn(50, 16, dtype=dtype), _randn(20, 16, seed=1, dtype=dtype), _rotation(16, dtype)
    expected = relative_projection(z, a)
    torch.testing.assert_close(relative_projection(c * z @ q, c * a @ q), expected, atol=atol, rtol=0)
    scales = torch.rand(50, 1, generator=torch.Generator().manual_seed(2), dtype=dtype) + 0.1
    torch.testing.assert_close(relative_projection(scales * z @ q, a @ q), expected, atol=atol, rtol=0)


def test_translation_changes_it_and_centring_repairs_that():
    z, a = _randn(50, 16), _randn(20, 16, seed=1)
    t = _randn(16, seed=2)
    t = t / t.norm() * z.norm(dim=1).mean()
    assert (relative_projection(z + t, a + t) - relative_projection(z, a)).abs().max() > 1e-2
    torch.testing.assert_close(
        relative_projection(z + t, a + t, center=True),
        relative_projection(z, a, center=True),
        atol=1e-5,
        rtol=0,
    )


def test_anchors_against_themselves_are_a_correlation_matrix():
    a = _randn(20, 16)
    r = relative_projection(a, a)
    torch.testing.assert_close(r, r.T, atol=1e-6, rtol=0)
    torch.testing.assert_close(r.diagonal(), torch.ones(20), atol=1e-6, rtol=0)
    assert torch.linalg.eigvalsh(r.double()).min() > -1e-6


def test_spanning_anchors_determine_the_direction():
    z, a = _randn(30, 8), _randn(12, 8, seed=1)
    r = relative_projection(z, a)
    normed = a / a.norm(dim=1, keepdim=True)
    torch.testing.assert_close(r @ torch.linalg.pinv(normed).T, z / z.norm(dim=1, keepdim=True), atol=1e-4, rtol=0)


@pytest.mark.parametrize("similarity", ["cosine", "inner", "euclidean", "basis"])
def test_permutations_of_anchors_and_samples_permute_columns_and_rows(similarity):
    z, a = _randn(9, 5, dtype=torch.float64), _randn(5, 5, seed=1, dtype=torch.float64)
    r = relative_projection(z, a, similarity)
    columns, rows = torch.tensor([3, 0, 4, 1, 2]), torch.randperm(9, generator=torch.Generator().manual_seed(3))
    moved = relative_projection(z[rows], a[columns], similarity)
    # Exact in the mathematics; matrix products and pseudo-inverses round by the order of their rows.
    torch.testing.assert_close(moved, r[rows][:, columns], atol=1e-12, rtol=0)


def test_cosine_permutations_are_exact():
    z, a = _randn(8, 4), _randn(8, 4, seed=1)
    p = torch.tensor([3, 0, 7, 1, 2, 6, 5, 4])
    r = relative_projection(z, a)
    assert torch.equal(relative_projection(z, a[p]), r[:, p])
    assert torch.equal(relative_projection(z[p], a), r[p])


def test_basis_of_the_identity_returns_the_sample():
    z = _randn(10, 6)
    assert torch.equal(relative_projection(z, torch.eye(6), "basis"), z)


def test_basis_with_as_many_anchors_as_dimensions_ignores_any_invertible_map():
    z, a = _randn(40, 8, dtype=torch.float64), _randn(8, 8, seed=1, dtype=torch.float64)
    u, v = _rotation(8, torch.float64, 2), _rotation(8, torch.float64, 3)
    m = u @ torch.diag(torch.logspace(0, 1.9, 8, dtype=torch.float64)) @ v
    torch.testing.assert_close(
        relative_projection(z @ m, a @ m, "basis"), relative_projection(z, a, "basis"), atol=1e-4, rtol=0
    )


def test_basis_solves_least_squares_with_fewer_and_smallest_norm_with_more_anchors():
    z = _randn(4, 6, dtype=torch.float64)
    few, many = _randn(3, 6, seed=1, dtype=torch.float64), _randn(9, 6, seed=2, dtype=torch.float64)
    residual = relative_projection(z, few, "basis") @ few - z
    torch.testing.assert_close(residual @ few.T, torch.zeros(4, 3, dtype=torch.float64), atol=1e-10, rtol=0)
    torch.testing.assert_close(relative_projection(z, many, "basis") @ many, z, atol=1e-10, rtol=0)


def test_agrees_with_scikit_learn_and_broadcasts():
    z, a = _randn(3, 12, 7), _randn(3, 5, 7, seed=1)
    r = relative_projection(z, a)
    for i in range(3):
        expected = torch.as_tensor(cosine_similarity(z[i].numpy(), a[i].numpy()))
        torch.testing.assert_close(r[i], expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(relative_projection(z, a[0])[1], relative_projection(z[1], a[0]))


def test_inner_and_euclidean_are_what_they_say():
    z, a = _randn(6, 4), _randn(3, 4, seed=1)
    torch.testing.assert_close(relative_projection(z, a, "inner"), z @ a.T / 2)
    torch.testing.assert_close(relative_projection(z, a, "euclidean"), -(z[:, None] - a[None]).norm(dim=-1))


def test_straight_through_rounding_gives_multiples_and_passes_the_gradient():
    r = _randn(50, dtype=torch.float64).requires_grad_()
    q = quantize_similarity(r, 0.25)
    assert torch.equal(q / 0.25, (q / 0.25).round())
    assert float((q - r).detach().abs().max()) <= 0.125
    weights = _randn(50, seed=1, dtype=torch.float64)
    (q * weights).sum().backward()
    assert torch.equal(r.grad, weights)


def test_smooth_steps_are_flat_at_multiples_and_fixed_there():
    r = (torch.arange(-4, 5, dtype=torch.float64) * 0.2).requires_grad_()
    q = quantize_similarity(r, 0.2, "smooth_steps")
    torch.testing.assert_close(q, r, atol=1e-12, rtol=0)
    q.sum().backward()
    torch.testing.assert_close(r.grad, torch.zeros(9, dtype=torch.float64), atol=1e-12, rtol=0)
    x = torch.linspace(-1, 1, 1001, dtype=torch.float64)
    assert (quantize_similarity(x, 0.2, "smooth_steps").diff() >= 0).all()


def test_stratified_mean_averages_the_anchors_of_each_class():
    r = _randn(4, 6)
    labels = torch.tensor([2, 0, 2, 0, 5, 2])
    expected = torch.stack([r[:, [1, 3]].mean(1), r[:, [0, 2, 5]].mean(1), r[:, 4]], 1)
    torch.testing.assert_close(stratified_mean(r, labels), expected)


def test_retrieval_across_a_rotated_space_is_perfect_and_across_a_random_one_is_chance():
    n = 400
    z, q = _randn(n, 16, dtype=torch.float64), _rotation(16, torch.float64)
    a = torch.arange(32)
    r1, r2 = relative_projection(z, z[a]), relative_projection(3 * z @ q, 3 * (z @ q)[a])
    assert cross_space_mrr(r1, r2) == 1.0
    assert topk_jaccard(r1, r2, 5) == 1.0
    chance = float((1 / torch.arange(1, n + 1, dtype=torch.float64)).sum()) / n
    other = _randn(n, 16, seed=9, dtype=torch.float64)
    assert abs(cross_space_mrr(z, other) - chance) < 0.02


def test_bad_input_is_named():
    z = _randn(5, 4)
    with pytest.raises(ValueError, match="samples have 4 entries, but anchors have 3"):
        relative_projection(z, _randn(2, 3))
    with pytest.raises(ValueError, match="at least one anchor"):
        relative_projection(z, torch.empty(0, 4))
    with pytest.raises(ValueError, match="anchor 1 is all zero"):
        relative_projection(z, torch.tensor([[1.0, 0, 0, 0], [0, 0, 0, 0]]))
    with pytest.raises(ValueError, match=r"sample \(1, 0\) is all zero"):
        relative_projection(torch.stack([z, torch.zeros(5, 4)]), z)
    zero = torch.zeros(1, 4)
    assert torch.equal(relative_projection(zero, z, eps=1e-8), torch.zeros(1, 5))
    with pytest.raises(ValueError, match="anchors must be finite, but row 0 holds nan"):
        relative_projection(z, torch.full((2, 4), torch.nan))
    with pytest.raises(ValueError, match="similarity must be one of 'cosine'"):
        relative_projection(z, z, "dot")
    with pytest.raises(ValueError, match=r"bin_size must be in \(0, inf\), got 0"):
        quantize_similarity(z, 0)
    with pytest.raises(ValueError, match="one label for each of the 4 anchors"):
        stratified_mean(z, torch.zeros(5, dtype=torch.long))
