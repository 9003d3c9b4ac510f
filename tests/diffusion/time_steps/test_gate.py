"""Bands that open with time."""

import pytest
import torch

from holdfast.diffusion.time_steps.gate import STAGES_512, TimeGate

EVERY = torch.arange(1000)


def gates():
    return [TimeGate(24, 8), TimeGate(10, 4, widths=[1, 2, 3, 4]), TimeGate(512, 64, stages=STAGES_512), TimeGate(5, 1)]


@pytest.mark.parametrize("gate", gates())
def test_open_is_past_and_current_and_all_is_open_at_the_end(gate):
    assert bool(gate.cumulative(torch.tensor([999])).all())
    assert torch.equal(gate.cumulative(EVERY), gate.past(EVERY) | gate.current(EVERY))
    assert not bool((gate.past(EVERY) & gate.current(EVERY)).any())


@pytest.mark.parametrize("gate", gates())
def test_bands_partition_the_code(gate):
    count = torch.zeros(gate.dim)
    for i in range(gate.bands):
        count[gate.subset(i)] += 1
        assert torch.equal(gate.mask([i]).nonzero().flatten(), torch.arange(gate.dim)[gate.subset(i)])
    assert torch.equal(count, torch.ones(gate.dim))


def test_band_of_a_time_is_its_share_of_the_steps():
    assert TimeGate(24, 8).band(torch.tensor([0, 124, 125, 999])).tolist() == [0, 0, 1, 7]
    assert TimeGate(24, 8).band(torch.tensor([124.5, 998.9])).tolist() == [0, 7]


def test_published_stages_sum_to_the_code_and_share_evenly():
    widths = TimeGate(512, 64, stages=STAGES_512).widths
    starts = [-(-i * 1000 // 64) for i in range(64)]
    assert sum(widths) == 512
    begin = 0
    for end, width in STAGES_512:
        own = [w for w, s in zip(widths, starts) if begin <= s < end]
        assert sum(own) == width
        assert set(own[:-1]) <= {width // len(own)}
        begin = end


def test_stopped_gradient_has_the_same_value_and_reaches_the_newest_band_alone():
    gate = TimeGate(24, 8)
    z = torch.randn(3, 24, generator=torch.Generator().manual_seed(0)).requires_grad_()
    t = torch.tensor([0, 300, 999])
    stopped = gate(z, t, "stop_grad")
    assert torch.equal(stopped, gate(z, t, "base"))
    (grad,) = torch.autograd.grad(stopped.sum(), z)
    assert torch.equal(grad != 0, gate.current(t))
    (grad,) = torch.autograd.grad(gate(z, t).sum(), z)
    assert torch.equal(grad != 0, gate.cumulative(t))


def test_bad_divisions_are_refused():
    with pytest.raises(ValueError, match="12 bands do not fit in 10 steps"):
        TimeGate(24, 12, steps=10)
    with pytest.raises(ValueError, match="band 0 would hold none of the 4 entries"):
        TimeGate(4, 8)
    assert TimeGate(4, 8, allow_empty=True).bands == 8
    with pytest.raises(ValueError, match="last at steps = 1000"):
        TimeGate(10, 4, stages=[(500, 5), (900, 5)])
    with pytest.raises(ValueError, match="sum to dim = 10, got 9"):
        TimeGate(10, 3, widths=[3, 3, 3])
    with pytest.raises(ValueError, match="each of the 3 bands, got 2"):
        TimeGate(10, 3, widths=[5, 5])
    with pytest.raises(ValueError, match="not both"):
        TimeGate(10, 2, widths=[5, 5], stages=[(1000, 10)])
    with pytest.raises(ValueError, match="band"):
        TimeGate(10, 2).mask([2])
    with pytest.raises(ValueError, match=r"\[0, 1000\)"):
        TimeGate(10, 2).band(torch.tensor([1000]))
    with pytest.raises(ValueError, match=r"\(batch, 10\)"):
        TimeGate(10, 2)(torch.zeros(2, 9), torch.tensor([0, 1]))
