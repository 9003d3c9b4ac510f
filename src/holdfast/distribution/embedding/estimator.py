"""Codes of populations: from a table with a group column, or a list of sample sets, to one vector for each."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any, Self

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from sklearn.base import TransformerMixin
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn

from holdfast.core.arrays import as_tensor
from holdfast.core.checks import check_finite, check_matrix, check_number, check_same_length
from holdfast.core.engine import pick_device
from holdfast.core.estimator import Estimator
from holdfast.core.random import generator, isolated_rng, seed_from, spawn_seed
from holdfast.data.errors import suggest
from holdfast.distribution.embedding.gde import GDE, interpolate_codes
from holdfast.distribution.embedding.mixing import SetMixer
from holdfast.distribution.embedding.scaling import PointScaling
from holdfast.distribution.embedding.sets import SetTable
from holdfast.distribution.embedding.training import train_embedding
from holdfast.distribution.generators.cvae import ConditionalVAE
from holdfast.distribution.generators.ddpm import ConditionalDDPM
from holdfast.distribution.generators.direct import DirectGenerator
from holdfast.nn.sets import (
    AttentionSetEncoder,
    GNNSetEncoder,
    KernelMeanEncoder,
    MeanEncoder,
    PooledSetEncoder,
    ResNetSetEncoder,
)

__all__ = ["ENCODERS", "GENERATORS", "DistributionEmbedding"]

ENCODERS: dict[str, Callable[[int, int, int], PooledSetEncoder]] = {
    "resnet": lambda d, width, code: ResNetSetEncoder(d, width=width, out_dim=code),
    "gnn": lambda d, width, code: GNNSetEncoder(d, width=width, out_dim=code),
    "median": lambda d, width, code: ResNetSetEncoder(d, width=width, out_dim=code, pool="median"),
    "attention": lambda d, width, code: AttentionSetEncoder(d, width=width, out_dim=code),
    "kernel-mean": lambda d, width, code: KernelMeanEncoder(d, out_dim=code),
    "mean": lambda d, width, code: MeanEncoder(d, out_dim=code),
}
"""Every set encoder of vectors by name, from features, width and length of the code."""


GENERATORS: dict[str, Callable[[int, int, int], nn.Module]] = {
    "cvae": lambda d, width, code: ConditionalVAE.of_points(d, code, width=width),
    "ddpm": lambda d, width, code: ConditionalDDPM(
        d, code, width=width, steps=100, beta_end=0.08, sampler_steps=50, loss_points=16
    ),
    "direct": lambda d, width, code: DirectGenerator(d, code, width=width),
}
"""Every generator of vectors by name."""

_CHUNK = 4096


class DistributionEmbedding(TransformerMixin, Estimator):
    r"""Embed whole populations (a patient's cells, a shop's baskets) and sample new members from the embedding.

    An autoencoder whose input is a set of samples and whose decoder is a conditional generator; see :class:`GDE`. The
    code depends on the empirical distribution of the set alone: not on the order of its points nor their number.

    ``X`` is a table (n, d) with ``group`` (a column of a data frame by name, or one value for each row), a list of
    arrays (m_i, d), or one array (sets, m, d).

    Args:
        encoder: "resnet", "gnn", "median" (robust), "attention" (quadratic in the size of a set), "kernel-mean" and
            "mean" (both fixed or linear: for little data), or a module of :mod:`holdfast.nn.sets`.
        generator: "ddpm" (best fidelity), "direct" (fast; sliced Wasserstein), "cvae" (fast; a latent and a bound of
            the likelihood), or a module with ``loss`` and ``sample``, see
            :class:`holdfast.distribution.ConditionalGenerator`.
        code_dim, width: length of a code, units of the networks.
        components: encode and generate that many principal components of the points, for wide tables.
        set_size: points drawn of every set at a step.
        mix: train on mixtures of that many sets beside the sets themselves; for few sets.
        split_loss: encode one half of the points and score the other.
        epochs, steps, batch_size, lr, schedule, ema: of training; ``steps`` overrides ``epochs``.
        device, verbose, random_state: as everywhere.

    Source: Fishman et al., "Generative distribution embeddings", NeurIPS 2025.

    Examples:
        >>> rng = np.random.default_rng(0)
        >>> sets = [rng.normal(i % 4, 1, (50, 2)) for i in range(16)]
        >>> model = DistributionEmbedding(width=32, code_dim=4, steps=60, lr=3e-3, random_state=0).fit(sets)
        >>> z = model.transform([rng.normal(1, 1, (500, 2))])
        >>> z.shape, model.resample(z, 10, random_state=0).shape
        ((1, 4), (1, 10, 2))
    """

    def __init__(
        self,
        encoder: str | nn.Module = "resnet",
        generator: str | nn.Module = "ddpm",
        code_dim: int = 32,
        width: int = 128,
        components: int | None = None,
        set_size: int = 64,
        mix: int | None = None,
        split_loss: bool = False,
        epochs: int = 100,
        steps: int | None = None,
        batch_size: int = 64,
        lr: float = 1e-3,
        schedule: str = "cosine",
        ema: float | None = None,
        device: str = "auto",
        verbose: int = 0,
        random_state: Any = None,
    ) -> None:
        self.encoder = encoder
        self.generator = generator
        self.code_dim = code_dim
        self.width = width
        self.components = components
        self.set_size = set_size
        self.mix = mix
        self.split_loss = split_loss
        self.epochs = epochs
        self.steps = steps
        self.batch_size = batch_size
        self.lr = lr
        self.schedule = schedule
        self.ema = ema
        self.device = device
        self.verbose = verbose
        self.random_state = random_state

    # -- fitting ---------------------------------------------------------------------------------------------------

    def fit(self, X: Any, y: Any = None, *, group: Any = None) -> Self:
        """Learn from sets; ``y`` is not used.

        Raises:
            ValueError: for sets without points, NaN or infinity, a group column that is not there, or options that do
                not fit the data.
        """
        check_number("epochs", self.epochs, low=1, integer=True)
        check_number("code_dim", self.code_dim, low=1, integer=True)
        if self.steps is not None:
            check_number("steps", self.steps, low=1, integer=True)
        if self.mix is not None:
            check_number("mix", self.mix, low=2, integer=True)
        table, names = self._sets(X, group)
        if len(table) < 2:
            raise ValueError("an embedding of populations needs at least two sets, got 1")
        self.groups_ = names
        self.n_features_in_ = table.shape[0]
        self.seed_ = seed_from(self.random_state)
        with isolated_rng(spawn_seed(self.seed_, "weights")):
            self.scaling_, self.model_ = self._make()
        self.scaling_.fit(table.points)
        scaled = SetTable(self.scaling_(table.points), table.sizes)
        encoder = self.model_.encoder
        if isinstance(encoder, KernelMeanEncoder):
            everyone = torch.arange(len(scaled)).repeat(-(-1000 // len(scaled)))
            encoder.fit(scaled.draw(everyone, 1, generator(spawn_seed(self.seed_, "bandwidth"))))
        batch = min(self.batch_size, len(scaled))
        if self.mix is not None and self.mix > batch:
            raise ValueError(f"mix={self.mix} sets cannot be taken from a batch of {batch}; lower mix")
        steps = self.steps if self.steps is not None else self.epochs * math.ceil(len(scaled) / batch)
        result = train_embedding(
            self.model_,
            scaled,
            steps=steps,
            set_size=self.set_size,
            batch_size=batch,
            lr=self.lr,
            schedule=self.schedule,
            ema=self.ema,
            mixer=None if self.mix is None else _Sometimes(self.mix),
            seed=self.seed_,
            device=self.device,
            progress="embedding" if self.verbose else False,
        )
        self.history_, self.n_steps_ = result.history, result.steps
        return self

    def _make(self) -> tuple[PointScaling, GDE]:
        scaling = PointScaling(self.n_features_in_, self.components)
        d = scaling.out_dim
        if isinstance(self.encoder, str):
            _check_name("encoder", self.encoder, ENCODERS)
            encoder = ENCODERS[self.encoder](d, self.width, self.code_dim)
        else:
            encoder = copy.deepcopy(self.encoder)
        if isinstance(self.generator, str):
            _check_name("generator", self.generator, GENERATORS)
            decoder = GENERATORS[self.generator](d, self.width, self.code_dim)
        else:
            decoder = copy.deepcopy(self.generator)
        return scaling, GDE(encoder, decoder, split_loss=self.split_loss)  # type: ignore[arg-type]

    def _sets(self, X: Any, group: Any) -> tuple[SetTable, np.ndarray]:
        """Return the points by set, and the names of the sets."""
        if isinstance(X, pd.DataFrame):
            if isinstance(group, str):
                if group not in X.columns:
                    raise ValueError(f"the table has no column {group!r}{suggest(group, X.columns)}")
                group, X = X[group].to_numpy(), X.drop(columns=group)
            text = [c for c in X.columns if not pd.api.types.is_numeric_dtype(X[c])]
            if text:
                raise ValueError(f"column {text[0]!r} holds no numbers; leave it out, or name it as group")
            X = X.to_numpy(dtype=np.float64)
        elif isinstance(group, str):
            raise ValueError(f"group={group!r} names a column, which needs a data frame; give one value for each row")
        if group is None:
            if isinstance(X, (np.ndarray, Tensor)) and X.ndim == 2:
                raise ValueError(
                    "one table (n, d) needs group, which says what set each row belongs to; give a list of arrays, or "
                    "an array (sets, m, d), if the sets are apart"
                )
            table = SetTable.of([as_tensor(s).float() for s in X])
            names = np.arange(len(table))
        else:
            points = as_tensor(X).float()
            check_matrix("X", points)
            values = np.asarray(group)
            check_same_length(X=points, group=values)
            missing = pd.isna(values)
            if missing.any():
                raise ValueError(f"row {int(missing.argmax())} has no group; fill it or drop the row")
            names, codes = np.unique(values, return_inverse=True)
            order = np.argsort(codes, kind="stable")
            sizes = torch.from_numpy(np.bincount(codes))
            table = SetTable(points[torch.from_numpy(order).to(points.device)], sizes)
        if len(table.shape) != 1:
            raise ValueError(f"points must be vectors, got shape {table.shape}; for images use GDE and ConvSetEncoder")
        return table, names

    # -- use -------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def transform(self, X: Any, *, group: Any = None) -> Float[np.ndarray, "sets code"]:
        """Return one code for every set; of a table, in the order of the sorted names of its groups.

        Raises:
            ValueError: for points of another length than those of training, NaN or infinity, or an empty set.
        """
        check_is_fitted(self, "model_")
        table, _ = self._sets(X, group)
        if table.shape[0] != self.n_features_in_:
            raise ValueError(f"points must have {self.n_features_in_} features as in fit, got {table.shape[0]}")
        model, scaling = self._on_device()
        rows = []
        for i in range(len(table)):
            # One set at a time: its size is its own, and a large one is encoded in pieces.
            points = scaling(table.set(i).to(scaling.mean.device))
            rows.append(model.embed(points[None], _CHUNK)[0].cpu())
        return torch.stack(rows).numpy()

    @torch.no_grad()
    def resample(self, z: Any, n: int, random_state: Any = None) -> Float[np.ndarray, "codes n features"]:
        """Draw ``n`` new points from the law of every code, in the units of the data."""
        codes = self._codes(z)
        model, scaling = self._on_device()
        rng = generator(spawn_seed(seed_from(random_state), "resample"), scaling.mean.device)
        return scaling.back(model.resample(codes.to(scaling.mean.device), n, rng)).cpu().numpy()

    def interpolate(self, z0: Any, z1: Any, steps: int = 5) -> Float[np.ndarray, "steps code"]:
        """Return ``steps`` codes on the line between two, both included; :meth:`resample` draws from them."""
        a, b = self._codes(np.atleast_2d(z0)), self._codes(np.atleast_2d(z1))
        return interpolate_codes(a[0], b[0], steps).numpy()

    def distance(self, a: Any, b: Any = None) -> Float[np.ndarray, "a b"]:
        """Return the Euclidean distance of every code in ``a`` to every one in ``b`` (by default ``a`` again)."""
        first = self._codes(a)
        second = first if b is None else self._codes(b)
        return torch.cdist(first, second, compute_mode="donot_use_mm_for_euclid_dist").numpy()

    def _codes(self, z: Any) -> Tensor:
        check_is_fitted(self, "model_")
        codes = as_tensor(np.asarray(z)).float().cpu()
        length = self.model_.encoder.out_dim
        if codes.ndim != 2 or codes.shape[1] != length:
            raise ValueError(
                f"codes must have shape (n, {length}), got {tuple(codes.shape)}; transform makes codes of sets"
            )
        check_finite("codes", codes)
        return codes

    def _on_device(self) -> tuple[GDE, PointScaling]:
        device = pick_device(self.device)
        return self.model_.to(device).eval(), self.scaling_.to(device)

    # -- saving ----------------------------------------------------------------------------------------------------

    def _get_state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        check_is_fitted(self, "model_")
        params: dict[str, Any] = self.get_params(deep=False)
        for name in ("encoder", "generator"):
            if not isinstance(params[name], str):
                params[name] = {"module": type(params[name]).__qualname__}
        params["random_state"] = self.seed_
        fitted = {k: getattr(self, k) for k in ("seed_", "n_features_in_", "history_", "n_steps_")}
        state = {"params": params, "fitted": fitted, "groups": self.groups_.tolist()}
        tensors = {f"model.{k}": v for k, v in self.model_.state_dict().items()}
        tensors |= {f"scaling.{k}": v for k, v in self.scaling_.state_dict().items()}
        return state, tensors

    def _set_state(self, state: dict[str, Any], tensors: dict[str, Tensor], **objects: Any) -> None:
        params = dict(state["params"])
        own = [name for name in ("encoder", "generator") if isinstance(params[name], dict)]
        given = objects.get("backbone")
        if own:
            if given is None:
                names = " and ".join(f"{name} {params[name]['module']}" for name in own)
                pair = " a pair (encoder, generator)" if len(own) == 2 else " it"
                raise ValueError(
                    f"this model was fitted with your own {names}; pass load(path, backbone=...) with{pair}"
                )
            for name, module in zip(own, given if len(own) == 2 else (given,)):
                params[name] = module
        self.set_params(**params)
        for k, value in state["fitted"].items():
            setattr(self, k, value)
        self.groups_ = np.asarray(state["groups"])
        with isolated_rng(self.seed_):
            self.scaling_, self.model_ = self._make()
        self.model_.load_state_dict({k[6:]: v for k, v in tensors.items() if k.startswith("model.")})
        self.scaling_.load_state_dict({k[8:]: v for k, v in tensors.items() if k.startswith("scaling.")})
        self.model_.eval()


class _Sometimes(SetMixer):
    """Mix half of the sets of a batch and leave the others as they are."""

    def __call__(self, x: Tensor, generator: torch.Generator) -> Tensor:
        keep = torch.rand(len(x), generator=generator, device=generator.device) < 0.5
        return torch.where(keep.view(-1, *(1,) * (x.ndim - 1)).to(x.device), x, super().__call__(x, generator))


def _check_name(role: str, name: str, known: dict[str, Any]) -> None:
    if name not in known:
        raise ValueError(f"there is no {role} {name!r}{suggest(name, known)}")
