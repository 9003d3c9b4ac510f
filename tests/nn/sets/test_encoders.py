from __future__ import annotations

import math

import pytest
import torch

from holdfast.core.random import generator, isolated_rng
from holdfast.nn.sets import (
    AttentionSetEncoder,
    ConvSetEncoder,
    GNNSetEncoder,
    KernelMeanEncoder,
    MeanEncoder,
    ResNetAttentionSetEncoder,
    ResNetSetEncoder,
    SumSetEncoder,
    check_distributional_invariance,
    encode_in_chunks,
)

VECTORS = {
    "resnet": lambda: ResNetSetEncoder(3, width=16, out_dim=8),
    "resnet-median": lambda: ResNetSetEncoder(3, width=16, out_dim=8, pool="median"),
    "gnn": lambda: GNNSetEncoder(3, width=16, out_dim=8),
    "gnn-median": lambda: GNNSetEncoder(3, width=16, out_dim=8, pool="median"),
    "attention": lambda: AttentionSetEncoder(3, width=16, out_dim=8),
    "resnet-attention": lambda: ResNetAttentionSetEncoder(3, width=16, out_dim=8),
    "kernel-mean": lambda: KernelMeanEncoder(3, out_dim=8, bandwidth=1.5),
    "mean": lambda: MeanEncoder(3),
    "linear-mean": lambda: MeanEncoder(3, out_dim=5),
}
ARRAYS = {
    "images": (lambda: ConvSetEncoder(2, width=8, out_dim=8), (2, 9, 9)),
    "sequences": (lambda: ConvSetEncoder(2, width=8, out_dim=8, dims=1), (2, 20)),
}
ALL = {**{k: (make, (3,)) for k, make in VECTORS.items()}, **ARRAYS}


