"""A network with its path and its kind of prediction."""

import pytest
import torch
from torch import nn

from holdfast.diffusion import Denoiser, DiT, LinearPath, Output
from holdfast.diffusion.denoiser import as_times
from holdfast.diffusion.oracles.gaussian import GaussianOracle
from holdfast.diffusion.paths import PREDICTIONS


class Says(nn.Module):
    """Returns what the exact oracle says of one kind."""

    def __init__(self, oracle, kind):
        super().__init__()
        self.oracle, self.kind = oracle, kind

    def forward(self, x, t):
        return self.oracle.predict(x, t, target=self.kind)


@pytest.mark.parametrize("kind", PREDICTIONS)
def test_whatever_a_network_predicts_all_targets_are_the_same(kind):
    oracle = GaussianOracle(torch.tensor([1.0, -1.0]), torch.tensor([[1.0, 0.5], [0.5, 2.0]]), LinearPath())
    model = Denoiser(Says(oracle, kind), LinearPath(), kind)
    x = torch.randn(5, 2, generator=torch.Generator().manual_seed(0))
    for target in PREDICTIONS:
        torch.testing.assert_close(
            model.predict(x, 0.4, target=target), oracle.predict(x, 0.4, target=target), atol=1e-4, rtol=1e-4
        )


def test_a_learned_variance_is_left_out_of_the_prediction():
    x = torch.randn(2, 1, 8, 8)
    model = Denoiser(DiT(1, 8, patch=4, width=16, depth=1, heads=2, learn_sigma=True), LinearPath())
    assert model(x, 0.5).pred.shape == (2, 2, 8, 8)
    assert model.predict(x, 0.5).shape == x.shape


def test_an_early_exit_has_no_prediction():
    model = Denoiser(DiT(1, 8, patch=4, width=16, depth=2, heads=2), LinearPath())
    out = model(torch.zeros(1, 1, 8, 8), 0.5, taps=(1,), stop_at=1)
    assert out.pred is None
    with pytest.raises(ValueError, match="stopped early"):
        out.like(torch.zeros(1, 1, 8, 8))


def test_the_null_class_exists_only_where_labels_were_dropped():
    def net(**options):
        return Denoiser(DiT(1, 8, patch=4, width=16, depth=1, heads=2, **options), LinearPath())

    assert net().null_class is None
    assert net(num_classes=3).null_class == 3
    assert net(num_classes=3, class_dropout=0.0).null_class is None


def test_times_are_numbers_or_one_per_sample():
    x = torch.zeros(3, 2)
    assert as_times(0.5, x).tolist() == [0.5] * 3
    assert as_times(torch.tensor(0.5), x).tolist() == [0.5] * 3
    t = torch.rand(3)
    assert as_times(t, x) is t
    with pytest.raises(ValueError, match=r"shape \(3,\), got \(2,\)"):
        as_times(torch.rand(2), x)


def test_bad_models_are_refused():
    with pytest.raises(TypeError, match=r"path must be a holdfast\.diffusion\.Path, got str"):
        Denoiser(nn.Identity(), "linear")
    with pytest.raises(ValueError, match="'speed'"):
        Denoiser(nn.Identity(), LinearPath(), "speed")
    model = Denoiser(Says(None, "data"), LinearPath())
    with pytest.raises(ValueError, match="one per sample"):
        model.predict(torch.zeros(2, 2), torch.zeros(3))
    assert Output(None, {}).taps == {}
