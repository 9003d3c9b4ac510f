"""Feature spaces in which generated images are compared with real ones, without a download."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from holdfast.core.checks import check_number
from holdfast.core.estimator import Estimator
from holdfast.core.random import isolated_rng
from holdfast.diffusion.frozen_encoder import FrozenEncoder
from holdfast.metrics.generation import FeatureSpace
from holdfast.nn.classifier import NeuralClassifier

__all__ = ["classifier_space", "model_space", "random_convolution_space", "standardised_space", "train_judge"]


def train_judge(
    x: Float[Tensor, "n channels height width"],
    y: Any,
    *,
    steps: int | None = None,
    seed: int = 0,
    device: str = "auto",
    progress: bool = False,
) -> NeuralClassifier:
    """Train a small supervised classifier whose 64 features measure images; keep it to compare models later.

    Args:
        x: real images in [-1, 1].
        y: labels (n,).
        steps: of training, 64 images each; by default 600, or 40 passes where those are fewer.
        seed: of weights and batches; the default makes one measure for all models of the same data.
        progress: show a bar.

    Raises:
        ValueError: for labels that do not fit.
    """
    if steps is None:
        steps = min(600, 40 * math.ceil(len(x) / 64))
    judge = NeuralClassifier(
        size="small",
        steps=steps,
        lr=2e-3,
        warmup=0.05,
        ema=0.99,
        device=device,
        progress=progress,
        random_state=seed,
    )
    return judge.fit(_bytes(x), np.asarray(y))


def classifier_space(judge: Estimator, name: str = "") -> FeatureSpace:
    """Return the representation of a fitted image estimator of this library as a space for images in [-1, 1].

    Examples:
        >>> x = torch.rand(40, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
        >>> judge = train_judge(x, [0, 1] * 20, steps=2, device="cpu")
        >>> space = classifier_space(judge)
        >>> space.name, space(x[:3]).shape
        ('64 features of a classifier', torch.Size([3, 64]))
    """

    def function(x: Tensor) -> Tensor:
        scaling = getattr(judge, "scaling_", None)  # a diffusion model reads data as it was given them
        images = _bytes(x) if scaling is None else scaling.decode(x)
        return torch.from_numpy(np.asarray(judge.transform(images)))  # pyright: ignore[reportAttributeAccessIssue]

    if not name:
        width = getattr(getattr(judge, "context_", None), "width", None)
        name = f"{width} features of a classifier" if width else f"features of {type(judge).__name__}"
    return FeatureSpace(name, function)


def random_convolution_space(channels: int, size: int, *, features: int = 64, seed: int = 0) -> FeatureSpace:
    """Return features of a network that was never trained: for data without labels, and coarse comparisons only.

    Strided 3 x 3 convolutions with leaky ReLU, down to 4 x 4 places, averaged over each quarter of the image. Its
    weights depend on the arguments alone, so numbers can be compared between runs.

    Args:
        channels: of the images.
        size: their smaller side.
        features: length of the feature vectors, a multiple of 4.
        seed: of the weights.

    Source: random features as a measure of generated images: Naeem et al., "Reliable Fidelity and Diversity Metrics
    for Generative Models", ICML 2020, section 3.2.

    Examples:
        >>> space = random_convolution_space(1, 16)
        >>> space.name, space(torch.zeros(2, 1, 16, 16)).shape
        ('64 features of random convolutions (seed 0)', torch.Size([2, 64]))
    """
    features = int(check_number("features", features, low=4, integer=True))
    if features % 4:
        raise ValueError(f"features must be a multiple of 4, got {features}")
    strides = max(1, round(math.log2(max(2, size / 4))))
    layers: list[nn.Module] = []
    with isolated_rng(seed):
        width = channels
        for i in range(strides):
            out = features // 4 if i == strides - 1 else 32
            convolution = nn.Conv2d(width, out, 3, stride=2, padding=1)
            nn.init.kaiming_normal_(convolution.weight)
            layers += [convolution, nn.LeakyReLU(0.2)]
            width = out
    network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten()).eval().requires_grad_(False)
    return FeatureSpace(f"{features} features of random convolutions (seed {seed})", network)


def model_space(path: str | Path) -> FeatureSpace:
    """Return the features of a model file of this library, or of a Hugging Face vision model by name or folder.

    Raises:
        ValueError: for a path at which there is no model, or an estimator without features.
    """
    from holdfast.core.saving import load

    where = Path(path)
    if where.exists() and not (where.is_dir() and (where / "config.json").is_file()):
        estimator = load(where)
        if not hasattr(estimator, "transform"):
            raise ValueError(f"{path} holds a {type(estimator).__name__}, which has no features (no transform)")
        return classifier_space(estimator, f"features of {where.stem}")
    if not where.exists() and ("/" not in str(path) or str(path).startswith((".", "/", "~"))):
        raise ValueError(f"there is no model at {path}, and it is no name of a Hugging Face model (owner/name)")
    encoder = FrozenEncoder(str(path), tokens="image")
    return FeatureSpace(f"features of {where.name}", lambda x: encoder.encode(x)[:, 0], batch_size=64)


def standardised_space() -> FeatureSpace:
    """Return vectors themselves as a space: on the network's scale every column already has mean 0 and deviation 1.

    Examples:
        >>> standardised_space()(torch.zeros(2, 3)).shape
        torch.Size([2, 3])
    """
    return FeatureSpace("the standardised columns", lambda x: x.flatten(1))


def _bytes(x: Tensor) -> np.ndarray:
    return ((x.detach().cpu().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).numpy()
