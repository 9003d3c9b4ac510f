from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from holdfast.nn.network import Network
from holdfast.representation.anchors import AnchorSet
from holdfast.representation.relative import relative_projection
from holdfast.representation.relative_encoder import RelativeEncoder
from holdfast.representation.stitching import stitch


def _randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _encoder(d_in=6, d_out=4, *, batch_norm=False, dropout=0.0):
    middle = [nn.BatchNorm1d(16)] if batch_norm else []
    return nn.Sequential(nn.Linear(d_in, 16), *middle, nn.ReLU(), nn.Dropout(dropout), nn.Linear(16, d_out))


def test_forward_is_the_normalised_projection_on_its_own_anchor_embeddings():
    e, x, a = _encoder(), _randn(7, 6), _randn(5, 6, seed=1)
    raw = RelativeEncoder(e, a, normalization="none")
    torch.testing.assert_close(raw(x), relative_projection(e(x), e(a)))
    normed = RelativeEncoder(e, a)(x)
    torch.testing.assert_close(normed, nn.functional.layer_norm(raw(x), (5,)))
    torch.testing.assert_close(RelativeEncoder(e, a, normalization="l2")(x).norm(dim=1), torch.ones(7))


def test_no_gradient_flows_through_the_anchors_unless_asked():
    e = _encoder()
    x, a, target = _randn(7, 6), _randn(5, 6, seed=1), _randn(7, 5, seed=2)

    def gradient(anchor_grad):
        e.zero_grad()
        (RelativeEncoder(e, a, anchor_grad=anchor_grad)(x) * target).sum().backward()
        return torch.cat([p.grad.flatten() for p in e.parameters()])

    stopped, full = gradient(False), gradient(True)
    e.zero_grad()
    r = relative_projection(e(x), e(a).detach(), eps=1e-8)
    (nn.functional.layer_norm(r, (5,)) * target).sum().backward()
    expected = torch.cat([p.grad.flatten() for p in e.parameters()])
    torch.testing.assert_close(stopped, expected)
    assert stopped.abs().sum() > 0
    assert (full - stopped).abs().max() > 1e-3


def _counting(encoder):
    calls = []
    encoder.register_forward_pre_hook(lambda m, args: calls.append(len(args[0])))
    return calls


def test_evaluation_embeds_the_anchors_once_until_a_weight_changes():
    r = RelativeEncoder(_encoder(), _randn(5, 6, seed=1)).eval()
    calls, x = _counting(r.encoder), _randn(7, 6)
    with torch.no_grad():
        first = r(x)
        r(x)
        assert calls == [7, 5, 7]
        r.encoder[0].weight.add_(1.0)
        assert not torch.allclose(r(x), first)
        assert calls.count(5) == 2
        torch.testing.assert_close(r.anchor_embeddings(), r.encoder(r.anchor_inputs))


@pytest.mark.parametrize(
    "change",
    [
        lambda r: r.train().eval(),
        lambda r: r.load_state_dict({k: v.clone() for k, v in r.state_dict().items()}),
        lambda r: r.to(torch.float64).to(torch.float32),
        lambda r: nn.Sequential(r).load_state_dict(nn.Sequential(r).state_dict()),
    ],
    ids=["train", "load_state_dict", "move", "load inside a parent"],
)
def test_the_cache_is_dropped(change):
    r = RelativeEncoder(_encoder(), _randn(5, 6, seed=1)).eval()
    with torch.no_grad():
        r(_randn(2, 6))
        calls = _counting(r.encoder)
        change(r)
        r(_randn(2, 6))
    assert calls.count(5) == 1


def test_step_refresh_and_training_embed_the_anchors_every_time():
    for r in (
        RelativeEncoder(_encoder(), _randn(5, 6, seed=1), refresh="step").eval(),
        RelativeEncoder(_encoder(), _randn(5, 6, seed=1)).train(),
    ):
        calls = _counting(r.encoder)
        r(_randn(7, 6))
        r(_randn(7, 6))
        assert calls == [7, 5, 7, 5]


def test_a_cache_made_in_inference_mode_serves_training_code_later():
    r = RelativeEncoder(_encoder(), _randn(5, 6, seed=1)).eval()
    with torch.inference_mode():
        r(_randn(2, 6))
    r(_randn(2, 6)).sum().backward()
    assert r.encoder[0].weight.grad is not None


