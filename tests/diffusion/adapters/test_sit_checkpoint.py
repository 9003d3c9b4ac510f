"""A network with the names and layout of the published SiT computes the same as ours after its weights are read."""

from __future__ import annotations

import argparse
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from holdfast.core.random import generator, isolated_rng
from holdfast.diffusion.adapters import dit_from_checkpoint, load_dit_checkpoint
from holdfast.diffusion.backbones.dit import DiT
from holdfast.diffusion.backbones.embeddings import sincos_positions

WIDTH, HEADS, PATCH, SIDE, CLASSES, CHANNELS = 16, 2, 2, 8, 3, 4


class PublishedBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attn = nn.ModuleDict({"qkv": nn.Linear(WIDTH, 3 * WIDTH), "proj": nn.Linear(WIDTH, WIDTH)})
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(WIDTH, 4 * WIDTH), "fc2": nn.Linear(4 * WIDTH, WIDTH)})
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(WIDTH, 6 * WIDTH))

    def forward(self, x, c):
        shift1, scale1, gate1, shift2, scale2, gate2 = self.adaLN_modulation(c)[:, None].chunk(6, dim=-1)
        h = F.layer_norm(x, (WIDTH,), eps=1e-6) * (1 + scale1) + shift1
        n, tokens, _ = h.shape
        q, k, v = self.attn["qkv"](h).reshape(n, tokens, 3, HEADS, WIDTH // HEADS).permute(2, 0, 3, 1, 4)
        weights = (q @ k.mT / math.sqrt(WIDTH // HEADS)).softmax(-1)
        x = x + gate1 * self.attn["proj"]((weights @ v).transpose(1, 2).reshape(n, tokens, WIDTH))
        h = F.layer_norm(x, (WIDTH,), eps=1e-6) * (1 + scale2) + shift2
        return x + gate2 * self.mlp["fc2"](F.gelu(self.mlp["fc1"](h), approximate="tanh"))


class Published(nn.Module):
    """Written out from the description: names, orders and shapes as in the released checkpoints."""

    def __init__(self, depth: int = 2) -> None:
        super().__init__()
        with isolated_rng(100):
            self.x_embedder = nn.ModuleDict({"proj": nn.Conv2d(CHANNELS, WIDTH, PATCH, PATCH)})
            self.t_embedder = nn.ModuleDict(
                {"mlp": nn.Sequential(nn.Linear(256, WIDTH), nn.SiLU(), nn.Linear(WIDTH, WIDTH))}
            )
            self.y_embedder = nn.ModuleDict({"embedding_table": nn.Embedding(CLASSES + 1, WIDTH)})
            self.blocks = nn.ModuleList(PublishedBlock() for _ in range(depth))
            self.final_layer = nn.ModuleDict(
                {
                    "linear": nn.Linear(WIDTH, PATCH * PATCH * 2 * CHANNELS),
                    "adaLN_modulation": nn.Sequential(nn.SiLU(), nn.Linear(WIDTH, 2 * WIDTH)),
                }
            )
            self.projectors = nn.ModuleList([nn.Linear(WIDTH, 5)])
        grid = SIDE // PATCH
        self.pos_embed = nn.Parameter(published_positions(grid)[None], requires_grad=False)

    def forward(self, x, t, y):
        x = self.x_embedder["proj"](x).flatten(2).transpose(1, 2) + self.pos_embed
        rate = torch.exp(-math.log(10000) * torch.arange(128).float() / 128)
        angle = t[:, None] * rate
        c = self.t_embedder["mlp"](torch.cat([angle.cos(), angle.sin()], -1)) + self.y_embedder["embedding_table"](y)
        for block in self.blocks:
            x = block(x, c)
        shift, scale = self.final_layer["adaLN_modulation"](c)[:, None].chunk(2, dim=-1)
        x = self.final_layer["linear"](F.layer_norm(x, (WIDTH,), eps=1e-6) * (1 + scale) + shift)
        grid = SIDE // PATCH
        x = x.reshape(len(x), grid, grid, PATCH, PATCH, 2 * CHANNELS)
        return torch.einsum("nhwpqc->nchpwq", x).reshape(len(x), 2 * CHANNELS, SIDE, SIDE)


def published_positions(grid: int) -> torch.Tensor:
    """The first half of the channels tells the column (sines, then cosines), the second the row."""
    rate = 10000.0 ** -(torch.arange(WIDTH // 4).double() / (WIDTH // 4))
    rows = []
    for r in range(grid):
        for c in range(grid):
            rows.append(torch.cat([(c * rate).sin(), (c * rate).cos(), (r * rate).sin(), (r * rate).cos()]))
    return torch.stack(rows).float()


X = torch.randn(3, CHANNELS, SIDE, SIDE, generator=generator(101))
T, Y = torch.tensor([0.1, 0.5, 0.9]), torch.tensor([0, 2, CLASSES])


def ours(**options) -> DiT:
    settings = {"num_classes": CLASSES, "learn_sigma": True, "depth": 2, "width": WIDTH}
    return DiT(CHANNELS, SIDE, patch=PATCH, heads=HEADS, **settings | options)


def test_positions_are_those_of_the_published_models():
    torch.testing.assert_close(published_positions(4), sincos_positions(4, 4, WIDTH))


def test_the_filled_model_computes_the_same():
    net, model = Published(), ours()
    report = load_dit_checkpoint(model, net.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(model(X, T, Y).pred, net(X, T, Y), atol=1e-5, rtol=1e-4)
    assert report.missing == []
    assert sorted(report.copied) == sorted(model.state_dict())
    assert report.unused == ["projectors.0.bias", "projectors.0.weight"]
    assert "not used: projectors.0.bias" in str(report)


def test_the_model_is_made_from_the_checkpoint_alone():
    net = Published(depth=3)
    model, report = dit_from_checkpoint(net.state_dict(), heads=HEADS)
    assert (model.depth, model.width, model.patch, model.size, model.num_classes) == (3, WIDTH, PATCH, (SIDE, SIDE), 3)
    assert model.learn_sigma
    assert report.missing == []
    with torch.no_grad():
        torch.testing.assert_close(model(X, T, Y).pred, net(X, T, Y), atol=1e-5, rtol=1e-4)
    with pytest.raises(ValueError, match="no published size: give heads"):
        dit_from_checkpoint(net.state_dict())


@pytest.mark.parametrize("wrapped", ["bare", "training", "distributed", "safetensors"])
def test_files_of_every_layout_are_read(tmp_path, wrapped):
    net, model = Published(), ours()
    state = net.state_dict()
    if wrapped == "safetensors":
        from safetensors.torch import save_file

        file = tmp_path / "sit.safetensors"
        save_file(state, file)
    else:
        file = tmp_path / "sit.pt"
        zeros = {k: torch.zeros_like(v) for k, v in state.items()} | {"pos_embed": state["pos_embed"]}
        content = {
            "bare": state,
            "training": {"model": zeros, "ema": state, "opt": {"lr": 1e-4}, "args": argparse.Namespace(model="SiT")},
            "distributed": {"model": {f"module.{k}": v for k, v in state.items()}},
        }[wrapped]
        torch.save(content, file)
    assert load_dit_checkpoint(model, file).missing == []
    with torch.no_grad():
        torch.testing.assert_close(model(X, T, Y).pred, net(X, T, Y), atol=1e-5, rtol=1e-4)
    if wrapped == "training":
        load_dit_checkpoint(model, file, prefer_average=False)
        assert not model.embed.weight.any()


def test_what_a_shorter_checkpoint_lacks_is_reported():
    report = load_dit_checkpoint(ours(depth=3), Published(depth=2).state_dict())
    assert report.missing
    assert all(name.startswith("blocks.blocks.2.") for name in report.missing)
    longer = load_dit_checkpoint(ours(depth=1), Published(depth=2).state_dict())
    assert longer.missing == []
    assert {name.split(".")[1] for name in longer.unused if name.startswith("blocks.")} == {"1"}


def test_what_does_not_fit_is_refused_and_nothing_is_written():
    state = Published().state_dict()
    for model, match in (
        (ours(num_classes=5), r"y_embedder.embedding_table.weight has shape \(4, 16\).*the model has \(6, 16\)"),
        (ours(learn_sigma=False), "final_layer.linear.weight has shape"),
        (ours(width=32), "another image size, patch or width"),
    ):
        before = {k: v.clone() for k, v in model.state_dict().items()}
        with pytest.raises(ValueError, match=match):
            load_dit_checkpoint(model, state)
        assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    with pytest.raises(ValueError, match="positions are other ones"):
        load_dit_checkpoint(ours(), state | {"pos_embed": torch.randn_like(state["pos_embed"])})
    with pytest.raises(ValueError, match="normalises queries and keys"):
        load_dit_checkpoint(ours(), state | {"blocks.0.attn.q_norm.weight": torch.ones(8)})
    with pytest.raises(ValueError, match="no weight of the checkpoint has a known name"):
        load_dit_checkpoint(ours(), {"encoder.weight": torch.ones(2)})
    with pytest.raises(ValueError, match="holds no tensors"):
        load_dit_checkpoint(ours(), {"epoch": 3})
    with pytest.raises(ValueError, match=r"no DiT or SiT: it has no x_embedder\.proj\.weight"):
        dit_from_checkpoint({"encoder.weight": torch.ones(2)})