def _make(name):
    make, shape = ALL[name]
    with isolated_rng(100):
        return make(), shape


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize(("dtype", "atol"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_a_code_depends_on_the_empirical_measure_alone(name, dtype, atol):
    encoder, shape = _make(name)
    x = torch.randn(4, 11, *shape, generator=generator(101), dtype=dtype)
    report = check_distributional_invariance(encoder.to(dtype), x, atol=atol)
    assert report.holds, report


@pytest.mark.parametrize("name", ALL)
def test_a_code_says_something_of_the_set(name):
    encoder, shape = _make(name)
    x = torch.randn(2, 11, *shape, generator=generator(101))
    z = encoder(x)
    assert z.shape == (2, encoder.out_dim)
    assert (z[0] - z[1]).abs().max() > 1e-3


def test_the_sum_is_invariant_to_order_and_not_to_duplication():
    with isolated_rng(100):
        encoder = SumSetEncoder(3, width=16, out_dim=8)
    report = check_distributional_invariance(encoder, torch.randn(4, 11, 3, generator=generator(101)))
    assert report.permutation <= 1e-4
    assert report.duplication > 0.1
    assert not report.holds


def test_the_sum_over_m_is_the_mean_for_sets_of_m():
    with isolated_rng(100):
        total = SumSetEncoder(3, scale=1 / 11, width=16, out_dim=8)
        mean = ResNetSetEncoder(3, width=16, out_dim=8)
    mean.load_state_dict(total.state_dict())
    x = torch.randn(4, 11, 3, generator=generator(101))
    torch.testing.assert_close(total(x), mean(x))


@pytest.mark.parametrize("name", ALL)
def test_a_set_of_one_point_has_a_code_and_gradients(name):
    encoder, shape = _make(name)
    x = torch.randn(2, 1, *shape, generator=generator(101), requires_grad=True)
    (encoder(x) * torch.arange(encoder.out_dim)).sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()
    assert x.grad.abs().sum() > 0


@pytest.mark.parametrize("name", ALL)
def test_padding_may_hold_anything_and_gets_no_gradient(name):
    encoder, shape = _make(name)
    x = torch.randn(2, 5, *shape, generator=generator(101))
    mask = torch.tensor([[True] * 3 + [False] * 2, [True] * 5])
    filled = x.clone()
    filled[0, 3:] = math.nan
    filled.requires_grad_()
    z = encoder(filled, mask)
    torch.testing.assert_close(z, encoder(x, mask))
    (z * torch.arange(encoder.out_dim)).sum().backward()
    assert filled.grad is not None
    assert filled.grad[0, 3:].abs().max() == 0
    assert filled.grad[0, :3].abs().max() > 0


def test_weights_of_masked_points_do_not_matter():
    encoder, _ = _make("resnet")
    x = torch.randn(2, 5, 3, generator=generator(101))
    mask = torch.tensor([[True] * 3 + [False] * 2] * 2)
    w = torch.rand(2, 5, generator=generator(102))
    other = torch.where(mask, w, 7.0)
    torch.testing.assert_close(encoder(x, mask, w), encoder(x, mask, other))


def test_the_scale_of_weights_does_not_matter():
    for name in VECTORS:
        encoder, _ = _make(name)
        x = torch.randn(2, 5, 3, generator=generator(101))
        w = torch.rand(2, 5, generator=generator(102))
        torch.testing.assert_close(encoder(x, None, w), encoder(x, None, 8 * w), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_codes_of_larger_sets_have_a_normal_limit_at_the_root_rate():
    with isolated_rng(100):
        encoder = ResNetSetEncoder(2, width=6, out_dim=4, blocks=1, layers=1)
    rng = generator(101)

    def codes(m: int) -> torch.Tensor:
        return torch.cat([encoder(torch.randn(250, m, 2, generator=rng)) for _ in range(8)])

    small, large = codes(256), codes(4096)
    ratio = float((4096 * large.var(0)).sum() / (256 * small.var(0)).sum())
    assert abs(ratio - 1) < 0.15
    # The bias is of order 1/m, far below the standard deviation of a code.
    error = ((small.var(0) + large.var(0)) / 2000).sqrt()
    assert ((small.mean(0) - large.mean(0)).abs() < 4 * error + 2 * small.std(0) / 256**0.5).all()


def test_encoding_in_pieces_is_exact_where_elements_do_not_hear_of_each_other():
    x = torch.randn(3, 23, 3, generator=generator(101))
    mask = torch.arange(23) < torch.tensor([[2], [11], [23]])
    w = torch.rand(3, 23, generator=generator(102)) + 0.1
    for encoder in (KernelMeanEncoder(3, out_dim=8, bandwidth=1.0), MeanEncoder(3), ResNetSetEncoder(3, blocks=0)):
        torch.testing.assert_close(encode_in_chunks(encoder, x, 5, mask, w), encoder(x, mask, w), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_encoding_in_pieces_tends_to_the_code_as_the_pieces_grow():
    encoder, _ = _make("resnet")
    x = torch.randn(8, 4096, 3, generator=generator(101))
    z = encoder(x)
    errors = [float((encode_in_chunks(encoder, x, c) - z).abs().mean()) for c in (16, 128, 1024)]
    assert errors[0] > errors[1] > errors[2]


def test_equal_empirical_measures_have_equal_kernel_means():
    encoder = KernelMeanEncoder(2, out_dim=64, bandwidth=0.7).double()
    x = torch.randn(1, 6, 2, generator=generator(101), dtype=torch.float64)
    torch.testing.assert_close(encoder(x), encoder(x.flip(1).repeat(1, 3, 1)), rtol=0, atol=1e-12)


def test_products_of_kernel_means_estimate_the_mean_of_the_kernel():
    rng = generator(101)
    x, y = torch.randn(1, 30, 2, generator=rng), torch.randn(1, 40, 2, generator=rng) + 0.5
    b, n = 1.3, 4096
    exact = float((-torch.cdist(x.double(), y.double()).square() / (2 * b**2)).exp().mean())
    encoder = KernelMeanEncoder(2, out_dim=2 * n, bandwidth=b, seed=102)
    zx, zy = encoder(x)[0].double(), encoder(y)[0].double()
    terms = zx[:n] * zy[:n] + zx[n:] * zy[n:]
    assert abs(float(terms.mean()) - exact) < 4 * float(terms.std()) / n**0.5


def test_the_median_bandwidth_follows_the_scale_of_the_data():
    x = torch.randn(4, 50, 3, generator=generator(101))
    one, ten = (KernelMeanEncoder(3, out_dim=16).fit(s * x) for s in (1, 10))
    torch.testing.assert_close(one(x), ten(10 * x), rtol=1e-4, atol=1e-5)


def test_principal_means_are_scikit_learns():
    from sklearn.decomposition import PCA

    points = torch.randn(60, 4, generator=generator(101)) @ torch.diag(torch.tensor([3.0, 2.0, 1.0, 0.5])) + 1
    z = MeanEncoder.principal(points, 2)(points.view(6, 10, 4))
    reference = torch.from_numpy(PCA(2).fit_transform(points.numpy())).float().view(6, 10, 2).mean(1)
    torch.testing.assert_close(z.abs(), reference.abs(), rtol=1e-3, atol=1e-4)


BAD = {
    "at least one element": lambda e: e(torch.zeros(2, 0, 3)),
    "finite": lambda e: e(torch.full((2, 4, 3), math.nan)),
    "(batch, elements, 3)": lambda e: e(torch.zeros(2, 4, 5)),
    "set 1 has no element": lambda e: e(torch.zeros(2, 2, 3), torch.tensor([[True, True], [False, False]])),
    "non-negative, got -1": lambda e: e(torch.zeros(1, 2, 3), None, torch.tensor([[2.0, -1.0]])),
    "weights of total 0": lambda e: e(torch.zeros(1, 2, 3), None, torch.zeros(1, 2)),
    "weights must be finite": lambda e: e(torch.zeros(1, 2, 3), None, torch.full((1, 2), math.inf)),
    "mask must have shape (1, 2)": lambda e: e(torch.zeros(1, 2, 3), torch.ones(1, 3, dtype=torch.bool)),
}


@pytest.mark.parametrize("message", BAD)
@pytest.mark.parametrize("name", VECTORS)
def test_bad_sets_are_refused(name, message):
    import re

    with pytest.raises(ValueError, match=re.escape(message)):
        BAD[message](_make(name)[0])


def test_a_list_of_sets_is_sent_to_pad_sets():
    with pytest.raises(TypeError, match="pad_sets"):
        _make("resnet")[0]([torch.zeros(2, 3), torch.zeros(4, 3)])


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match="'mean', 'median'"):
        GNNSetEncoder(3, pool="sum")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="must be even"):
        KernelMeanEncoder(3, out_dim=5)
    with pytest.raises(ValueError, match="call fit"):
        KernelMeanEncoder(3)(torch.zeros(1, 2, 3))
    with pytest.raises(ValueError, match="sets of one point"):
        KernelMeanEncoder(3).fit(torch.zeros(1, 1, 3))
    with pytest.raises(ValueError, match="median distance is 0"):
        KernelMeanEncoder(3).fit(torch.zeros(1, 5, 3))
