import json

import numpy as np
import pytest
import torch

from holdfast.diffusion import (
    DiffusionModel,
    classifier_space,
    draw_samples,
    evaluate_generator,
    model_space,
    random_convolution_space,
    train_judge,
)
from holdfast.metrics import FeatureSpace

_PLANE = FeatureSpace("plane", lambda x: x.flatten(1))


@pytest.fixture(scope="module")
def rings():
    rng = np.random.default_rng(100)
    a = rng.uniform(0, 2 * np.pi, 1200)
    x = np.stack([np.cos(a), np.sin(a)], 1) + rng.normal(0, 0.05, (1200, 2))
    model = DiffusionModel(size="tiny", steps=400, batch_size=128, device="cpu", random_state=100).fit(x[:600])
    return model, model.scaling_.encode(x[:600]), model.scaling_.encode(x[600:])


def test_a_model_lies_between_no_learning_and_real_data(rings):
    model, training, reference = rings
    e = evaluate_generator(model, reference, _PLANE, training=training, steps=(1, 8, 20), seed=0)
    assert e.scores.n_real == e.real.n_real == e.trivial.n_generated == 300
    # On a ring, independent Gaussians have the right two moments: only the shape tells.
    assert e.real.density > 0.9 > e.trivial.density
    assert e.trivial.density < e.scores.density
    assert [s.calls for s in e.steps] == [1, 15, 39]
    assert e.best_steps in (1, 8, 20)
    assert e.scores.frechet == min(s.frechet for s in e.steps)
    assert len(e.neighbours) == len(e.nearest_share) == 10
    assert 0 <= e.copies <= 0.3
    assert "samples" not in e.to_dict()
    json.dumps(e.to_dict())


def test_a_generator_that_copies_is_found_out(rings):
    model, training, reference = rings

    class Copy(DiffusionModel):
        def draw(self, n, y=None, **options):
            return draw_samples(self.denoiser_, (2,), n, steps=1)._replace(x=training[:n] + 1e-4)

    copier = Copy()
    copier.__dict__.update(model.__dict__)
    e = evaluate_generator(copier, reference, _PLANE, training=training, steps=(1,))
    assert e.copies > 0.99
    assert e.neighbours == tuple(range(10))
    assert min(e.nearest_share) < 0.05


def test_bad_evaluations_are_refused(rings):
    model, _, reference = rings
    with pytest.raises(ValueError, match="at least 12 held-out real samples, got 5"):
        evaluate_generator(model, reference[:5], _PLANE)
    with pytest.raises(ValueError, match="n must be in"):
        evaluate_generator(model, reference, _PLANE, n=301)
    with pytest.raises(ValueError, match="steps must be in"):
        evaluate_generator(model, reference, _PLANE, steps=(0,))


def _stripes(n=60, seed=100):
    rng = np.random.default_rng(seed)
    x = torch.from_numpy(rng.normal(0, 0.2, (n, 1, 12, 12)).astype(np.float32))
    y = np.arange(n) % 2
    x[y == 1, :, ::2] += 0.8
    x[y == 0, :, :, ::2] += 0.8
    return x.clamp(-1, 1), y


def test_random_convolutions_depend_on_their_arguments_alone_and_tell_textures_apart():
    x, y = _stripes()
    a, b = random_convolution_space(1, 12), random_convolution_space(1, 12)
    z = a(x)
    assert torch.equal(z, b(x))
    assert not torch.equal(z, random_convolution_space(1, 12, seed=1)(x))
    assert (z.std(0) > 0).all()
    between = (z[y == 0].mean(0) - z[y == 1].mean(0)).norm()
    assert between > 3 * z[y == 0].std(0).norm()


def test_a_judge_and_its_file_and_a_diffusion_model_are_spaces(tmp_path):
    x, y = _stripes()
    judge = train_judge(x, y, steps=20, device="cpu")
    assert judge.score(((x + 1) * 127.5).round().byte().numpy(), y) == 1.0
    space, again = classifier_space(judge), model_space(judge.save(tmp_path / "judge.holdfast"))
    assert (space.name, again.name) == ("64 features of a classifier", "features of judge")
    assert torch.equal(space(x), again(x))
    model = DiffusionModel(size="tiny", steps=1, random_state=0, device="cpu").fit(((x + 1) / 2).numpy())
    own = model_space(model.save(tmp_path / "m.holdfast"))(x)
    torch.testing.assert_close(own.float(), torch.from_numpy(model.transform(((x + 1) / 2).numpy())), atol=1e-4, rtol=0)
    with pytest.raises(ValueError, match="there is no model at nowhere"):
        model_space("nowhere")
    with pytest.raises(ValueError, match="multiple of 4"):
        random_convolution_space(1, 8, features=10)