def test_anchors_leave_batch_statistics_alone_and_skip_dropout():
    r = RelativeEncoder(_encoder(batch_norm=True, dropout=0.5), _randn(5, 6, seed=1)).train()
    plain = copy.deepcopy(r.encoder)
    x = _randn(7, 6)
    r(x)
    plain(x)
    torch.testing.assert_close(r.encoder[1].running_mean, plain[1].running_mean)
    assert int(r.encoder[1].num_batches_tracked) == 1
    torch.testing.assert_close(r.anchor_embeddings(), r.anchor_embeddings())
    assert all(m.training for m in r.modules())


def test_tuple_inputs_are_carried_in_the_state():
    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(3, 4)

        def forward(self, x):
            values, mask = x
            return (self.linear(values) * mask[..., None]).sum(1)

    sets = (_randn(5, 2, 3), torch.ones(5, 2, dtype=torch.bool))
    r = RelativeEncoder(Masked(), sets)
    assert r.out_dim == 5
    other = RelativeEncoder(Masked(), tuple(torch.zeros_like(t) for t in sets))
    other.load_state_dict(r.state_dict())
    assert other.contract == r.contract
    torch.testing.assert_close(other.eval()(sets), r.eval()(sets))


def _model(anchors, d, seed):
    torch.manual_seed(seed)
    return Network(RelativeEncoder(_encoder(d_out=d), anchors), nn.Linear(len(anchors), 3)).eval()


def test_stitching_a_model_to_its_own_head_changes_no_bit():
    a, x = _randn(5, 6, seed=1), _randn(7, 6)
    model = _model(a, 4, 0)
    assert torch.equal(stitch(model, model)(x), model(x))
    assert torch.equal(stitch(model.encoder, model)(x), model(x))


def test_a_rotated_and_scaled_twin_can_be_stitched_exactly():
    a, x = _randn(5, 6, seed=1), _randn(7, 6)
    model = _model(a, 4, 0)
    twin = copy.deepcopy(model)
    q = torch.linalg.qr(_randn(4, 4, seed=3)).Q
    last = twin.encoder.encoder[-1]
    with torch.no_grad():
        last.weight.copy_(3.7 * q @ last.weight)
        last.bias.copy_(3.7 * q @ last.bias)
    torch.testing.assert_close(stitch(twin, model)(x), model(x), atol=1e-5, rtol=1e-5)


def test_stitching_uses_the_normalisation_of_the_head():
    a, x = _randn(5, 6, seed=1), _randn(7, 6)
    i, j = _model(a, 4, 0), _model(a, 9, 1)
    with torch.no_grad():
        j.encoder.normalize.weight.fill_(2.0)
    expected = j.head(j.encoder.normalize(i.encoder.relative(x)))
    torch.testing.assert_close(stitch(i, j)(x), expected)
    torch.testing.assert_close(stitch(stitch(i, j), j)(x), expected)


def test_other_anchors_are_refused_with_both_hashes_or_numbers():
    i = _model(_randn(5, 6, seed=1), 4, 0)
    j, k = _model(_randn(5, 6, seed=2), 4, 0), _model(_randn(8, 6, seed=1), 4, 0)
    with pytest.raises(ValueError, match=r"encoder's anchors and the head's anchors .* digests are") as error:
        stitch(i, j)
    assert i.encoder.contract.digest[:16] in str(error.value)
    assert j.encoder.contract.digest[:16] in str(error.value)
    with pytest.raises(ValueError, match="of size 5 and 8"):
        stitch(i, k)
    with pytest.raises(TypeError, match="head must be a RelativeEncoder or a network on top of one, got Network"):
        stitch(i, Network(nn.Identity(), nn.Identity()))


def test_parallel_anchors_of_two_domains_can_be_stitched():
    here = AnchorSet(torch.arange(5), _randn(5, 6, seed=1))
    there = here.parallel(torch.arange(5), _randn(5, 9, seed=2))
    i = Network(RelativeEncoder(_encoder(6), here), nn.Linear(5, 3))
    j = Network(RelativeEncoder(_encoder(9), there), nn.Linear(5, 3))
    assert stitch(i, j)(_randn(2, 6)).shape == (2, 3)
    assert stitch(j, i)(_randn(2, 9)).shape == (2, 3)


def test_anchors_without_inputs_are_refused():
    with pytest.raises(ValueError, match=r"take them from the data with anchors.of\(x\)"):
        RelativeEncoder(_encoder(), AnchorSet(torch.arange(3)))
    with pytest.raises(ValueError, match="at least one anchor"):
        RelativeEncoder(_encoder(), torch.empty(0, 6))
    with pytest.raises(ValueError, match="normalization must be one of"):
        RelativeEncoder(_encoder(), torch.zeros(2, 6), normalization="batch")
