"""Tiny random models of diffusers behind the adapters: same numbers, taps, early exit, pipelines from folders."""

from __future__ import annotations

import sys

import pytest
import torch

from holdfast.core.random import generator, isolated_rng
from holdfast.diffusion.adapters import (
    DiTAdapter,
    NoiseFromAngle,
    UNetAdapter,
    pretrained_denoiser,
    schedule_from_config,
)
from holdfast.diffusion.ddpm import DDPMSchedule
from holdfast.diffusion.denoiser import Denoiser
from holdfast.diffusion.features import DiffusionFeatures
from holdfast.diffusion.guidance import Guidance
from holdfast.diffusion.objective import train_diffusion
from holdfast.diffusion.samplers import ddim, ddpm, euler

diffusers = pytest.importorskip("diffusers")

X = torch.randn(2, 3, 16, 16, generator=generator(100))
T = torch.tensor([3.0, 700.0])


def make_unet(**options):
    settings = {
        "sample_size": 16,
        "in_channels": 3,
        "out_channels": 3,
        "block_out_channels": (8, 16),
        "layers_per_block": 2,
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
        "norm_num_groups": 4,
        "attention_head_dim": 8,
    }
    with isolated_rng(100):
        return diffusers.UNet2DModel(**settings | options).eval()


def make_dit(**options):
    settings = {
        "num_attention_heads": 2,
        "attention_head_dim": 8,
        "in_channels": 3,
        "out_channels": 6,
        "num_layers": 3,
        "sample_size": 16,
        "patch_size": 4,
        "num_embeds_ada_norm": 5,
    }
    with isolated_rng(101):
        return diffusers.DiTTransformer2DModel(**settings | options).eval()


