"""A discriminator of image patches, its hinge losses, and the weight that balances it against reconstruction."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from holdfast.core.checks import check_number

__all__ = [
    "PatchDiscriminator",
    "adaptive_weight",
    "augment_differentiably",
    "hinge_discriminator_loss",
    "hinge_generator_loss",
]


class PatchDiscriminator(nn.Module):
    """Convolutions of stride 2 that score overlapping patches as real (positive) or decoded (negative).

    Group instead of batch normalisation: the score of a patch depends on its own image alone, so real and decoded
    images may be scored in one pass.

    Args:
        channels: of the images.
        width: channels of the first layer, doubled per layer up to eight times.
        layers: convolutions of stride 2.

    Source: Isola et al., "Image-to-Image Translation with Conditional Adversarial Networks", CVPR 2017 (PatchGAN).

    Examples:
        >>> PatchDiscriminator(channels=3, width=8, layers=2)(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 1, 6, 6])
    """

    def __init__(self, channels: int = 3, width: int = 64, layers: int = 3) -> None:
        super().__init__()
        check_number("channels", channels, low=1, integer=True)
        check_number("width", width, low=1, integer=True)
        check_number("layers", layers, low=1, integer=True)
        body: list[nn.Module] = [nn.Conv2d(channels, width, 4, 2, 1), nn.LeakyReLU(0.2)]
        before = width
        for i in range(1, layers + 1):
            after = width * min(2**i, 8)
            stride = 2 if i < layers else 1
            groups = max(g for g in (1, 2, 4, 8, 16, 32) if after % g == 0 and (g == 1 or after // g >= 4))
            conv = nn.Conv2d(before, after, 4, stride, 1, bias=False)
            body += [conv, nn.GroupNorm(groups, after), nn.LeakyReLU(0.2)]
            before = after
        self.body = nn.Sequential(*body, nn.Conv2d(before, 1, 4, 1, 1))
        for m in self.modules():
            if isinstance(m, nn.Conv2d):
                nn.init.normal_(m.weight, std=0.02)

    def forward(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch 1 h w"]:
        """Return one score per patch."""
        return self.body(x)


def hinge_discriminator_loss(real: Float[Tensor, "*real"], fake: Float[Tensor, "*fake"]) -> Float[Tensor, ""]:
    r"""Return :math:`\tfrac12 \operatorname{mean} (1 - D(x))_+ + \tfrac12 \operatorname{mean} (1 + D(\hat x))_+`.

    Source: Lim, Ye, "Geometric GAN", 2017.

    Examples:
        >>> float(hinge_discriminator_loss(torch.tensor([2.0, 0.0]), torch.tensor([-3.0])))
        0.25
    """
    return 0.5 * (F.relu(1 - real).mean() + F.relu(1 + fake).mean())


def hinge_generator_loss(fake: Float[Tensor, "*fake"]) -> Float[Tensor, ""]:
    r"""Return :math:`-\operatorname{mean} D(\hat x)`.

    Examples:
        >>> float(hinge_generator_loss(torch.tensor([-1.0, 3.0])))
        -1.0
    """
    return -fake.mean()


def adaptive_weight(
    reconstruction: Float[Tensor, ""],
    adversarial: Float[Tensor, ""],
    last: Tensor,
    *,
    delta: float = 1e-4,
    high: float = 1.0,
) -> Float[Tensor, ""]:
    r"""Return the weight that gives both losses gradients of the same size at the decoder's last layer.

    .. math:: d = \min\Bigl(d_{\max},\;
              \frac{\lVert\nabla_L \mathcal L_{\text{rec}}\rVert}{\lVert\nabla_L \mathcal L_{\text{adv}}\rVert + \delta}
              \Bigr)

    The graph of both losses is kept; the weight carries no gradient.

    Source: Esser, Rombach, Ommer, "Taming Transformers", CVPR 2021, equation 7.

    Examples:
        >>> w = torch.ones(2, requires_grad=True)
        >>> round(float(adaptive_weight(w.sum(), 4 * w.sum(), w)), 3)
        0.25
    """
    (of_rec,) = torch.autograd.grad(reconstruction, last, retain_graph=True)
    (of_adv,) = torch.autograd.grad(adversarial, last, retain_graph=True)
    return (of_rec.norm() / (of_adv.norm() + delta)).clamp(max=high).detach()


def augment_differentiably(
    x: Float[Tensor, "batch channels height width"],
    generator: torch.Generator | None = None,
    *,
    shift: float = 0.125,
    cutout: float = 0.5,
) -> Float[Tensor, "batch channels height width"]:
    """Return images with random brightness, saturation, contrast, translation and a square cut out of each.

    All of it is differentiable in the pixels, so a generator learns through it; given to the discriminator for real
    and decoded images alike it keeps it from learning few images by heart.

    Args:
        generator: source of the draws.
        shift: largest translation as a share of the side.
        cutout: side of the square set to zero as a share of the image's.

    Source: Zhao et al., "Differentiable Augmentation for Data-Efficient GAN Training", NeurIPS 2020.

    Examples:
        >>> augment_differentiably(torch.zeros(2, 3, 8, 8), torch.Generator()).shape
        torch.Size([2, 3, 8, 8])
    """
    check_number("shift", shift, low=0, high=1)
    check_number("cutout", cutout, low=0, high=1)
    n, _, height, width = x.shape
    device = x.device if generator is None else generator.device
    u = torch.rand(7, n, 1, 1, 1, generator=generator, device=device).to(x)
    x = x + (u[0] - 0.5)
    grey = x.mean(1, keepdim=True)
    x = grey + (x - grey) * (2 * u[1])
    mean = x.mean((1, 2, 3), keepdim=True)
    x = mean + (x - mean) * (u[2] + 0.5)

    rows, columns = (torch.arange(s, device=x.device) for s in (height, width))
    down = ((2 * u[3] - 1) * shift * height).round().long()[:, 0, 0] + rows
    right = ((2 * u[4] - 1) * shift * width).round().long()[:, 0, 0] + columns
    inside = ((down >= 0) & (down < height))[:, :, None] & ((right >= 0) & (right < width))[:, None, :]
    images = torch.arange(n, device=x.device)[:, None, None]
    moved = x.permute(0, 2, 3, 1)[images, down.clamp(0, height - 1)[:, :, None], right.clamp(0, width - 1)[:, None, :]]
    x = moved.permute(0, 3, 1, 2) * inside[:, None]

    top = (u[5][:, 0, 0] * height - cutout * height / 2).round()
    left = (u[6][:, 0, 0] * width - cutout * width / 2).round()
    cut_rows = (rows >= top) & (rows < top + round(cutout * height))
    cut_columns = (columns >= left) & (columns < left + round(cutout * width))
    return x * ~(cut_rows[:, :, None] & cut_columns[:, None, :])[:, None]
