import pytest
import torch

from holdfast.core.random import isolated_rng
from holdfast.diffusion.backbones.token_transformer import TokenTransformer
from holdfast.diffusion.masked import AncestralMaskedSampler, FirstHittingSampler, reads_time


def _net(**options):
    with isolated_rng(100):
        net = TokenTransformer(5, 8, width=16, depth=2, heads=2, **options)
        for p in net.parameters():
            torch.nn.init.normal_(p, std=0.2)
    return net.eval()


def _tokens(n=3, length=8):
    return torch.randint(0, 6, (n, length), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("options", [{}, {"rope": True}, {"time_input": True}], ids=repr)
def test_some_positions_are_the_same_as_all(options):
    net, x, t = _net(**options), _tokens(), torch.rand(3)
    places = torch.tensor([[1, 6], [0, 0], [7, 2]])
    with torch.no_grad():
        full = net(x, t)
        assert full.shape == (3, 8, 5)
        torch.testing.assert_close(net.at(x, t, places), full.gather(1, places[..., None].expand(-1, -1, 5)))


def test_time_matters_exactly_when_it_is_an_input():
    x = _tokens()
    for time_input in (False, True):
        net = _net(time_input=time_input)
        assert reads_time(net) == time_input
        same = torch.allclose(net(x, torch.zeros(3)), net(x, torch.ones(3)), atol=1e-6)
        assert same != time_input
    with pytest.raises(ValueError, match="reads the time"):
        net(x)


def test_every_position_reads_every_other():
    net, x = _net(), _tokens(1)
    moved = x.clone()
    moved[0, 7] = (moved[0, 7] + 1) % 6
    assert bool(((net(x) - net(moved)).abs().sum(-1) > 0).all())


def test_taps_and_early_exit():
    net, x = _net(), _tokens()
    h, taps = net.features(x, taps=(1,), stop_at=1)
    assert h is None
    full, both = net.features(x, taps=(1, 2))
    torch.testing.assert_close(taps[1], both[1])
    torch.testing.assert_close(net.norm(both[2]), full)


def test_samplers_use_it():
    net = _net()
    for sampler in (FirstHittingSampler(), AncestralMaskedSampler(4)):
        assert bool((sampler.sample(net, 2, 8, net.mask_id).x < 5).all())


def test_bad_input_is_refused():
    net = _net()
    with pytest.raises(ValueError, match=r"tokens must lie in \[0, 5\]"):
        net(torch.full((1, 8), 6))
    with pytest.raises(ValueError, match="at most 8"):
        net(torch.zeros(1, 9).long())
    with pytest.raises(ValueError, match="vocab must be in"):
        TokenTransformer(0, 8, 16, 2, 2)