UNETS = {
    "plain": {},
    "downsampling by residual blocks": {
        "downsample_type": "resnet",
        "upsample_type": "resnet",
    },
    "resnet blocks": {
        "down_block_types": ("ResnetDownsampleBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "ResnetUpsampleBlock2D"),
    },
    "skips of pixels": {
        "down_block_types": ("SkipDownBlock2D", "AttnSkipDownBlock2D"),
        "up_block_types": ("AttnSkipUpBlock2D", "SkipUpBlock2D"),
        "block_out_channels": (32, 32),
        "norm_num_groups": 8,
    },
    "no middle": {"mid_block_type": None},
}


@pytest.mark.parametrize("options", UNETS.values(), ids=UNETS.keys())
def test_unet_gives_the_library_its_numbers_and_its_blocks_in_order(options):
    unet = make_unet(**options)
    net = UNetAdapter(unet)
    with torch.no_grad():
        plain = unet(X, T).sample
        everything = tuple(range(1, net.depth + 1))
        out = net(X, T, taps=everything)
        assert torch.equal(out.pred, plain)
        assert list(out.taps) == list(everything)  # hooks fire in the order of the numbers, each once
        for info in net.blocks:
            assert out.taps[info.index].shape == (2, info.channels, info.resolution, info.resolution)
    assert not any(m._forward_hooks for m in unet.modules())


def test_unet_counts_its_blocks_like_our_own():
    """One convolution, two residual blocks a level and one halving, the middle, three a level upwards."""
    net = UNetAdapter(make_unet())
    assert [b.stage for b in net.blocks] == ["down"] * 6 + ["middle"] + ["up"] * 6
    assert [b.resolution for b in net.blocks] == [16, 16, 16, 8, 8, 8, 8, 8, 8, 16, 16, 16, 16]
    assert net.depth == 13


@pytest.mark.parametrize(
    "make", [lambda: UNetAdapter(make_unet()), lambda: DiTAdapter(make_dit())], ids=["unet", "dit"]
)
def test_an_early_exit_gives_the_same_tap_and_runs_nothing_behind_it(make):
    net = make()
    y = torch.tensor([0, 1]) if isinstance(net, DiTAdapter) else None
    stop = net.depth - 1
    blocks = net._outputs if isinstance(net, UNetAdapter) else list(net.model.transformer_blocks)
    ran = []
    handle = blocks[-1].register_forward_hook(lambda *_: ran.append(1))
    with torch.no_grad():
        early = net(X, T, y, taps=(2, stop), stop_at=stop)
        assert early.pred is None
        assert ran == []
        full = net(X, T, y, taps=(2, stop))
    handle.remove()
    assert ran == [1]
    assert sorted(early.taps) == sorted({2, stop})
    for block, tap in early.taps.items():
        assert torch.equal(tap, full.taps[block])
    with pytest.raises(ValueError, match="blocks are numbered from 1"):
        net(X, T, y, taps=(net.depth + 1,))
    with pytest.raises(ValueError, match="behind the early exit"):
        net(X, T, y, taps=(stop,), stop_at=1)


def test_gradients_flow_through_the_taps():
    net = UNetAdapter(make_unet())
    net(X, T, taps=(5,), stop_at=5).taps[5].square().mean().backward()
    grads = [p.grad is not None for p in net.model.conv_in.parameters()]
    assert all(grads)
    assert all(p.grad is None for p in net.model.up_blocks.parameters())


def test_dit_gives_the_library_its_numbers_with_labels_and_learned_variance():
    dit, y = make_dit(), torch.tensor([4, 5])
    net = DiTAdapter(dit)
    with torch.no_grad():
        out = net(X, T, y, taps=(1, 3))
        assert torch.equal(out.pred, dit(X, T, y).sample)
    assert out.pred.shape == (2, 6, 16, 16)
    assert out.taps[3].shape == (2, 16, 16)
    assert (net.depth, net.width, net.grid, net.patch) == (3, 16, (4, 4), 4)
    assert (net.learn_sigma, net.null_class, net.class_dropout) == (True, 5, 0.1)


def test_dit_drops_no_labels_of_its_own_in_training():
    net = DiTAdapter(make_dit()).train()
    y = torch.zeros(256, dtype=torch.long)
    x, t = X[:1].expand(256, -1, -1, -1), T[:1].expand(256)
    with torch.no_grad():
        out = net(x, t, y).pred
    assert float((out - out[:1]).abs().max()) < 1e-5


def test_samplers_guidance_and_learned_variance_work_on_the_adapter():
    model = Denoiser(DiTAdapter(make_dit()), DDPMSchedule(1000), "noise")
    y = torch.tensor([0, 3])
    out = ddim(model, X, steps=4, y=y, guidance=Guidance(3.0))
    assert (out.x.shape, out.calls) == (X.shape, 8)
    noisy = ddpm(model, X, steps=4, y=y, generator=generator(102), variance="learned", guidance=Guidance(3.0))
    assert (noisy.x.shape, noisy.calls) == (X.shape, 8)
    assert bool(noisy.x.isfinite().all())


def test_a_unet_without_labels_cannot_be_guided_and_one_with_a_null_class_can():
    path = DDPMSchedule(1000)
    with pytest.raises(ValueError, match="null class"):
        euler(
            Denoiser(UNetAdapter(make_unet()), path, "noise"),
            X,
            steps=2,
            y=torch.tensor([0, 1]),
            guidance=Guidance(2.0),
        )
    net = UNetAdapter(make_unet(num_class_embeds=4), null_class=3)
    out = ddim(Denoiser(net, path, "noise"), X, steps=2, y=torch.tensor([0, 1]), guidance=Guidance(2.0))
    assert out.calls == 4


def test_adapters_train_through_the_common_loop():
    unet = make_unet(num_class_embeds=4)
    model = Denoiser(UNetAdapter(unet, null_class=3), DDPMSchedule(1000), "noise")
    before = unet.conv_in.weight.clone()
    result = train_diffusion(
        model, X.repeat(4, 1, 1, 1), torch.tensor([0, 1] * 4), steps=2, batch_size=4, device="cpu", seed=100
    )
    assert result.steps == 2
    assert not torch.equal(unet.conv_in.weight, before)


def test_features_are_read_from_the_adapters():
    images, path = X.clamp(-1, 1), DDPMSchedule(1000)
    unet = DiffusionFeatures(Denoiser(UNetAdapter(make_unet()), path, "noise"), t=(50.0, 90.0), block=(5, 9), pool=2)
    shapes = {key: tuple(h.shape) for key, h in unet(images).items()}
    assert shapes == {(t, b): (2, 16, 2, 2) for t in (50.0, 90.0) for b in (5, 9)}
    dit = DiffusionFeatures(Denoiser(DiTAdapter(make_dit()), path, "noise"), t=50.0, block=2, pool=1)
    assert dit(images, torch.tensor([5, 5])).shape == (2, 16, 1, 1)
    assert UNetAdapter(make_unet()).table().splitlines()[-1].split() == ["13", "up", "8", "16"]


def test_half_precision_weights_take_and_return_the_callers_precision():
    net = UNetAdapter(make_unet().to(torch.bfloat16))
    with torch.no_grad():
        assert net(X, T).pred.dtype == torch.float32


@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction"])
def test_a_pipeline_from_a_folder_is_a_denoiser(tmp_path, prediction):
    """Its predictions of noise and data are those that the library's own scheduler computes from the network."""
    unet = make_unet()
    scheduler = diffusers.DDIMScheduler(
        num_train_timesteps=100, beta_schedule="squaredcos_cap_v2", prediction_type=prediction, clip_sample=False
    )
    diffusers.DDIMPipeline(unet, scheduler).save_pretrained(tmp_path)
    model = pretrained_denoiser(tmp_path, local_files_only=True)
    assert isinstance(model.path, DDPMSchedule)
    assert model.path.steps == 100
    torch.testing.assert_close(model.path.alpha_bar.float(), scheduler.alphas_cumprod, rtol=1e-4, atol=1e-6)
    scheduler.set_timesteps(100)
    with torch.no_grad():
        said = scheduler.step(unet(X, 60).sample, 60, X).pred_original_sample
        found = model.predict(X, 60.0, target="data")
    torch.testing.assert_close(found, said, rtol=1e-3, atol=1e-4)


def test_a_class_conditional_pipeline_from_a_folder(tmp_path):
    dit = make_dit()
    with isolated_rng(103):
        vae = diffusers.AutoencoderKL(block_out_channels=(4,), norm_num_groups=2, latent_channels=3)
    pipe = diffusers.DiTPipeline(dit, vae, diffusers.DDIMScheduler(), id2label=None)
    pipe.save_pretrained(tmp_path)
    model = pretrained_denoiser(tmp_path, local_files_only=True)
    y = torch.tensor([0, 1])
    with torch.no_grad():
        torch.testing.assert_close(model.predict(X, T, y, target="noise"), dit(X, T, y).sample[:, :3])
    assert model.null_class == 5


def test_networks_alone_from_a_folder(tmp_path):
    unet, dit = make_unet(), make_dit()
    unet.save_pretrained(tmp_path / "unet")
    dit.save_pretrained(tmp_path / "all" / "transformer")
    with torch.no_grad():
        a = UNetAdapter.from_pretrained(tmp_path / "unet", local_files_only=True)(X, T).pred
        assert torch.equal(a, unet(X, T).sample)
        net = DiTAdapter.from_pretrained(tmp_path / "all", subfolder="transformer", local_files_only=True)
        y = torch.tensor([1, 2])
        assert torch.equal(net(X, T, y).pred, dit(X, T, y).sample)


def test_a_pipeline_of_another_kind_is_refused(tmp_path):
    (tmp_path / "model_index.json").write_text(
        '{"_class_name": "StableDiffusionPipeline", "unet": ["diffusers", "UNet2DConditionModel"]}'
    )
    with pytest.raises(ValueError, match="the pipeline needs a UNet2DModel or a DiTTransformer2DModel"):
        pretrained_denoiser(tmp_path, local_files_only=True)


def test_schedules_without_a_formula_are_refused():
    assert schedule_from_config({"beta_schedule": "squaredcos_cap_v2", "num_train_timesteps": 50}).kind == "cosine"
    for bad in ({"beta_schedule": "sigmoid"}, {"trained_betas": [0.1, 0.2]}, {"rescale_betas_zero_snr": True}):
        with pytest.raises(ValueError, match="the schedule must be one of linear"):
            schedule_from_config(bad)


def test_noise_from_the_angle_inverts_its_definition():
    path = DDPMSchedule(1000)
    x0, eps = torch.randn(2, 3, 16, 16, generator=generator(104)), torch.randn(2, 3, 16, 16, generator=generator(105))
    alpha, sigma = (c.view(2, 1, 1, 1) for c in path.coefficients(T)[:2])

    class Angle(torch.nn.Module):
        def forward(self, x, t):
            return alpha * eps - sigma * x0

    found = NoiseFromAngle(Angle(), path)(alpha * x0 + sigma * eps, T).pred
    torch.testing.assert_close(found, eps, atol=1e-5, rtol=1e-5)


def test_bad_arguments():
    with pytest.raises(TypeError, match="expected a diffusers UNet2DModel, got Linear"):
        UNetAdapter(torch.nn.Linear(1, 1))
    with pytest.raises(TypeError, match="expected a diffusers DiTTransformer2DModel, got UNet2DModel"):
        DiTAdapter(make_unet())
    with pytest.raises(ValueError, match="give size"):
        UNetAdapter(make_unet(sample_size=None))
    with pytest.raises(ValueError, match="null_class needs a network with class labels"):
        UNetAdapter(make_unet(), null_class=3)
    with pytest.raises(ValueError, match=r"x must have shape \(n, 3, height, width\)"):
        UNetAdapter(make_unet())(X[:, :1], T)
    with pytest.raises(ValueError, match="takes no labels"):
        UNetAdapter(make_unet())(X, T, torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="needs labels"):
        DiTAdapter(make_dit())(X, T)
    with pytest.raises(ValueError, match=r"labels must lie in \[0, 6\)"):
        DiTAdapter(make_dit())(X, T, torch.tensor([0, 6]))
    with pytest.raises(ValueError, match=r"x must have shape \(n, 3, 16, 16\)"):
        DiTAdapter(make_dit())(X[..., :8], T, torch.tensor([0, 1]))


def test_the_missing_library_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    for load in (pretrained_denoiser, UNetAdapter.from_pretrained, DiTAdapter.from_pretrained):
        with pytest.raises(ImportError, match=r"holdfast\[images\]"):
            load("somewhere")
