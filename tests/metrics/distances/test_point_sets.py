"""Laws that hold for every distance of point sets."""

import functools

import pytest
import torch

from holdfast.metrics import (
    energy_discrepancy,
    exact_transport,
    kernel_discrepancy,
    mean_squared_distance,
    median_distance,
    sinkhorn_divergence,
    sliced_transport,
)
from tests.metrics.distances.points import sets, weights

LINES = torch.nn.functional.normalize(
    torch.randn(3, 20, generator=torch.Generator().manual_seed(102), dtype=torch.float64), dim=0
)
sliced = functools.partial(sliced_transport, lines=LINES)
kernel = functools.partial(kernel_discrepancy, bandwidths=[0.5, 2.0])
sinkhorn = functools.partial(sinkhorn_divergence, eps=2.0, tolerance=1e-12)
DISTANCES = [
    pytest.param(f, id=name)
    for name, f in {
        "sliced": sliced,
        "kernel": kernel,
        "energy": energy_discrepancy,
        "sinkhorn": sinkhorn,
        "exact": exact_transport,
    }.items()
]
every = pytest.mark.parametrize("f", DISTANCES)


@every
def test_a_set_is_at_distance_zero_from_itself_and_from_its_order_changed(f):
    x, y = sets()
    order = torch.randperm(7, generator=torch.Generator().manual_seed(103))
    assert f(x, x[:, order]).abs().max() < 1e-8
    assert f(x, y).min() > 0.01


@every
def test_the_sides_may_be_exchanged(f):
    x, y = sets()
    torch.testing.assert_close(f(x, y), f(y, x), rtol=1e-8, atol=1e-10)


@every
def test_a_common_shift_changes_nothing(f):
    x, y = sets()
    torch.testing.assert_close(f(x + 5, y + 5), f(x, y), rtol=1e-8, atol=1e-9)


@every
def test_weights_that_are_whole_numbers_are_repeated_points(f):
    x, y = sets()
    counts = torch.tensor([1, 2, 1, 3, 1, 2, 1])
    repeated = x.repeat_interleave(counts, dim=1)
    torch.testing.assert_close(f(x, y, x_weights=counts.double()), f(repeated, y), rtol=1e-7, atol=1e-9)


@every
def test_what_a_mask_hides_changes_neither_value_nor_gradient(f):
    x, y = sets()
    padded = torch.cat([x, torch.full((2, 2, 3), torch.nan, dtype=x.dtype)], dim=1).requires_grad_()
    mask = torch.arange(9) < 7
    plain = x.clone().requires_grad_()
    found, expected = f(padded, y, x_mask=mask), f(plain, y)
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-10)
    found.sum().backward()
    expected.sum().backward()
    torch.testing.assert_close(padded.grad[:, :7], plain.grad, rtol=1e-6, atol=1e-8)
    assert not padded.grad[:, 7:].any()


@every
def test_padding_costs_no_digits_far_from_the_origin(f):
    x, y = sets(20, 20, dtype=torch.float32)
    x, y = x + 1000, y + 1000
    padded = torch.cat([x, torch.zeros(2, 180, 3)], dim=1)
    options = {"tolerance": 1e-5} if f is sinkhorn else {}
    found = f(padded, y, x_mask=torch.arange(200) < 20, **options)
    torch.testing.assert_close(found, f(x, y, **options), rtol=1e-3, atol=1e-5)


@every
def test_weights_under_a_mask_are_not_looked_at(f):
    x, y = sets()
    a = weights(7)
    hidden = torch.where(torch.arange(7) < 5, a, torch.nan)
    expected = f(x[:, :5], y, x_weights=a[:, :5])
    torch.testing.assert_close(f(x, y, x_weights=hidden, x_mask=torch.arange(7) < 5), expected)


@every
def test_a_batch_is_each_pair_alone(f):
    x, y = sets()
    torch.testing.assert_close(f(x, y), torch.stack([f(a, b) for a, b in zip(x, y)]), rtol=1e-9, atol=1e-11)


