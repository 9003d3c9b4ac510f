import math

import pytest
import torch

from holdfast.diffusion.masked.schedules import (
    CosineMask,
    GeometricMask,
    LinearMask,
    MaskSchedule,
    check_mask_schedule,
)

SCHEDULES = [LinearMask(), LinearMask(1e-3), CosineMask(), GeometricMask(), GeometricMask(0.1, 10.0)]


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_inverse_slope_and_ends(schedule):
    check_mask_schedule(schedule)
    t = torch.linspace(0, 1, 101, dtype=torch.float64)
    torch.testing.assert_close(schedule.alpha_inv(schedule.alpha(t)), t, rtol=0, atol=1e-9)
    inner = t[1:-1].requires_grad_()
    (slope,) = torch.autograd.grad(schedule.alpha(inner).sum(), inner)
    torch.testing.assert_close(schedule.dalpha(inner), slope)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_keeps_dtype_and_shape(schedule):
    t = torch.rand(2, 3, dtype=torch.float32)
    for f in (schedule.alpha, schedule.dalpha, schedule.alpha_inv):
        assert f(t).shape == t.shape
        assert f(t).dtype == t.dtype


class _Own(MaskSchedule):
    def __init__(self, f):
        self.f = f

    def alpha(self, t):
        return self.f(t)

    def dalpha(self, t):
        return self.f(t)

    def alpha_inv(self, a):
        return self.f(a)


@pytest.mark.parametrize(
    ("f", "words"),
    [
        (lambda t: 1 - t + 0.3 * torch.sin(4 * math.pi * t), "strictly decrease, but alpha is 1 at time 0"),
        (lambda t: 0.9 * (1 - t), "alpha\\(0\\) = 1"),
        (lambda t: 1 - 0.9 * t, "alpha\\(1\\) in \\[0, 1e-3\\], got 1 and 0.1"),
        (lambda t: (1 - 2 * t).clamp_min(0), "strictly decrease"),
    ],
)
def test_schedules_that_are_none_are_refused(f, words):
    with pytest.raises(ValueError, match=words):
        check_mask_schedule(_Own(f))


def test_constants_out_of_range_are_refused():
    with pytest.raises(ValueError, match="eps must be in"):
        LinearMask(0.1)
    with pytest.raises(ValueError, match="sigma_max must be in"):
        GeometricMask(1.0, 0.5)
    with pytest.raises(ValueError, match="at most 1e-3 stays visible"):
        GeometricMask(1e-3, 2.0)
    with pytest.raises(TypeError, match="without alpha, dalpha, alpha_inv"):
        check_mask_schedule("linear")  # pyright: ignore[reportArgumentType]
