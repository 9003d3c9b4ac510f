import numpy as np
import pytest
import torch
from sklearn.base import clone
from torch import nn

from holdfast.core import load
from holdfast.diffusion import Denoiser, DiT, LinearPath
from holdfast.diffusion.align_option import as_encoder
from holdfast.diffusion.guidance import Guidance
from holdfast.diffusion.model import DiffusionModel
from holdfast.diffusion.model_features import time_of_noise
from holdfast.diffusion.networks import make_denoising_network
from holdfast.diffusion.paths import VPPath
from holdfast.nn import NeuralClassifier


def _images(n=60, side=8, seed=100):
    """Bright upper or bright lower halves, in noise."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 2
    x = rng.integers(0, 60, (n, side, side))
    x[y == 0, : side // 2] += 180
    x[y == 1, side // 2 :] += 180
    return x.astype(np.uint8), np.where(y == 0, "up", "down")


def _model(**options):
    return DiffusionModel(
        **{"size": "tiny", "steps": 2, "batch_size": 16, "device": "cpu", "random_state": 100} | options
    )


@pytest.fixture(scope="module")
def fitted():
    x, y = _images(200)
    return _model(steps=220, batch_size=32).fit(x, y), x, y


def test_samples_have_the_form_and_the_classes_of_the_data(fitted):
    model, *_ = fitted
    new = model.sample(24, np.repeat(["up", "down"], 12), steps=8, guidance=2.0, random_state=0)
    assert new.dtype == np.uint8
    assert new.shape == (24, 8, 8)
    bright = new[:, :4].mean((1, 2)) > new[:, 4:].mean((1, 2))
    assert bright[:12].mean() > 0.9
    assert bright[12:].mean() < 0.1


def test_labels_are_drawn_in_the_shares_of_training_where_none_are_given():
    x, y = _images(80)
    keep = np.r_[np.flatnonzero(y == "up"), np.flatnonzero(y == "down")[:10]]
    model = _model().fit(x[keep], y[keep])
    assert dict(zip(model.labels_.classes, model.labels_.counts)) == {"down": 10, "up": 40}
    codes = model.labels_.draw(5000, torch.Generator().manual_seed(0))
    assert float((codes == 0).float().mean()) == pytest.approx(0.2, abs=0.03)


def test_seed_fixes_fit_and_samples_and_batches_do_not_matter(fitted):
    model, x, y = fitted
    a = model.sample(5, "up", steps=3, random_state=7)
    np.testing.assert_array_equal(a, model.sample(5, "up", steps=3, random_state=7, batch_size=2))
    assert (a != model.sample(5, "up", steps=3, random_state=8)).any()
    one, two = (_model().fit(x, y).sample(2, steps=2, random_state=0) for _ in range(2))
    np.testing.assert_array_equal(one, two)


def test_guidance_costs_two_calls_and_scale_one_is_none(fitted):
    model, *_ = fitted
    plain = model.draw(2, "up", steps=4, sampler="euler", random_state=1)
    guided = model.draw(2, "up", steps=4, sampler="euler", random_state=1, guidance=2.0)
    part = model.draw(2, "up", steps=4, sampler="euler", random_state=1, guidance=Guidance(2.0, (0.0, 0.6)))
    assert (plain.calls, guided.calls, part.calls) == (4, 8, 6)
    same = model.draw(2, "up", steps=4, sampler="euler", random_state=1, guidance=1.0)
    assert torch.equal(plain.x, same.x)
    assert not torch.equal(plain.x, guided.x)


@pytest.mark.parametrize("sampler", ["euler", "euler_maruyama", "ddim", "ddpm"])
def test_every_sampler_draws(fitted, sampler):
    model, *_ = fitted
    assert model.sample(2, steps=3, sampler=sampler, random_state=0).shape == (2, 8, 8)


def test_file_gives_the_same_samples_features_and_choices(fitted, tmp_path):
    model, x, y = fitted
    again = load(model.save(tmp_path / "m.holdfast"))
    np.testing.assert_array_equal(
        again.sample(3, "up", steps=3, random_state=1), model.sample(3, "up", steps=3, random_state=1)
    )
    np.testing.assert_allclose(again.transform(x[:5]), model.transform(x[:5]), atol=1e-6)
    assert again.feature_choice_ == model.feature_choice_
    assert again.classes_.tolist() == ["down", "up"]
    assert again.score(x, y) == pytest.approx(model.score(x, y), rel=1e-6)
    assert again.get_params() == model.get_params()


def test_features_are_chosen_on_held_out_samples_and_depend_on_the_sample_alone(fitted):
    model, x, y = fitted
    choice = model.feature_choice_
    accuracy = np.array(choice.accuracy)
    assert accuracy.shape == (len(choice.blocks), len(choice.times))
    assert accuracy.max() == accuracy[choice.blocks.index(choice.block), choice.times.index(choice.time)] > 0.9
    z = model.transform(x)
    np.testing.assert_allclose(model.transform(x[50:53]), z[50:53], atol=1e-5)
    given = _model(feature_time=0.2, feature_block=3).fit(x, y).feature_choice_
    assert (given.time, given.block, given.accuracy) == (0.2, 3, ())


def test_default_features_lie_at_little_noise_two_thirds_of_the_way():
    choice = _model(network="dit").fit(_images()[0]).feature_choice_
    assert choice.block == round(0.65 * 4)
    assert choice.time / (1 - choice.time) == pytest.approx(0.1, rel=0.02)
    path = VPPath()
    c = path.coefficients(torch.tensor([time_of_noise(path, 0.5)]))
    assert float(c.sigma / c.alpha) == pytest.approx(0.5, rel=0.02)


def test_training_is_watched_about_ten_times_and_ends_with_the_last_step():
    seen = []
    _model(steps=25).fit(_images()[0], watch=lambda m, done: seen.append((done, m.sample(1, steps=1).shape)))
    assert [s for s, _ in seen] == [*range(2, 25, 2), 25]
    assert {shape for _, shape in seen} == {(1, 8, 8)}


def test_score_falls_when_data_are_not_those_of_training(fitted):
    model, x, y = fitted
    noise = np.random.default_rng(0).integers(0, 255, x.shape).astype(np.uint8)
    assert model.score(x, y) > model.score(noise, y)


@pytest.mark.parametrize("path", ["linear", "cosine", "vp", "ddpm"])
def test_other_paths_train_and_sample(path):
    model = _model(path=path, prediction="noise").fit(_images()[0])
    for sampler in ("ddim", "heun") if path == "ddpm" else ("ddim", "heun", "euler_maruyama"):
        x = model.draw(2, steps=3, sampler=sampler).x
        assert x.shape == (2, 1, 8, 8)
        assert torch.isfinite(x).all()


def test_layouts_ranges_and_rectangles_come_back_as_they_were_given():
    x = np.random.default_rng(0).random((12, 8, 12, 3)).astype(np.float32)
    model = _model(network="dit").fit(x)
    new = model.sample(2, steps=2)
    assert new.shape == (2, 8, 12, 3)
    assert new.dtype == np.float32
    assert 0 <= new.min() <= new.max() <= 1
    flat = np.random.default_rng(0).normal(5, 3, (50, 3))
    assert _model(steps=60).fit(flat).sample(4000, steps=3).mean() == pytest.approx(5, abs=1.5)


class _Own(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(1, 1, 3, padding=1)

    def forward(self, x, t, y=None, *, taps=(), stop_at=None):
        return self.layer(x)


def test_a_network_of_ones_own_is_copied_and_asked_for_at_loading(tmp_path):
    own = _Own()
    before = own.layer.weight.clone()
    model = _model(network=own).fit(_images()[0])
    assert torch.equal(own.layer.weight, before)
    with pytest.raises(ValueError, match="no numbered blocks"):
        model.transform(_images()[0])
    path = model.save(tmp_path / "m.holdfast")
    with pytest.raises(ValueError, match=r"your own network _Own; pass load\(path, backbone=...\)"):
        load(path)
    again = load(path, backbone=_Own())
    np.testing.assert_array_equal(again.sample(2, steps=2, random_state=0), model.sample(2, steps=2, random_state=0))


# alignment


def test_self_alignment_is_one_word():
    model = _model(network="dit", align="self").fit(_images()[0])
    assert "self-alignment" in model.history_[-1]


@pytest.mark.parametrize("network", ["dit", "unet"])
def test_an_encoder_is_one_argument_and_stays_as_it_was(network):
    encoder = nn.Conv2d(1, 6, 4, stride=4)
    before = encoder.weight.clone()
    model = _model(network=network, align=encoder, warmup=2, steps=3).fit(_images()[0])
    assert "alignment" in model.history_[-1]
    assert torch.equal(encoder.weight, before)
    assert encoder.weight.requires_grad
    assert not any("projector" in k for k in model.denoiser_.state_dict())


def test_targets_are_computed_once_where_they_are_used_again():
    calls = []

    class Encoder(nn.Module):
        def forward(self, x):
            calls.append(len(x))
            return x.mean((2, 3)) + 2

    x, _ = _images(40)
    _model(network="dit", align=Encoder(), steps=9, validation_fraction=0.0).fit(x)
    assert max(calls) == 40  # all at once, and never again
    assert sum(c > 2 for c in calls) == 1


def test_a_fitted_classifier_or_its_file_is_an_encoder(tmp_path):
    x, y = _images(40)
    classifier = NeuralClassifier(size="tiny", steps=3, random_state=0, device="cpu").fit(x[:, None], y)
    path = classifier.save(tmp_path / "c.holdfast")
    images = torch.from_numpy(x[:, None]).float() / 127.5 - 1
    a, b = as_encoder(classifier, images), as_encoder(str(path), images)
    assert torch.equal(a.encode(images), b.encode(images))
    assert "alignment" in _model(align=str(path)).fit(x).history_[-1]


def test_warm_up_trains_the_early_blocks_only_and_weight_zero_changes_nothing():
    x, _ = _images()
    encoder = nn.Conv2d(1, 6, 4, stride=4)
    plain = _model(network="dit", steps=3).fit(x).sample(2, steps=2, random_state=0)
    nothing = _model(network="dit", steps=3, align=encoder, align_weight=0.0).fit(x).sample(2, steps=2, random_state=0)
    np.testing.assert_array_equal(plain, nothing)
    warm = _model(network="dit", steps=3, align=encoder, warmup=3).fit(x).sample(2, steps=2, random_state=0)
    assert (plain != warm).any()


def test_parameters_are_stored_as_given_and_cloned():
    encoder = nn.Conv2d(1, 6, 4)
    model = DiffusionModel(align=encoder, steps=7)
    assert clone(model).get_params()["steps"] == 7
    assert model.align is encoder
    assert not hasattr(model, "denoiser_")


_X, _Y = _images(20)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: _model().fit(_X[:1]), "at least 2 samples to learn from, got 1"),
        (lambda: _model().fit(_X.astype(float)), r"dtype float64 must have values in \[0, 1\] or \[-1, 1\]"),
        (lambda: _model().fit(_X.astype(float), 5), r"values in \[0, 1\]"),
        (lambda: _model().fit(np.full((9, 8, 8), np.nan)), "must be finite"),
        (lambda: _model().fit(np.zeros((9, 8, 8), np.uint8)), "all pixels of all 9 images are 0"),
        (lambda: _model().fit(np.zeros((9, 5, 8, 8), np.uint8)), "1 to 4 channels"),
        (lambda: _model().fit(np.zeros((9, 2, 1, 8, 8))), r"got shape \(9, 2, 1, 8, 8\)"),
        (lambda: _model().fit(["a", "b"]), "must hold numbers"),
        (lambda: _model(network="unet").fit(_X[:, :7]), "square image whose side is a multiple of 4, got 7 x 8"),
        (lambda: _model(network="dit", patch=3).fit(_X), "patch must divide the image, got patch=3"),
        (
            lambda: _model(network="dit").fit(np.arange(9)[:, None, None] / 8 * np.ones((67, 61))),
            "no patch divides 67 x 61",
        ),
        (lambda: _model(network="mlp").fit(_X), "takes vectors"),
        (lambda: _model(network="unet").fit(np.random.rand(9, 3)), "takes images"),  # noqa: NPY002
        (lambda: _model(network="gan").fit(_X), "network must be one of"),
        (lambda: _model(size="huge").fit(_X), "size must be one of"),
        (lambda: _model(path="curved").fit(_X), "path must be one of"),
        (lambda: _model().fit(_X, _Y[:5]), "one label for each of 20 samples"),
        (lambda: _model().fit(_X, np.zeros(20)), "one class only"),
        (lambda: _model().fit(_X, np.random.rand(20)), "must hold class labels, got the number"),  # noqa: NPY002
        (lambda: _model().fit(_X, np.array([None, *_Y[1:]], dtype=object)), "must not be missing, but row 0"),
        (lambda: _model().fit(_X, np.arange(20)), "20 different labels for 20 samples"),
        (lambda: _model(warmup=5).fit(_X), "give align=encoder"),
        (lambda: _model(align="self", warmup=5).fit(_X), "give align=encoder"),
        (lambda: _model(align="slef").fit(_X), "there is nothing at 'slef'"),
        (lambda: _model(align=3).fit(_X), "got int"),
        (lambda: _model(align=nn.Conv2d(3, 4, 2)).fit(_X), "cannot read images of shape"),
        (lambda: _model(align=nn.Conv2d(1, 4, 4, 4), align_block=99).fit(_X), "align_block must be in"),
        (lambda: _model(align="self").fit(np.random.rand(9, 3)), "alignment is for images"),  # noqa: NPY002
        (lambda: _model(align="self", network=_Own()).fit(_X), "has none"),
        (lambda: _model(feature_block=99).fit(_X), "feature_block must be in"),
        (lambda: _model(class_dropout=1.0).fit(_X), "class_dropout must be in"),
        (lambda: _model(value_range=(0, 100)).fit(_X), r"lie in value_range \[0, 100\]"),
        (lambda: _model().sample(), "not fitted"),
    ],
)
def test_bad_input_to_fit_is_refused(call, match):
    with pytest.raises((ValueError, TypeError), match=match):
        call()


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda m, x: m.sample(0), "n must be in"),
        (lambda m, x: m.sample(2, "left"), "'left' is no class of this model; it has down, up"),
        (lambda m, x: m.sample(2, ["up"]), "one for each of 2 samples"),
        (lambda m, x: m.sample(2, guidance=-1), "guidance must be in"),
        (lambda m, x: m.sample(2, sampler="magic"), "sampler must be one of"),
        (lambda m, x: m.sample(2, steps=0), "steps must be in"),
        (lambda m, x: m.transform(x[:, :4]), r"images of shape \(8, 8\) as in training, got shape \(4, 8\)"),
        (lambda m, x: m.transform(x / 255), r"values in \[0, 255\] as in training, got float64 values from"),
    ],
)
def test_bad_input_after_fit_is_refused(fitted, call, match):
    with pytest.raises((ValueError, TypeError), match=match):
        call(fitted[0], fitted[1])


def test_guidance_needs_labels_and_dropout():
    x, y = _images(20)
    with pytest.raises(ValueError, match="guidance needs a class-conditional model"):
        _model().fit(x).sample(2, guidance=2.0)
    with pytest.raises(ValueError, match="fitted without labels"):
        _model().fit(x).sample(2, "up")
    with pytest.raises(ValueError, match="class_dropout > 0"):
        _model(class_dropout=0.0).fit(x, y).sample(2, guidance=2.0)


def test_mlp_denoiser_is_zero_and_the_identity_before_training():
    net = make_denoising_network((5,), size="tiny", num_classes=3)
    x, y = torch.randn(4, 5), torch.tensor([0, 1, 2, 3])
    out = net(x, torch.rand(4), y, taps=(1, 2))
    assert not out.pred.any()
    assert torch.equal(out.taps[1], out.taps[2])
    assert torch.equal(out.taps[2], net.embed(x))
    stopped = net(x, torch.rand(4), y, taps=(1,), stop_at=1)
    assert stopped.pred is None
    for bad in ((x[:, :4], y), (x, None)):
        with pytest.raises(ValueError, match=r"must have shape|needs labels"):
            net(bad[0], torch.rand(4), bad[1])


def test_auto_takes_the_network_that_fits():
    names = {(1, 28, 28): "UNet", (1, 30, 20): "DiT", (7,): "DenoisingMLP"}
    for shape, name in names.items():
        assert type(make_denoising_network(shape, size="tiny")).__name__ == name
    net = make_denoising_network((1, 28, 28), name="dit", size="tiny", num_classes=2)
    assert isinstance(net, DiT)
    assert net.grid == (7, 7)
    assert Denoiser(net, LinearPath()).null_class == 2
