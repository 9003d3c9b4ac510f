"""A classifier on the frozen features of a diffusion model of its own inputs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal, Self

import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from holdfast.core.checks import check_choice, check_number
from holdfast.core.inputs import Encoded
from holdfast.core.random import isolated_rng, spawn_seed
from holdfast.diffusion.feature_encoder import DiffusionEncoder
from holdfast.diffusion.head_training import train_head
from holdfast.diffusion.heads import AttentionHead, MLPHead
from holdfast.diffusion.model_features import FeatureChoice, choose_features, default_features
from holdfast.diffusion.objective import train_diffusion
from holdfast.nn import FitContext, NeuralClassifier, learner
from holdfast.nn.network import Network
from holdfast.nn.standardize import Standardize

__all__ = ["DiffusionFeatureClassifier"]

_FEW = 20  # held-out rows below which a choice by accuracy would be a guess


@learner
class DiffusionFeatureClassifier(NeuralClassifier):
    r"""A denoising network learns the inputs without labels, is frozen, and a light head reads one of its blocks.

    .. math:: \phi(x) = \mathrm{pool}_d\; h_b(\alpha_t x + \sigma_t \epsilon,\; t), \qquad
              p(y \mid x) = \mathrm{softmax}(W \phi(x) + c)

    Block b and time t are chosen by a linear probe on a part of the training data; the head is then fitted on all of
    it. Labels enter nowhere but in that choice and in the head, so further inputs without labels help: give them to
    ``fit`` as ``unlabelled``. Takes vectors, tables and images.

    Attributes:
        feature_choice_: the time and block chosen, and the accuracies that the choice rests on.

    Raises:
        ValueError: for texts, sets and graphs, or options out of range.

    Source: Mukhopadhyay et al., "Diffusion Models Beat GANs on Image Classification", 2023, section 3.

    Examples:
        >>> from sklearn.datasets import load_iris
        >>> x, y = load_iris(return_X_y=True)
        >>> model = DiffusionFeatureClassifier(size="tiny", steps=60, lr=1e-2, random_state=0).fit(x, y)
        >>> model.score(x, y) > 0.9
        True
        >>> model.transform(x).shape
        (150, 32)
    """

    backbone: str | nn.Module = "auto"
    """Denoising network: "auto" ("mlp" for vectors, "unet" for images), "unet", "dit", "mlp", or a module of your
    own from ``(x, t, y, taps=, stop_at=)`` to an :class:`holdfast.diffusion.denoiser.Output`."""
    head: Literal["linear", "mlp", "attention"] = "linear"
    time: float | None = None
    """Share of noise in [0, 1] at which features are read; by default chosen."""
    block: int | None = None
    """Block that is read, counted from 1; by default chosen."""
    pool: int = 2
    """Side of the map after pooling; a smaller map keeps its side."""
    draws: int = 1
    """Features are means over so many draws of the noise."""
    C: float = 1.0
    """Inverse penalty of the linear head."""
    head_epochs: int = 30
    """Passes over the features for the other heads."""
    resolution: int = 32
    """Images with a longer side are averaged down to it."""
    validation_fraction: float = 0.2
    """Part of the training rows on which block and time are chosen."""
    ema: float | None = 0.99

    def fit(self, X: Any, y: Any, *, environment: Any = None, unlabelled: Any = None) -> Self:
        """Fit on samples ``X`` and classes ``y``.

        Args:
            X: array (n, d), images (n, H, W[, C]), or pandas table.
            y: classes (n,).
            environment: taken as other learners take it; all environments are pooled.
            unlabelled: further samples of the same form, for the denoising network alone.

        Raises:
            ValueError: for lengths that differ, values that are not finite, a single class, or wrong options.
        """
        self._unlabelled = unlabelled
        try:
            return super().fit(X, y, environment=environment)
        finally:
            del self._unlabelled

    def _make_encoder(self) -> nn.Module:
        check_choice("head", self.head, ("linear", "mlp", "attention"))
        check_number("pool", self.pool, low=1, integer=True)
        check_number("C", self.C, low=0, open_low=True)
        check_number("head_epochs", self.head_epochs, low=1, integer=True)
        encoder = DiffusionEncoder(
            self.input_.signature,
            network=self.backbone,
            size=self.size,
            resolution=self.resolution,
            draws=self.draws,
            seed=spawn_seed(self.seed_, "noise"),
        )
        if (choice := getattr(self, "feature_choice_", None)) is not None:
            encoder.look(choice.time, choice.block, self.pool)
        return encoder

    def _make_network(self, encoder: nn.Module, context: FitContext) -> Network:
        """Put an unfitted head on an encoder that looks at its block."""
        frozen: Any = encoder
        channels, side, _ = frozen.map_shape
        width = frozen.out_dim
        n = context.n_outputs
        if self.head == "linear":
            layers: tuple[nn.Module, ...] = (nn.Linear(width, n),)
        else:
            shape = nn.Unflatten(1, (channels, side, side))
            dim = max(8, min(64, channels // 8 * 8))
            if self.head == "mlp":
                layers = (shape, MLPHead(channels, n, hidden=(128,), pool=side))
            else:
                layers = (shape, AttentionHead(channels, n, dim=dim, blocks=1, heads=4, positions=(side, side)))
        return Network(encoder, nn.Sequential(Standardize(width), *layers))

    def _fit_network(
        self, encoded: Encoded, targets: Tensor, groups: Tensor, context: FitContext, seed: int
    ) -> Network:
        if hasattr(self, "feature_choice_"):
            del self.feature_choice_
        with isolated_rng(spawn_seed(seed, "weights")):
            encoder = self._make_encoder()
        frozen: Any = encoder
        x = self._outputs(encoder, encoded, function=frozen.scaled)
        everything = x
        if self._unlabelled is not None:
            more = self.input_.encode(self._check_input(self._unlabelled, reset=False))
            everything = torch.cat([x, self._outputs(encoder, more, function=frozen.scaled)])
        result = train_diffusion(
            frozen.denoiser,
            everything,
            steps=context.steps,
            batch_size=min(self.batch_size, len(everything)),
            lr=self.lr,
            ema=self.ema,
            clip_norm=self.clip_norm if self.clip_norm is not None else 1.0,
            optimizer=self.optimizer,
            weight_decay=self.weight_decay,
            schedule=self.schedule,
            warmup=self.warmup,
            precision=self.precision,
            device=self.device,
            checkpoint=self._checkpoint_folder(encoded, targets, seed),
            resume=self.checkpoint is not None,
            progress=type(self).__name__ if self.progress else False,
            seed=spawn_seed(seed, "steps"),
        )
        self.history_, self.n_steps_, self.fit_seconds_ = result.history, result.steps, result.seconds
        encoder.to(next(frozen.denoiser.parameters()).device).requires_grad_(False).eval()
        self.feature_choice_ = self._choose(frozen, x, targets)
        frozen.look(self.feature_choice_.time, self.feature_choice_.block, self.pool)
        self.context_ = replace(context, width=frozen.out_dim)
        z = self._outputs(encoder, encoded)
        with isolated_rng(spawn_seed(seed, "head")):
            network = self._make_network(encoder, self.context_)
        self._fit_head(network, z, targets, seed)
        return network

    def _choose(self, encoder: DiffusionEncoder, x: Tensor, targets: Tensor) -> FeatureChoice:
        """Choose block and time on held-out rows, where there are enough and they are not given."""
        model = encoder.denoiser
        if self.block is not None:
            depth = getattr(model.network, "depth", None)
            check_number("block", self.block, low=1, high=depth, integer=True)
        if self.time is not None:
            check_number("time", self.time, low=0, high=1)
        held = self._validation_rows(len(x))
        keep = torch.ones(len(x), dtype=torch.bool)
        keep[held] = False
        given = self.time is not None and self.block is not None
        if given or len(held) < _FEW or len(targets[keep].unique()) < 2:
            return default_features(model, self.time, self.block)
        return choose_features(model, x[keep], targets[keep], x[held], targets[held], self.time, self.block, self.pool)

    def _fit_head(self, network: Network, z: Tensor, targets: Tensor, seed: int) -> None:
        standardize, *rest = network.head  # pyright: ignore[reportGeneralTypeIssues]
        std, mean = torch.std_mean(z, dim=0, correction=0)
        standardize.mean.copy_(mean)
        standardize.std.copy_(torch.where(std > 1e-6 * mean.abs().clamp_min(1e-6), std, torch.ones_like(std)))
        device = next(network.encoder.denoiser.parameters()).device  # pyright: ignore[reportAttributeAccessIssue]
        standardized = standardize(z)
        if self.head == "linear":
            linear: nn.Linear = rest[0]
            fitted = LogisticRegression(C=self.C, max_iter=500).fit(standardized.numpy(), targets.numpy())
            weight = torch.from_numpy(fitted.coef_).float()
            bias = torch.from_numpy(fitted.intercept_).float()
            if len(weight) == 1:  # two classes have one row of coefficients: the difference of their logits
                weight, bias = torch.cat([-weight, weight]) / 2, torch.cat([-bias, bias]) / 2
            with torch.no_grad():
                linear.weight.copy_(weight)
                linear.bias.copy_(bias)
        else:
            shape, head = rest
            train_head(
                head,
                shape(standardized),
                targets,
                epochs=self.head_epochs,
                lr=3e-3,
                batch_size=self.batch_size,
                optimizer="adamw",
                weight_decay=1e-2,
                schedule="cosine",
                device=self.device,
                seed=spawn_seed(seed, "head"),
            )
        network.to(device)

    def _extra_state(self) -> dict[str, Any]:
        return {"feature_choice": self.feature_choice_.to_dict()}

    def _set_extra_state(self, extra: dict[str, Any]) -> None:
        self.feature_choice_ = FeatureChoice.from_dict(extra["feature_choice"])
