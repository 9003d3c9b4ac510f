from __future__ import annotations

import pytest
import torch

from holdfast.core.random import generator
from holdfast.metrics import affine_r2, mcc


def randn(*shape, seed=100):
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def test_an_invertible_affine_map_of_the_state_has_r2_one_and_no_map_of_the_code_changes_it():
    Z = randn(200, 3)
    h = randn(3, 3, seed=1)
    assert affine_r2(Z @ h + 7, Z) == pytest.approx(1, abs=1e-10)
    code = Z + randn(200, 3, seed=2)
    assert affine_r2(code @ h - 1, Z) == pytest.approx(affine_r2(code, Z), abs=1e-10)
    assert affine_r2(code, Z * torch.tensor([1.0, 5.0, 0.1])) == pytest.approx(affine_r2(code, Z), abs=1e-10)


def test_r2_of_one_number_is_the_squared_correlation():
    code, Z = randn(300, 1), randn(300, 1) + randn(300, 1, seed=1)
    r = float(torch.corrcoef(torch.cat([code, Z], 1).T)[0, 1])
    assert affine_r2(code, Z) == pytest.approx(r**2, abs=1e-12)
    assert mcc(code, Z) == pytest.approx(abs(r), abs=1e-12)


def test_mcc_forgets_order_sign_and_scale_but_sees_mixtures():
    Z = randn(2000, 2)
    assert mcc(Z.flip(1) * torch.tensor([-2.0, 0.1]), Z) == pytest.approx(1, abs=1e-10)
    turned = torch.stack([Z[:, 0] + Z[:, 1], Z[:, 0] - Z[:, 1]], 1)
    assert affine_r2(turned, Z) == pytest.approx(1, abs=1e-10)
    assert mcc(turned, Z) == pytest.approx(0.5**0.5, abs=0.05)


def test_bad_input_is_refused_with_the_reason():
    Z = randn(50, 2)
    with pytest.raises(ValueError, match="equally many rows"):
        affine_r2(Z, Z[:-1])
    with pytest.raises(ValueError, match="needs more rows"):
        affine_r2(Z[:3], Z[:3])
    with pytest.raises(ValueError, match="constant in column 1"):
        affine_r2(Z, Z * torch.tensor([1.0, 0.0]))
    with pytest.raises(ValueError, match="an entry of its own"):
        mcc(Z[:, :1], Z)
