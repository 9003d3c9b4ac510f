from __future__ import annotations

import pytest
import torch

from holdfast.core.random import isolated_rng
from holdfast.diffusion import Denoiser, DiffusionObjective, DiT, LinearPath, SelfAlignmentLoss, train_diffusion
from holdfast.diffusion.token_times import TokenTimeGroups, pixel_times

X = torch.rand(32, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1


def make() -> Denoiser:
    with isolated_rng(0):
        model = Denoiser(DiT(1, 8, 2, 16, 2, 2), LinearPath())
        for p in model.parameters():
            p.data += 0.1 * torch.randn_like(p)
    return model.eval()


def test_one_time_for_all_tokens_is_a_time_per_sample():
    model, t = make(), torch.rand(32)
    many = t[:, None].expand(-1, 16)
    torch.testing.assert_close(model(X, many).pred, model(X, t).pred)
    torch.testing.assert_close(model.path.noise(X, 1 - X, pixel_times(many, (4, 4), 2)), model.path.noise(X, 1 - X, t))


def test_separated_groups_do_not_see_each_other():
    model, t = make(), torch.rand(32)
    groups = TokenTimeGroups(0.25).draw(32, 16, torch.Generator().manual_seed(1))
    outside = pixel_times(groups.float(), (4, 4), 2) == 1
    changed = torch.where(outside, torch.randn(X.shape), X)
    apart = [model(x, t, groups=groups).pred for x in (X, changed)]
    torch.testing.assert_close(apart[0][~outside], apart[1][~outside])
    together = [model(x, t).pred for x in (X, changed)]
    assert not torch.allclose(together[0][~outside], together[1][~outside])


def test_groups_are_of_the_size_asked_for_and_uniform_over_places():
    groups = TokenTimeGroups(0.25).draw(20_000, 16, torch.Generator().manual_seed(0))
    assert (groups.sum(dim=1) == 4).all()
    share = groups.float().mean(dim=0)
    assert (share - 0.25).abs().max() < 4 * (0.25 * 0.75 / 20_000) ** 0.5


def test_training_with_two_times_and_self_alignment_runs_and_differs():
    runs = []
    for groups in (None, TokenTimeGroups(0.25), TokenTimeGroups(0.25, separate=False)):
        model = make()
        objective = DiffusionObjective(model, [SelfAlignmentLoss(1, 2, width=16)], token_groups=groups)
        train_diffusion(model, X, steps=2, batch_size=16, objective=objective, device="cpu")
        runs.append(torch.cat([p.flatten() for p in model.parameters()]))
    assert all(torch.isfinite(r).all() for r in runs)
    assert not torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[1], runs[2])


def test_what_is_refused():
    with pytest.raises(ValueError, match="ratio must be in"):
        TokenTimeGroups(1.0)
    with pytest.raises(ValueError, match="at least 2 tokens"):
        TokenTimeGroups().draw(2, 1, torch.Generator())
    with pytest.raises(ValueError, match="neither time nor weighting"):
        DiffusionObjective(make(), token_groups=TokenTimeGroups(), weighting=torch.ones_like)
    with pytest.raises(ValueError, match="network over patches"):
        DiffusionObjective(Denoiser(torch.nn.Linear(2, 2), LinearPath()), token_groups=TokenTimeGroups())
