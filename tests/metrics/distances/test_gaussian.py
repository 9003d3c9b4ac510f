import pytest
import torch

from holdfast.metrics import gaussian_geodesic, gaussian_transport
from tests.metrics.distances.points import covariances

ZERO = torch.zeros(4, 3, dtype=torch.float64)


def _pair(rank=None):
    rng = torch.Generator().manual_seed(105)
    means = torch.randn(2, 4, 3, generator=rng, dtype=torch.float64)
    return means[0], covariances(rank=rank), means[1], covariances(rank=rank, seed=106)


def test_covariances_that_commute_have_the_distance_of_their_roots():
    a, b = torch.rand(2, 4, 3, generator=torch.Generator().manual_seed(100), dtype=torch.float64)
    q = torch.linalg.qr(covariances(batch=1)[0]).Q
    s0, s1 = (q @ torch.diag_embed(v.square()) @ q.T for v in (a, b))
    expected = (a - b).square().sum(1)
    torch.testing.assert_close(gaussian_transport(ZERO, s0, ZERO, s1), expected, rtol=1e-8, atol=1e-10)
    shift = torch.tensor([3.0, 0.0, 4.0], dtype=torch.float64)
    torch.testing.assert_close(gaussian_transport(ZERO, s0, ZERO + shift, s1), expected + 25, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("rank", [None, 2])
def test_it_is_symmetric_and_zero_with_itself(rank):
    m0, s0, m1, s1 = _pair(rank)
    torch.testing.assert_close(gaussian_transport(m0, s0, m1, s1), gaussian_transport(m1, s1, m0, s0))
    assert gaussian_transport(m0, s0, m0, s0).max() < 1e-7


def test_pot_finds_the_same():
    ot = pytest.importorskip("ot")
    m0, s0, m1, s1 = _pair()
    expected = [ot.gaussian.bures_wasserstein_distance(*parts) ** 2 for parts in zip(m0, m1, s0, s1)]
    torch.testing.assert_close(gaussian_transport(m0, s0, m1, s1), torch.cat(expected), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("equal", [False, True])
def test_gradients_are_those_of_the_value_for_equal_eigenvalues_too(equal):
    m0, s0, m1, s1 = (t[:2] for t in _pair())
    if equal:
        s0 = torch.eye(3, dtype=torch.float64).expand(2, 3, 3)
        s1 = 2 * s0

    def value(m0, r0, m1, r1):
        return gaussian_transport(m0, r0 @ r0.mT, m1, r1 @ r1.mT)

    roots = [torch.linalg.cholesky(s) for s in (s0, s1)]
    inputs = [t.clone().requires_grad_() for t in (m0, roots[0], m1, roots[1])]
    assert torch.autograd.gradcheck(value, inputs, eps=1e-6, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("rank", [None, 2, 1])
def test_a_geodesic_starts_and_ends_where_it_should_at_constant_speed(rank):
    m0, s0, m1, s1 = _pair(rank)
    for t, m, s in ((0.0, m0, s0), (1.0, m1, s1)):
        mean, cov = gaussian_geodesic(m0, s0, m1, s1, t)
        torch.testing.assert_close(mean, m)
        torch.testing.assert_close(cov, s, rtol=1e-6, atol=1e-6)
    whole = gaussian_transport(m0, s0, m1, s1)
    for a, b in ((0.0, 0.3), (0.3, 0.8), (0.25, 1.0)):
        (ma, sa), (mb, sb) = (gaussian_geodesic(m0, s0, m1, s1, t) for t in (a, b))
        torch.testing.assert_close(gaussian_transport(ma, sa, mb, sb), (b - a) ** 2 * whole, rtol=1e-4, atol=1e-6)


def test_a_geodesic_has_a_time_for_each_of_the_batch_and_gradients():
    m0, s0, m1, s1 = _pair()
    times = torch.tensor([0.0, 0.2, 0.5, 1.0], dtype=torch.float64)
    mean, cov = gaussian_geodesic(m0, s0, m1, s1, times)
    for i, t in enumerate(times.tolist()):
        one = gaussian_geodesic(m0[i], s0[i], m1[i], s1[i], t)
        torch.testing.assert_close((mean[i], cov[i]), one)
    roots = [torch.linalg.cholesky(s[:1]).requires_grad_() for s in (s0, s1)]
    assert torch.autograd.gradcheck(
        lambda a, b: gaussian_geodesic(m0[:1], a @ a.mT, m1[:1], b @ b.mT, 0.4)[1], roots, atol=1e-5, rtol=1e-4
    )


def test_input_that_makes_no_sense_is_refused():
    zero, eye = torch.zeros(2), torch.eye(2)
    for parts, message in (
        ((zero, torch.tensor([[1.0, 2.0], [0.0, 1.0]]), zero, eye), "cov0 must be symmetric"),
        ((zero, eye, zero, -eye), "cov1 must be positive semi-definite, but has the eigenvalue -1"),
        ((zero, eye, torch.zeros(3), eye), r"means must have length 2 and covariances shape \(2, 2\)"),
        ((zero, eye * torch.nan, zero, eye), "cov0 must be finite"),
    ):
        with pytest.raises(ValueError, match=message):
            gaussian_transport(*parts)
    with pytest.raises(TypeError, match="one dtype"):
        gaussian_transport(zero, eye, zero.double(), eye)
    with pytest.raises(TypeError, match="mean0 must be a floating tensor"):
        gaussian_transport([0.0], eye, zero, eye)
    with pytest.raises(ValueError, match=r"t must lie in \[0, 1\], got 1.5"):
        gaussian_geodesic(zero, eye, zero, eye, 1.5)
