"""Which block of a code holds which factor."""

import pytest
import torch

from holdfast.metrics import band_centroid, dci, mig, modularity, variance_share


def factors(n=600, seed=0):
    rng = torch.Generator().manual_seed(seed)
    return torch.stack([torch.randint(2, (n,), generator=rng), torch.randint(3, (n,), generator=rng)], 1)


def clean(seed=0):
    f = factors(seed=seed)
    return f, f.float() + 0.01 * torch.randn(f.shape, generator=torch.Generator().manual_seed(1))


BLOCKS = [slice(0, 1), [1]]


def test_share_is_one_where_a_factor_is_and_zero_elsewhere():
    f, z = clean()
    share = variance_share(z, f, BLOCKS)
    torch.testing.assert_close(share, torch.eye(2, dtype=torch.float64), atol=0.02, rtol=0)


def test_share_does_not_depend_on_scale_and_place_but_is_weighted_by_variance_within_a_block():
    f, z = clean()
    torch.testing.assert_close(variance_share(7 * z - 3, f, BLOCKS), variance_share(z, f, BLOCKS))
    both = variance_share(z * torch.tensor([10.0, 1.0]), f, [slice(0, 2)])
    var = (z * torch.tensor([10.0, 1.0])).var(0, unbiased=False)
    torch.testing.assert_close(both[0, 0], (var[0] / var.sum()).double(), atol=0.01, rtol=0)


def test_a_block_without_variance_has_no_share():
    f, z = clean()
    z[:, 1] = 4.0
    assert variance_share(z, f, BLOCKS)[:, 1].tolist() == [0, 0]


def test_centroid_is_the_weighted_mean_band():
    share = torch.tensor([[0.0, 1.0, 1.0], [2.0, 0.0, 0.0]])
    assert band_centroid(share).tolist() == [1.5, 0.0]
    with pytest.raises(ValueError, match="above zero"):
        band_centroid(torch.zeros(2, 3))


def test_a_probe_reads_a_factor_from_its_block_and_guesses_elsewhere():
    (f, z), (f_test, z_test) = clean(), clean(seed=5)
    for score in (modularity(z, f, BLOCKS), modularity(z, f, BLOCKS, z_test=z_test, factors_test=f_test)):
        assert float(score.diagonal().min()) > 0.99
        assert float(score[0, 1]) < 0.6
        assert float(score[1, 0]) < 0.45


def test_dci_and_gap_are_high_for_axes_and_low_for_a_rotation():
    f, z = clean()
    turn = torch.tensor([[0.6, -0.8], [0.8, 0.6]])
    z = (z - z.mean(0)) / z.std(0)
    straight, turned = dci(z, f, trees=10), dci(z @ turn, f, trees=10)
    assert straight.disentanglement > 0.95
    assert straight.completeness > 0.95
    assert turned.disentanglement < 0.6
    torch.testing.assert_close(straight.importance.sum(0), torch.ones(2, dtype=torch.float64))
    assert mig(z, f) > 0.9 > 0.3 > mig(z @ turn, f)


def test_bad_input_is_refused():
    f, z = clean()
    with pytest.raises(ValueError, match="one row of factors for each of the 600 codes"):
        variance_share(z, f[:10], BLOCKS)
    with pytest.raises(ValueError, match="factor 1 has one value only"):
        variance_share(z, torch.stack([f[:, 0], torch.zeros(600, dtype=torch.long)], 1), BLOCKS)
    with pytest.raises(ValueError, match="band 1 is empty"):
        variance_share(z, f, [slice(0, 1), slice(2, 2)])
    with pytest.raises(ValueError, match=r"entries in \[0, 2\)"):
        variance_share(z, f, [[2]])
    with pytest.raises(ValueError, match="together"):
        modularity(z, f, BLOCKS, z_test=z)
    with pytest.raises(ValueError, match="code has one"):
        mig(z[:, :1], f)
