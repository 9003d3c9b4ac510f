"""A diffusion model as an estimator: fit on arrays, sample arrays, and use its features."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from sklearn.base import TransformerMixin
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn

from holdfast.core.checkpoint import read_checkpoint
from holdfast.core.checks import check_choice, check_number
from holdfast.core.estimator import Estimator, decode_array, encode_array, own_module
from holdfast.core.random import generator, isolated_rng, seed_from, spawn_seed
from holdfast.diffusion.align_option import alignment_term
from holdfast.diffusion.class_labels import ClassLabels
from holdfast.diffusion.ddpm import DDPMSchedule
from holdfast.diffusion.denoiser import Denoiser
from holdfast.diffusion.guidance import Guidance
from holdfast.diffusion.model_features import (
    FeatureChoice,
    choose_features,
    default_features,
    features_at,
    no_class,
)
from holdfast.diffusion.networks import make_denoising_network
from holdfast.diffusion.objective import DiffusionObjective, Term, denoising_target, train_diffusion
from holdfast.diffusion.paths import CosinePath, LinearPath, Prediction, VPPath
from holdfast.diffusion.paths import Path as NoisingPath
from holdfast.diffusion.samples import Samples
from holdfast.diffusion.sampling import draw_samples
from holdfast.diffusion.scaling import DataScaling
from holdfast.diffusion.schedules import ExponentialDecay
from holdfast.nn.learner import learner

__all__ = ["PATHS", "DiffusionModel"]

PATHS: dict[str, Callable[[], NoisingPath]] = {
    "linear": LinearPath,
    "cosine": CosinePath,
    "vp": VPPath,
    "ddpm": DDPMSchedule,
}
"""Every noising path by name."""

_SCORED = 512  # held-out samples whose denoising error is watched
_PROBED = 2000  # samples that feature probes are fitted on


@learner
class DiffusionModel(TransformerMixin, Estimator):
    """A generative model of images or vectors that also gives features.

    ``fit`` trains a denoising network, ``sample`` draws new data in the form of the training data (dtype, range and
    layout), ``transform`` returns features of given data. With labels the model is class-conditional and can be
    guided.

    Examples:
        >>> rng = np.random.default_rng(0)
        >>> points = np.concatenate([rng.normal(-2, 0.1, (200, 2)), rng.normal(2, 0.1, (200, 2))])
        >>> model = DiffusionModel(size="tiny", steps=250, batch_size=128, device="cpu", random_state=0).fit(points)
        >>> new = model.sample(500, random_state=0)
        >>> new.shape, bool(np.abs(np.abs(new).mean() - 2) < 0.3)
        ((500, 2), True)
        >>> model.transform(points).shape
        (400, 32)
    """

    network: str | nn.Module = "auto"
    """"auto", "unet", "dit", "mlp", or a module of your own, see :class:`holdfast.diffusion.Denoiser`."""
    size: str = "small"
    """"tiny", "small", "base" or "large", see :data:`holdfast.diffusion.networks.NETWORKS`."""
    patch: int | None = None
    """Side of a patch of a DiT; by default the smallest that keeps the number of tokens moderate."""
    path: str = "linear"
    """"linear", "cosine", "vp" or "ddpm" (1000 discrete steps)."""
    prediction: Prediction = "velocity"
    value_range: tuple[float, float] | None = None
    """Smallest and largest value of an image; by default found from dtype and values."""
    align: Any = None
    """``None``; "self": an early block learns from a later one; an encoder (module, or a fitted holdfast estimator)
    whose features of the clean data an early block learns to predict."""
    align_weight: float = 0.5
    align_block: int | None = None
    """The block that is aligned; by default a third of the way through the network."""
    warmup: int = 0
    """Steps that train the blocks up to the aligned one on the encoder's features alone, before generation."""
    class_dropout: float = 0.1
    """Share of labels left out in training; without it there is no guidance."""
    epochs: int = 30
    steps: int | None = None
    """Optimiser steps; overrides ``epochs``."""
    batch_size: int = 64
    lr: float = 2e-3
    lr_warmup: float = 0.05
    """Share of the steps over which the learning rate rises."""
    schedule: str = "cosine"
    weight_decay: float = 0.0
    clip_norm: float | None = 1.0
    ema: float | None = 0.9999
    """Decay of the averaged weights; shorter runs average over about their last tenth."""
    time_sampling: Literal["uniform", "lognormal"] = "uniform"
    feature_time: float | None = None
    """Where ``transform`` reads features; by default chosen at ``fit``."""
    feature_block: int | None = None
    feature_pool: int = 2
    """Side of the feature map after pooling."""
    validation_fraction: float = 0.1
    """Part of the data held out (at most 1000 samples) to keep the best weights and to choose the features."""
    device: str = "auto"
    precision: str = "32-true"
    checkpoint: str | None = None
    """Folder that keeps the training state; a fit that was stopped goes on from it."""
    progress: bool = False
    random_state: int | None = None

    # -- fitting ---------------------------------------------------------------------------------------------------

    def fit(self, x: Any, y: Any = None, *, watch: Callable[[DiffusionModel, int], None] | None = None) -> Self:
        """Train on images or vectors ``x`` and, for a class-conditional model, labels ``y``.

        Args:
            x: images (n, H, W), (n, C, H, W) or (n, H, W, C), integers from 0 to 255 or floats in [0, 1] or [-1, 1]
                (or in ``value_range``); or vectors (n, d).
            y: labels (n,), or ``None``.
            watch: called about ten times during training, and at its end, with the model as it then is and the steps
                done; it may sample.

        Raises:
            ValueError, TypeError: for data that cannot be learned from, or options that do not fit each other.
        """
        begin = time.perf_counter()
        self._check_options()
        self.scaling_ = DataScaling.fit(x, self.value_range)
        data = self.scaling_.encode(x)
        self.labels_, labels = (None, None) if y is None else ClassLabels.fit(y, len(data))
        self.seed_ = seed_from(self.random_state)
        held, rows = self._split(len(data))
        with isolated_rng(spawn_seed(self.seed_, "weights")):
            self.denoiser_ = self._make_denoiser()
        self._check_feature_place()
        steps = self.steps if self.steps is not None else self.epochs * math.ceil(len(rows) / self.batch_size)
        steps = int(check_number("steps", steps, low=1, integer=True))
        known, known_labels = data[rows], None if labels is None else labels[rows]
        terms, extra = self._align(known, known_labels, steps)
        every = max(1, steps // 10)
        options = self._training_options("training")
        before = None if self.checkpoint is None else read_checkpoint(options["checkpoint"])
        done = 0 if before is None else before["done"]
        marks = iter([k for k in (*range(every, steps, every), steps) if k > done])

        def validate(module: nn.Module) -> float:
            done = next(marks)
            if watch is not None:
                watch(self, done)
            if len(held) == 0:
                return float(done)  # without held-out data the last weights are kept
            chosen = held[:_SCORED]
            return -self._denoising_error(data[chosen], None if labels is None else labels[chosen])

        result = train_diffusion(
            self.denoiser_,
            known,
            known_labels,
            steps=steps,
            terms=terms,
            extra=extra,
            ema=self.ema,
            time_sampling=self.time_sampling,
            validate=validate,
            validate_every=every,
            seed=spawn_seed(self.seed_, "steps"),
            **options,
        )
        self.history_, self.n_steps_ = result.history, result.steps
        self.feature_choice_ = self._choose_features(known, known_labels, data[held], labels, held)
        self.fit_seconds_ = time.perf_counter() - begin
        return self

    def _training_options(self, phase: str) -> dict[str, Any]:
        return {
            "batch_size": self.batch_size,
            "lr": self.lr,
            "weight_decay": self.weight_decay,
            "schedule": self.schedule,
            "warmup": self.lr_warmup,
            "clip_norm": self.clip_norm,
            "precision": self.precision,
            "device": self.device,
            "checkpoint": None if self.checkpoint is None else Path(self.checkpoint) / phase,
            "resume": self.checkpoint is not None,
            "progress": phase if self.progress else False,
        }

    def _align(self, x: Tensor, y: Tensor | None, steps: int) -> tuple[list[Term], dict[str, Tensor]]:
        """Return the alignment term with what batches carry for it, after the warm-up if there is one."""
        if self.align is None:
            return [], {}
        weight = self.align_weight
        if self.warmup:
            weight = ExponentialDecay(self.align_weight, half_life=max(1.0, steps / 4))
        seed = spawn_seed(self.seed_, "alignment")
        uses = (steps + self.warmup) * self.batch_size
        term, extra = alignment_term(
            self.align, self.denoiser_, x, block=self.align_block, weight=weight, uses=uses, seed=seed
        )
        if self.warmup:
            objective = DiffusionObjective(
                self.denoiser_, [term], denoise=False, time=self.denoiser_.path.t_min, stop_at=term.taps[0]
            )
            train_diffusion(
                self.denoiser_,
                x,
                y,
                steps=self.warmup,
                extra=extra,
                ema=None,
                objective=objective,
                seed=spawn_seed(self.seed_, "warm-up"),
                **self._training_options("warm-up"),
            )
        return [term], extra

    def _check_options(self) -> None:
        check_choice("path", self.path, list(PATHS))
        check_number("batch_size", self.batch_size, low=1, integer=True)
        check_number("epochs", self.epochs, low=1, integer=True)
        check_number("validation_fraction", self.validation_fraction, low=0, high=1, open_high=True)
        check_number("feature_pool", self.feature_pool, low=1, integer=True)
        check_number("class_dropout", self.class_dropout, low=0, high=1, open_high=True)
        check_number("align_weight", self.align_weight, low=0)
        check_number("warmup", self.warmup, low=0, integer=True)
        if self.warmup and (self.align is None or (isinstance(self.align, str) and self.align == "self")):
            raise ValueError("warmup trains blocks on an encoder's features before generation: give align=encoder")

    def _split(self, n: int) -> tuple[Tensor, Tensor]:
        """Return held-out rows (none of a small set) and training rows."""
        n_held = min(1000, int(self.validation_fraction * n))
        order = torch.randperm(n, generator=generator(spawn_seed(self.seed_, "validation")))
        return (order[:n_held], order[n_held:].sort().values) if n_held > 1 else (order[:0], torch.arange(n))

    def _make_denoiser(self) -> Denoiser:
        n_classes = 0 if self.labels_ is None else len(self.labels_)
        path = PATHS[self.path]()
        if isinstance(self.network, nn.Module):
            network = copy.deepcopy(self.network)
            if n_classes and getattr(network, "num_classes", n_classes) != n_classes:
                raise ValueError(f"network has {network.num_classes} classes, y has {n_classes}")
        else:
            network = make_denoising_network(
                self.scaling_.shape,
                name=self.network,  # pyright: ignore[reportArgumentType]
                size=self.size,
                num_classes=n_classes,
                class_dropout=self.class_dropout,
                time_scale=1.0 if path.discrete else 1000.0,
                patch=self.patch,
            )
        return Denoiser(network, path, self.prediction)

    @torch.no_grad()
    def _denoising_error(self, x0: Tensor, y: Tensor | None) -> float:
        """Mean squared error at times and noise that are the same at every call."""
        model, device = self.denoiser_, self._device
        g = generator(spawn_seed(self.seed_, "denoising error"))
        path, n = model.path, len(x0)
        t = path.t_min + (path.t_max - path.t_min) * (torch.arange(n) + 0.5) / n
        t = (t.round() if path.discrete else t)[torch.randperm(n, generator=g)]
        eps = torch.randn(x0.shape, generator=g)
        total = 0.0
        for rows in torch.arange(n).split(256):
            x, e, times = (v[rows].to(device) for v in (x0, eps, t))
            out = model(path.noise(x, e, times), times, None if y is None else y[rows].to(device)).pred
            error = out[:, : x.shape[1]] - denoising_target(path, x, e, times, model.prediction)
            total += float(error.square().flatten(1).mean(1).sum())
        return total / n

    # -- features --------------------------------------------------------------------------------------------------

    def _check_feature_place(self) -> None:
        depth = getattr(self.denoiser_.network, "depth", None)
        if self.feature_block is not None and depth is not None:
            check_number("feature_block", self.feature_block, low=1, high=depth, integer=True)
        if self.feature_time is not None:
            path = self.denoiser_.path
            check_number("feature_time", self.feature_time, low=path.t_min, high=path.t_max)

    def _choose_features(
        self, x: Tensor, y: Tensor | None, held_x: Tensor, labels: Tensor | None, held: Tensor
    ) -> FeatureChoice | None:
        if not isinstance(getattr(self.denoiser_.network, "depth", None), int):
            return None  # a network of one's own without numbered blocks
        given = (self.feature_time, self.feature_block)
        if y is None or labels is None or len(held) < 20 or None not in given:
            return default_features(self.denoiser_, *given)
        rows = torch.randperm(len(x), generator=generator(spawn_seed(self.seed_, "probe")))[:_PROBED]
        return choose_features(self.denoiser_, x[rows], y[rows], held_x, labels[held], *given, self.feature_pool)

    def transform(self, x: Any) -> np.ndarray:
        """Return the features of every sample at :attr:`feature_choice_`, shape (n, d)."""
        check_is_fitted(self, "denoiser_")
        data = self.scaling_.encode(x)
        if self.feature_choice_ is None:
            raise ValueError("this network has no numbered blocks to read features from")
        choice = self.feature_choice_
        image = self.scaling_.kind == "image"
        features = features_at(self.denoiser_, choice.time, choice.block, self.feature_pool, image=image)
        table = features.extract(data, no_class(self.denoiser_))
        return table.flat(choice.time, choice.block).numpy()

    def score(self, x: Any, y: Any = None) -> float:
        """Return minus the mean squared denoising error on ``x``; without labels, that for no class."""
        check_is_fitted(self, "denoiser_")
        data = self.scaling_.encode(x)
        if self.labels_ is None:
            return -self._denoising_error(data, None)
        none = torch.full((len(data),), len(self.labels_))
        return -self._denoising_error(data, none if y is None else self.labels_.encode(y, len(data)))

    # -- sampling --------------------------------------------------------------------------------------------------

    def sample(
        self,
        n: int = 1,
        y: Any = None,
        *,
        guidance: float | Guidance = 1.0,
        steps: int = 20,
        sampler: str = "heun",
        random_state: Any = None,
        progress: bool | str = False,
        batch_size: int = 256,
    ) -> np.ndarray:
        """Draw ``n`` new samples, in the form of the training data.

        Args:
            n: how many.
            y: label of all, or (n,) labels; ``None`` draws them in the shares of the training data, where the model is
                class-conditional.
            guidance: scale of classifier-free guidance, 1 for none; or a
                :class:`holdfast.diffusion.guidance.Guidance` with an interval.
            steps: of the sampler; "heun" evaluates the network twice a step, the others once.
            sampler: "heun", "euler", "ddim" (deterministic given the noise), "euler_maruyama" or "ddpm".
            random_state: seed; ``None`` draws anew at every call.
            progress: show a bar; a string is its label.
            batch_size: samples at a time.

        Raises:
            ValueError: for unknown labels, guidance of a model without labels, or a sampler that does not fit the
                path.
        """
        options: dict[str, Any] = {"steps": steps, "sampler": sampler, "progress": progress, "batch_size": batch_size}
        drawn = self.draw(n, y, guidance=guidance, random_state=random_state, **options)
        return self.scaling_.decode(drawn.x)

    def draw(
        self,
        n: int = 1,
        y: Any = None,
        *,
        guidance: float | Guidance = 1.0,
        random_state: Any = None,
        **options: Any,
    ) -> Samples:
        """Draw samples on the network's scale, with the number of network calls.

        Args:
            n, y, guidance, random_state: see :meth:`sample`.
            options: of :func:`holdfast.diffusion.sampling.draw_samples`.
        """
        check_is_fitted(self, "denoiser_")
        n = int(check_number("n", n, low=1, integer=True))
        scale = guidance.scale if isinstance(guidance, Guidance) else check_number("guidance", guidance, low=0)
        seed, codes = seed_from(random_state), None
        if self.labels_ is None:
            if y is not None:
                raise ValueError("this model was fitted without labels; leave y out")
            if scale != 1:
                raise ValueError("guidance needs a class-conditional model: fit it with labels, or leave guidance at 1")
        elif y is None:
            codes = self.labels_.draw(n, generator(spawn_seed(seed, "labels")))
        else:
            codes = self.labels_.encode(y, n)
        return draw_samples(
            self.denoiser_,
            self.scaling_.shape,
            n,
            codes,
            guidance=guidance,
            seed=spawn_seed(seed, "samples"),
            **options,
        )

    @property
    def classes_(self) -> np.ndarray | None:
        """The classes, in order; ``None`` for an unconditional model."""
        check_is_fitted(self, "denoiser_")
        return None if self.labels_ is None else self.labels_.classes

    @property
    def _device(self) -> torch.device:
        return next(self.denoiser_.parameters()).device

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "denoiser_")

    # -- saving ----------------------------------------------------------------------------------------------------

    def _get_state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        check_is_fitted(self, "denoiser_")
        params: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self)}
        for name in ("network", "align"):
            if params[name] is not None and not isinstance(params[name], str):
                params[name] = {"object": type(params[name]).__qualname__}
        params["random_state"] = self.seed_
        choice = self.feature_choice_
        state = {
            "params": params,
            "scaling": self.scaling_.to_dict(),
            "classes": None if self.labels_ is None else encode_array(self.labels_.classes),
            "class_counts": None if self.labels_ is None else self.labels_.counts.tolist(),
            "features": None if choice is None else choice.to_dict(),
            "history": self.history_,
            "n_steps": self.n_steps_,
            "fit_seconds": self.fit_seconds_,
        }
        return state, dict(self.denoiser_.state_dict())

    def _set_state(self, state: dict[str, Any], tensors: dict[str, Tensor], **objects: Any) -> None:
        params: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in state["params"].items()}
        if isinstance(params["network"], dict):
            params["network"] = own_module("network", params["network"], objects.get("backbone"))
        if isinstance(params["align"], dict):
            params["align"] = None  # the encoder was needed for training only
        self.set_params(**params)
        self.seed_ = params["random_state"]
        self.scaling_ = DataScaling.from_dict(state["scaling"])
        self.labels_ = None
        if state["classes"] is not None:
            self.labels_ = ClassLabels(decode_array(state["classes"]), np.asarray(state["class_counts"]))
        self.feature_choice_ = None if state["features"] is None else FeatureChoice.from_dict(state["features"])
        self.history_, self.n_steps_ = state["history"], state["n_steps"]
        self.fit_seconds_ = state["fit_seconds"]
        with isolated_rng(self.seed_):
            self.denoiser_ = self._make_denoiser().eval()
        self.denoiser_.load_state_dict(tensors)
