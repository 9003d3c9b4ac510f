"""A bidirectional GAN for small images: the rival whose encoder gives features."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

from holdfast.core.batching import Batches, BatchPlan
from holdfast.core.random import isolated_rng, spawn_seed
from holdfast.core.steps import StepInfo
from holdfast.core.training import train

__all__ = ["BiGAN", "train_bigan"]


class _Discriminator(nn.Module):
    """Looks at an image and a code together; spectral norm in every layer."""

    def __init__(self, channels: int, side: int, widths: Sequence[int], latent: int) -> None:
        super().__init__()
        a, b, c = widths
        self.convs = nn.ModuleList(
            [
                spectral_norm(nn.Conv2d(channels, a, 4, 2, 1)),
                spectral_norm(nn.Conv2d(a, b, 4, 2, 1)),
                spectral_norm(nn.Conv2d(b, c, 3, padding=1)),
            ]
        )
        self.image = spectral_norm(nn.Linear(c * (side // 4) ** 2, 256))
        self.code = spectral_norm(nn.Linear(latent, 256))
        self.joint = spectral_norm(nn.Linear(512, 256))
        self.score = spectral_norm(nn.Linear(256, 1))

    def maps(self, x: Tensor) -> list[Tensor]:
        found = []
        for conv in self.convs:
            x = F.leaky_relu(conv(x), 0.2)
            found.append(x)
        return found

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        h = torch.cat([self.image(self.maps(x)[-1].flatten(1)), self.code(z)], dim=1)
        return self.score(F.leaky_relu(self.joint(F.leaky_relu(h, 0.2)), 0.2))[:, 0]


class BiGAN(nn.Module):
    r"""A generator G, an encoder E, and a discriminator of the pairs :math:`(x, E(x))` and :math:`(G(z), z)`.

    Source: Donahue, Krähenbühl and Darrell, "Adversarial feature learning", ICLR 2017.
    """

    def __init__(self, channels: int, side: int, widths: Sequence[int] = (32, 64, 96), latent: int = 64) -> None:
        super().__init__()
        a, b, c = widths
        self.latent, small = latent, side // 4

        def layer(conv: nn.Module, out: int) -> nn.Sequential:
            return nn.Sequential(conv, nn.BatchNorm2d(out), nn.LeakyReLU(0.2))

        self.encoder = nn.ModuleList(
            [
                layer(nn.Conv2d(channels, a, 3, padding=1), a),
                layer(nn.Conv2d(a, b, 4, 2, 1), b),
                layer(nn.Conv2d(b, c, 4, 2, 1), c),
                layer(nn.Conv2d(c, c, 3, padding=1), c),
            ]
        )
        self.to_code = nn.Linear(c * small**2, latent)
        self.generator = nn.Sequential(
            nn.Linear(latent, c * small**2),
            nn.Unflatten(1, (c, small, small)),
            nn.BatchNorm2d(c),
            nn.ReLU(),
            nn.Sequential(nn.ConvTranspose2d(c, b, 4, 2, 1), nn.BatchNorm2d(b), nn.ReLU()),
            nn.Sequential(nn.ConvTranspose2d(b, a, 4, 2, 1), nn.BatchNorm2d(a), nn.ReLU()),
            nn.Conv2d(a, channels, 3, padding=1),
            nn.Tanh(),
        )
        self.discriminator = _Discriminator(channels, side, widths, latent)

    def maps(self, x: Float[Tensor, "batch channels side side"]) -> list[Tensor]:
        """Return the output of every convolution of the encoder."""
        found = []
        for layer in self.encoder:
            x = layer(x)
            found.append(x)
        return found

    def encode(self, x: Tensor) -> Float[Tensor, "batch latent"]:
        """Return the code of every image."""
        return self.to_code(self.maps(x)[-1].flatten(1))

    @torch.no_grad()
    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """Draw images."""
        device = next(self.parameters()).device
        z = torch.randn(n, self.latent, generator=generator)
        return torch.cat([self.generator(part.to(device)).cpu() for part in z.split(500)])


def _both_losses(model: nn.Module, x: Tensor, info: StepInfo) -> dict[str, Tensor]:
    r"""Non-saturating losses of both players in one pass over the discriminator.

    With the score s of a real pair, the discriminator minimises :math:`\mathrm{softplus}(-s)` and the others
    :math:`\mathrm{softplus}(s)`, whose derivatives differ by the factor :math:`-e^{s}` (:math:`-e^{-s}` for a made
    pair). Samples do not mix in the discriminator, so the gradient that leaves it towards its input, times that
    factor, is the gradient of the players' own loss.
    """
    gan: BiGAN = model  # pyright: ignore[reportAssignmentType]
    z = torch.randn(len(x), gan.latent, generator=info.generator, device=x.device)
    code, fake = gan.encode(x), gan.generator(z)
    images, codes = torch.cat([x, fake]), torch.cat([code, z])
    score = gan.discriminator(images, codes)
    sign = torch.ones_like(score)
    sign[len(x) :] = -1
    factor = -(sign * score.detach()).exp()
    images.register_hook(lambda g: g * factor[:, None, None, None])
    codes.register_hook(lambda g: g * factor[:, None])
    judge = 2 * F.softplus(-sign * score).mean()
    return {"loss": judge, "players": 2 * F.softplus(sign * score.detach()).mean()}


def train_bigan(
    x: Float[Tensor, "n channels side side"],
    *,
    steps: int,
    batch_size: int = 64,
    lr: float = 2e-4,
    widths: Sequence[int] = (32, 64, 96),
    ema: float | None = 0.99,
    device: str = "cpu",
    precision: str = "32-true",
    seed: int = 0,
) -> BiGAN:
    """Train a bidirectional GAN; both players move at every step, with Adam at (0.5, 0.999)."""
    with isolated_rng(spawn_seed(seed, "weights")):
        model = BiGAN(x.shape[1], x.shape[-1], widths)
    batches = Batches(BatchPlan(len(x), batch_size, seed=seed, drop_last=True), lambda rows: x[rows])
    train(
        model,
        _both_losses,
        batches,
        steps=steps,
        optimizer=lambda groups: torch.optim.Adam(groups, lr=lr, betas=(0.5, 0.999)),
        lr=lr,
        ema=ema,
        device=device,
        precision=precision,
        seed=seed,
    )
    return model