@every
def test_gradients_for_points_and_weights_are_those_of_the_value(f):
    x, y = sets(5, 4)
    a, b = weights(5), weights(4, seed=104)
    inputs = [t.clone().requires_grad_() for t in (x, y, a, b)]

    def value(x, y, a, b):
        return f(x, y, x_weights=a, y_weights=b)

    assert torch.autograd.gradcheck(value, inputs, eps=1e-6, atol=1e-5, rtol=1e-4)


@every
def test_single_precision_agrees_with_double(f):
    x, y = sets()
    options = {"tolerance": 1e-5} if f is sinkhorn else {}
    torch.testing.assert_close(f(x.float(), y.float(), **options).double(), f(x, y), rtol=2e-3, atol=1e-4)
    assert f(x.float(), y.float(), **options).dtype == torch.float32


@every
def test_input_that_makes_no_sense_is_refused(f):
    x, y = sets()
    with pytest.raises(TypeError, match=r"x must be a floating tensor, got torch\.int64"):
        f(x.long(), y)
    with pytest.raises(TypeError, match="y must be a floating tensor, got list"):
        f(x, [[0.0]])
    with pytest.raises(TypeError, match="one dtype"):
        f(x, y.float())
    with pytest.raises(ValueError, match=r"sets \(n, d\) and \(m, d\), or batches of them"):
        f(x, y[0])
    with pytest.raises(ValueError, match="equally many columns, got 3 and 2"):
        f(x, y[..., :2])
    with pytest.raises(ValueError, match="equally many sets, got 2 and 1"):
        f(x, y[:1])
    with pytest.raises(ValueError, match="at least one point"):
        f(x[:, :0], y)
    with pytest.raises(ValueError, match="x_weights must be finite and not negative"):
        f(x, y, x_weights=-weights(7))
    with pytest.raises(ValueError, match=r"x_weights must have one entry per point, \(2, 7\) or \(7,\)"):
        f(x, y, x_weights=weights(5))
    with pytest.raises(ValueError, match="set 0 has 0"):
        f(x, y, x_mask=torch.zeros(7, dtype=torch.bool))
    with pytest.raises(TypeError, match="y_mask must be boolean"):
        f(x, y, y_mask=torch.ones(5))


@pytest.mark.parametrize("f", [sliced, kernel], ids=["sliced", "kernel"])
def test_the_compiler_meets_no_break(f):
    x, y = sets(dtype=torch.float32)
    options = {"lines": LINES.float()} if f is sliced else {}
    compiled = torch.compile(functools.partial(f, **options), backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x, y), f(x, y, **options))


def test_the_global_random_state_is_left_alone():
    x, y = sets()
    before = torch.get_rng_state()
    one, same, other = (sliced_transport(x, y, generator=torch.Generator().manual_seed(s)) for s in (100, 100, 101))
    for f in (kernel, energy_discrepancy, sinkhorn, exact_transport):
        f(x, y)
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_mean_and_median_distance_are_those_of_all_pairs():
    x, y = sets()
    a, b = weights(7), weights(5, seed=104)
    square = torch.cdist(x, y).square()
    expected = torch.einsum("bi,bj,bij->b", a, b, square)
    torch.testing.assert_close(mean_squared_distance(x, y, x_weights=a, y_weights=b), expected)
    pool = torch.cat([x, y], 1)[0]
    pairs = torch.pdist(pool)
    torch.testing.assert_close(median_distance(x, y)[0], pairs.median())
    padded = torch.cat([x, torch.full((2, 1, 3), torch.nan, dtype=x.dtype)], 1)
    torch.testing.assert_close(median_distance(padded, x_mask=torch.arange(8) < 7), median_distance(x))
    with pytest.raises(ValueError, match="at least two points"):
        median_distance(x[:, :1])
