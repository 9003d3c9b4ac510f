"""A direction of few entries, found by probabilistic masks."""

import pytest
import torch

from holdfast.diffusion.time_steps.sparse_direction import SparseDirection, project_mass


def test_projection_is_the_nearest_point_of_the_box_under_the_mass():
    s = torch.randn(50, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    p = project_mass(s, 2.5)
    assert bool((p >= 0).all() & (p <= 1).all())
    assert bool((p.sum(1) <= 2.5 + 1e-9).all())
    # Optimality: moving towards any other feasible point does not come nearer.
    q = project_mass(torch.randn(50, 12, generator=torch.Generator().manual_seed(1), dtype=torch.float64), 2.5)
    assert bool((((s - p) * (q - p)).sum(1) <= 1e-8).all())
    inside = torch.full((1, 4), 0.1)
    assert torch.equal(project_mass(inside, 1.0), inside)


def test_density_falls_as_a_cube_between_a_tenth_and_four_tenths():
    d = SparseDirection(100, support=10)
    assert [round(d.density(p), 6) for p in (0.0, 0.1, 0.25, 0.4, 1.0)] == [1.0, 1.0, round(0.1 + 0.9 / 8, 6), 0.1, 0.1]


def test_the_entries_that_tell_are_found_and_movement_is_along_them_alone():
    rng = torch.Generator().manual_seed(0)
    z = 3 * torch.randn(500, 40, generator=rng) + 1
    y = torch.stack([z[:, 3] - z[:, 8] > 0, z[:, 20] > 1], 1)
    d = SparseDirection(40, support=2, attributes=2)
    d.fit(z, y, steps=400)
    assert {3, 8} == set(d.mask()[0].nonzero().flatten().tolist())
    assert 20 in d.mask()[1].nonzero().flatten().tolist()
    assert float(((d(z) > 0) == y).float().mean()) > 0.95
    moved = d.move(z, 2.0, 0) - z
    assert set(moved.abs().sum(0).nonzero().flatten().tolist()) <= {3, 8}
    torch.testing.assert_close(moved.norm(dim=1), torch.full((500,), 2.0))
    assert bool((d(d.move(z, 5.0, 0))[:, 0] > d(z)[:, 0]).all())


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="support"):
        SparseDirection(8, support=9)
    d = SparseDirection(8, support=2)
    with pytest.raises(ValueError, match=r"shape \(n, 8\)"):
        d.fit(torch.zeros(4, 7), torch.zeros(4))
    with pytest.raises(ValueError, match=r"shape \(4, 1\)"):
        d.fit(torch.zeros(4, 8), torch.zeros(5))
    with pytest.raises(ValueError, match="0 or 1"):
        d.fit(torch.zeros(4, 8), torch.full((4,), 2.0))
