"""The denoising loss, and terms beside it."""

import pytest
import torch

from holdfast.core.random import isolated_rng
from holdfast.core.steps import StepInfo
from holdfast.diffusion import (
    CosinePath,
    DDPMSchedule,
    Denoiser,
    DiffusionObjective,
    DiT,
    LinearPath,
    Term,
    VPPath,
    train_diffusion,
)
from holdfast.diffusion.objective import denoising_target, draw_times, drop_labels
from holdfast.diffusion.paths import PREDICTIONS

X = torch.rand(32, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1


def make(**options):
    with isolated_rng(0):
        return Denoiser(DiT(1, 8, 4, 16, 2, 2, **options), LinearPath())


def info(step=0, seed=0):
    return StepInfo(step, 10, 0, torch.Generator().manual_seed(seed))


class Size(Term):
    """Mean square of a block's output; draws a number, as a term may."""

    def __init__(self, weight=1.0, tap=1, name="size"):
        super().__init__(name, weight, taps=(tap,))

    def forward(self, ctx):
        torch.rand(1, generator=ctx.info.generator)
        return ctx.output.taps[self.taps[0]].square().mean()


def test_uniform_times_fill_the_path_and_discrete_ones_are_whole():
    rng = torch.Generator().manual_seed(0)
    t = draw_times(LinearPath(), 20_000, "uniform", rng)
    assert abs(float(t.mean()) - 0.5) < 4 / 12**0.5 / 20_000**0.5
    steps = draw_times(DDPMSchedule(10), 2000, "uniform", rng)
    assert sorted(steps.unique().tolist()) == list(range(10))


@pytest.mark.parametrize("path", [LinearPath(), CosinePath()])
def test_lognormal_times_have_a_normal_log_ratio_of_noise_to_signal(path):
    t = draw_times(path, 20_000, "lognormal", torch.Generator().manual_seed(0)).double()
    c = path.coefficients(t)
    z = (c.sigma / c.alpha).log()
    assert abs(float(z.mean())) < 4 / 20_000**0.5
    assert abs(float(z.std()) - 1) < 4 / (2 * 20_000) ** 0.5
    with pytest.raises(ValueError, match="not on VPPath"):
        draw_times(VPPath(), 3, "lognormal", torch.Generator())


def test_labels_are_dropped_at_the_rate():
    y = torch.zeros(10_000, dtype=torch.long)
    gone = (drop_labels(y, 0.1, 7, torch.Generator().manual_seed(0)) == 7).float().mean()
    assert abs(float(gone) - 0.1) < 4 * (0.09 / 10_000) ** 0.5


@pytest.mark.parametrize("kind", PREDICTIONS)
def test_the_target_of_a_kind_converts_to_the_data(kind):
    path, t = LinearPath(), torch.full((32,), 0.6)
    eps = torch.randn(X.shape, generator=torch.Generator().manual_seed(1))
    target = denoising_target(path, X, eps, t, kind)
    torch.testing.assert_close(path.convert(target, path.noise(X, eps, t), t, kind, "data"), X, atol=1e-4, rtol=1e-4)


def test_a_fresh_network_says_zero_and_its_loss_is_the_target_squared():
    model = make()
    loss = DiffusionObjective(model)(model, {"x": X}, info())["loss"]
    rng = torch.Generator().manual_seed(0)
    t = draw_times(LinearPath(), 32, "uniform", rng)
    eps = torch.randn(X.shape, generator=rng)
    torch.testing.assert_close(loss, (eps - X).square().flatten(1).mean(1).mean())
    weighted = DiffusionObjective(model, weighting=lambda t: 2 * t)(model, {"x": X}, info())["loss"]
    torch.testing.assert_close(weighted, (2 * t * (eps - X).square().flatten(1).mean(1)).mean())


def test_a_term_of_weight_zero_changes_no_bit_and_weights_count():
    def run(terms):
        model = make()
        result = train_diffusion(model, X, terms=terms, steps=4, batch_size=8, lr=1e-2, ema=None, device="cpu", seed=3)
        return model.state_dict(), result

    plain, _ = run([])
    silent, _ = run([Size(0.0)])
    loud, _ = run([Size(1.0)])
    assert all(torch.equal(plain[k], silent[k]) for k in plain)
    assert any(not torch.equal(plain[k], loud[k]) for k in plain)
    model = make()
    parts = DiffusionObjective(model, [Size(0.25)])(model, {"x": X}, info())
    torch.testing.assert_close(parts["loss"], parts["denoising"] + 0.25 * parts["size"])


def test_weights_may_change_with_the_step_and_parts_are_logged_under_the_terms_name():
    class Two(Size):
        def forward(self, ctx):
            value = super().forward(ctx)
            return {"loss": value, "largest": ctx.output.taps[1].abs().max()}

    model = make()
    objective = DiffusionObjective(model, [Two(lambda step: float(step >= 5))])
    assert "size" not in objective(model, {"x": X}, info(step=4))
    late = objective(model, {"x": X}, info(step=5))
    assert {"size", "size/largest"} <= late.keys()


def test_a_warm_up_reads_clean_input_and_stops_early():
    seen = []

    class Spy(Size):
        def forward(self, ctx):
            seen.append((ctx.x_t, ctx.output.pred))
            return super().forward(ctx)

    model = make()
    DiffusionObjective(model, [Spy()], denoise=False, time=0.0, stop_at=1)(model, {"x": X}, info())
    torch.testing.assert_close(seen[0][0], X)
    assert seen[0][1] is None


def test_bad_objectives_and_data_are_refused():
    model = make()
    with pytest.raises(ValueError, match="at least one term"):
        DiffusionObjective(model, denoise=False)
    with pytest.raises(ValueError, match="needs denoise=False"):
        DiffusionObjective(model, stop_at=1)
    with pytest.raises(ValueError, match="different names"):
        DiffusionObjective(model, [Size(), Size()])
    with pytest.raises(ValueError, match="'size' reads block 3, the network has blocks 1 to 2"):
        DiffusionObjective(model, [Size(tap=3)])
    with pytest.raises(ValueError, match=r"\[0, 1\], got 2"):
        DiffusionObjective(model, time=2.0)
    with pytest.raises(ValueError, match="weight"):
        Size(-1.0)
    with pytest.raises(TypeError, match=r"floating-point tensor, got torch\.uint8"):
        train_diffusion(model, X.to(torch.uint8), steps=1)
    with pytest.raises(ValueError, match="x"):
        train_diffusion(model, X.masked_fill(X > 0.9, float("nan")), steps=1)
    with pytest.raises(ValueError, match="32"):
        train_diffusion(model, X, torch.zeros(31, dtype=torch.long), steps=1)
    with pytest.raises(ValueError, match="no labels"):
        train_diffusion(model, X, torch.zeros(32, dtype=torch.long), steps=1, device="cpu")
    with pytest.raises(ValueError, match="terms or an objective"):
        train_diffusion(model, X, terms=[Size()], objective=DiffusionObjective(model), steps=1)
