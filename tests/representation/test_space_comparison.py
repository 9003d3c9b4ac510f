from __future__ import annotations

import pytest
import torch
from scipy.stats import ortho_group

from holdfast.representation.space_comparison import compare_spaces, rotate_onto


def _pair(n=200, d=10):
    z = torch.randn(n, d, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    q = torch.as_tensor(ortho_group.rvs(d, random_state=0))
    return z, 3.7 * z @ q


def test_a_rotation_is_undone_by_anchors_that_span():
    z, moved = _pair()
    back = rotate_onto(z, moved[:30], z[:30])
    torch.testing.assert_close(back, moved / moved.norm(dim=1, keepdim=True), atol=1e-10, rtol=0)


def test_relative_and_rotated_are_perfect_and_the_controls_are_chance():
    z, moved = _pair()
    rows = compare_spaces(z, moved, n_anchors=40)
    assert rows["relative"] == {"mrr": 1.0, "jaccard": 1.0, "cosine": pytest.approx(1.0, abs=1e-5)}
    assert rows["procrustes"]["mrr"] == 1.0
    chance = float((1 / torch.arange(1, 201)).sum()) / 200
    for name in ("absolute", "permuted"):
        assert rows[name]["mrr"] < 4 * chance


def test_bad_input_is_named():
    z, moved = _pair()
    with pytest.raises(ValueError, match="lengths differ: z1 has 200, z2 has 100"):
        compare_spaces(z, moved[:100], n_anchors=5)
    with pytest.raises(ValueError, match="pair one to one, got 3 and 2"):
        rotate_onto(z, moved[:2], z[:3])
    with pytest.raises(ValueError, match="z2 must be finite"):
        compare_spaces(z, moved * torch.nan, n_anchors=5)
