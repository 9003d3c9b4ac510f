from __future__ import annotations

import pytest
import torch
from torch import nn

from holdfast.core.random import generator
from holdfast.distribution.embedding import GDE, SetMixer, SetTable, train_embedding
from holdfast.distribution.generators.categorical import CategoricalGenerator
from holdfast.distribution.generators.ddpm import ConditionalDDPM
from holdfast.nn.sets import KernelMeanEncoder, MeanEncoder, ResNetSetEncoder


class _Recorder(nn.Module):
    """A generator that keeps what it is scored on."""

    code = 1

    def loss(self, x, z, generator=None):
        self.x, self.z = x, z
        return z.sum()

    def sample(self, z, n, generator=None):
        return z[:, None].expand(-1, n, -1)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return GDE(ResNetSetEncoder(2, width=16, out_dim=4), ConditionalDDPM(2, 4, width=16, steps=10))


def test_the_code_depends_on_the_empirical_measure_alone(model):
    x = torch.randn(3, 20, 2, generator=generator(100))
    z = model.embed(x)
    torch.testing.assert_close(model.embed(x[:, torch.randperm(20, generator=generator(1))]), z, atol=1e-5, rtol=0)
    torch.testing.assert_close(model.embed(x.repeat_interleave(3, 1)), z, atol=1e-5, rtol=0)
    counts = torch.tensor([2.0, 0.0] + [1.0] * 18).expand(3, 20)
    same = torch.cat([x[:, :1], x[:, :1], x[:, 2:]], 1)
    torch.testing.assert_close(model.embed(x, None, None, counts), model.embed(same), atol=1e-5, rtol=0)


def test_large_sets_are_encoded_in_pieces_to_nearly_the_same_code(model):
    x = torch.randn(2, 4000, 2, generator=generator(100))
    torch.testing.assert_close(model.embed(x, 1000), model.embed(x), atol=0.02, rtol=0)


def test_split_loss_scores_the_points_that_were_not_encoded():
    x = torch.arange(12.0).view(1, 12, 1)
    model = GDE(MeanEncoder(1), _Recorder(), split_loss=True)
    model.loss(x, generator=generator(100))
    scored = model.generator.x.flatten()
    assert len(scored.unique()) == 6
    assert float(model.generator.z) == pytest.approx((66 - float(scored.sum())) / 6)
    whole = GDE(MeanEncoder(1), _Recorder())
    whole.loss(x)
    torch.testing.assert_close(whole.generator.x, x)


def test_interpolation_is_a_line_and_distances_are_euclidean(model):
    a, b = torch.zeros(4), torch.tensor([3.0, 4.0, 0.0, 0.0])
    line = model.interpolate(a, b, 5)
    torch.testing.assert_close(line[[0, -1]], torch.stack([a, b]))
    torch.testing.assert_close(model.distance(line[:1], line)[0], torch.tensor([0.0, 1.25, 2.5, 3.75, 5.0]))


def test_a_head_learns_from_labelled_sets_only():
    sets = SetTable.of([torch.randn(20, 1) + (3.0 if i % 2 else -3.0) for i in range(40)])
    labels = torch.arange(40) % 2
    labels[10:] = -1
    torch.manual_seed(0)
    model = GDE(MeanEncoder(1), ConditionalDDPM(1, 1, width=16, steps=10)).with_head(2, 1.0)
    train_embedding(model, sets, steps=60, set_size=8, batch_size=40, lr=3e-2, labels=labels, device="cpu")
    predicted = model.head(model.embed(torch.stack([sets.set(i) for i in range(40)]))).argmax(1)
    assert bool((predicted == torch.arange(40) % 2).all())
    x = torch.randn(3, 5, 1)
    plain = float(model.loss(x, None, generator(1)).detach())
    assert float(model.loss(x, torch.full((3,), -1), generator(1)).detach()) == pytest.approx(plain)


def test_with_head_leaves_the_model_as_it_was(model):
    assert model.with_head(3).head is not None
    assert model.head is None


def test_a_plug_in_loss_through_a_code_of_one_number_finds_the_rate_of_counts():
    from holdfast.distribution.embedding import PoissonLaws

    rates = 0.5 + 3.5 * torch.rand(2000, generator=generator(100))
    torch.manual_seed(0)
    model = GDE(MeanEncoder(1, out_dim=1), CategoricalGenerator(16, 1, width=32))
    laws = PoissonLaws(rates)
    train_embedding(model, laws, steps=150, set_size=10, batch_size=128, lr=1e-2, device="cpu")
    x = laws.draw(torch.arange(2000), 10, generator(101))
    p = model.generator.probabilities(model.embed(x))[:, 0].detach()
    truth, naive = (-rates).exp(), (x == 0).float().mean((1, 2))
    assert float((p - truth).square().mean()) < 0.75 * float((naive - truth).square().mean())


def test_training_is_repeatable_and_leaves_fixed_encoders_as_they_are():
    sets = SetTable.of([torch.randn(30, 2, generator=generator(i)) for i in range(12)])
    found = []
    for _ in range(2):
        torch.manual_seed(0)
        model = GDE(KernelMeanEncoder(2, out_dim=4, bandwidth=1.0), ConditionalDDPM(2, 4, width=16, steps=10))
        before = model.encoder.frequencies.clone()
        train_embedding(model, sets, steps=4, set_size=8, batch_size=4, mixer=SetMixer(2), seed=100, device="cpu")
        torch.testing.assert_close(model.encoder.frequencies, before, rtol=0, atol=0)
        found.append(torch.cat([p.flatten() for p in model.parameters()]))
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=0)


def test_what_does_not_fit_is_refused(model):
    with pytest.raises(ValueError, match="codes of length 4, the generator takes 3"):
        GDE(ResNetSetEncoder(2, width=16, out_dim=4), ConditionalDDPM(2, 3))
    with pytest.raises(ValueError, match="split_loss needs sets of at least two points"):
        GDE(MeanEncoder(1), _Recorder(), split_loss=True).loss(torch.zeros(1, 1, 1))
    with pytest.raises(ValueError, match="labels need a head"):
        model.loss(torch.zeros(2, 3, 2), torch.zeros(2, dtype=torch.long))
    with pytest.raises(ValueError, match=r"sets must have shape \(batch, elements, 2\), got \(2, 3, 5\)"):
        model.embed(torch.zeros(2, 3, 5))
    with pytest.raises(ValueError, match="set 1 has no element: its mask is false everywhere"):
        model.embed(torch.zeros(2, 3, 2), None, torch.tensor([[True] * 3, [False] * 3]))
    with pytest.raises(ValueError, match="weights must be non-negative"):
        model.embed(torch.zeros(1, 2, 2), None, None, torch.tensor([[1.0, -1.0]]))
    with pytest.raises(TypeError, match="pad_sets makes a tensor and a mask of a list of sets"):
        model.encoder([torch.zeros(2, 2), torch.zeros(3, 2)])
    sets = SetTable.of([torch.zeros(3, 2)] * 4)
    with pytest.raises(ValueError, match="k = 5 sources cannot be taken from a batch of 4 sets"):
        train_embedding(model, sets, steps=1, mixer=SetMixer(5))
    with pytest.raises(ValueError, match=r"labels must have shape \(4,\)"):
        train_embedding(model, sets, steps=1, labels=torch.zeros(3, dtype=torch.long))
    with pytest.raises(ValueError, match="labels or a mixer, not both"):
        train_embedding(model, sets, steps=1, labels=torch.zeros(4, dtype=torch.long), mixer=SetMixer(2))
