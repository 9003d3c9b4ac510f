"""Images on request: a conditional autoencoder behind scikit-learn's conventions."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self

import numpy as np
import torch
from jaxtyping import Float
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from holdfast.core.arrays import as_tensor
from holdfast.core.checks import check_choice, check_finite, check_number
from holdfast.core.engine import pick_device
from holdfast.core.estimator import Estimator
from holdfast.core.random import generator, isolated_rng, seed_from, spawn_seed
from holdfast.distribution.attributes.embedding import AttributeEmbedding
from holdfast.distribution.attributes.requests import AttributeTable, read_attributes
from holdfast.distribution.attributes.training import refuse_constant, train_attributes
from holdfast.distribution.generators.cvae import ConditionalVAE
from holdfast.distribution.generators.likelihood import GaussianLikelihood, Likelihood, make_likelihood
from holdfast.distribution.generators.prior import AttributePrior
from holdfast.distribution.variational import KLSchedule
from holdfast.nn.coders import ConvDecoder, ConvEncoder, MLPDecoder, MLPEncoder

__all__ = ["AttributeGenerator"]

_WIDTHS = (32, 64, 128, 256)


class AttributeGenerator(Estimator):
    r"""Learn images with attributes; then draw, edit and complete them by request.

    A :class:`ConditionalVAE`. ``X`` holds one image for every row, (n, channels, height, width), (n, height, width) or
    (n, d), integers from 0 to 255 or floats in [0, 1]. ``C`` is a table of attributes, 0 or 1 (any number where named
    in ``continuous``), with NaN where one is not known. A request may leave attributes out: a model that saw missing
    ones is told so, any other has them drawn from training rows that agree with the rest.

    Args:
        network: "mlp", "conv", or "auto": convolutions for images whose sides are multiples of 16 and at least 32.
        latent, width: length of the latent; units of a perceptron.
        prior: "learned", "standard" or "mixture", see :class:`AttributePrior`.
        likelihood: "gaussian" with deviation ``sd``, "bernoulli", "discretised".
        sd: of the Gaussian likelihood; weight and ``sd`` act as one number, so choose it first.
        beta, warmup: weight of the divergence, and the share of steps over which it rises from 0.
        free_bits, alpha: see :class:`ConditionalVAE`.
        hide: probability with which an attribute is hidden in training, so that requests may leave it out.
        continuous: names of attributes that are not binary.
        epochs, steps, batch_size, lr: of training; ``steps`` overrides ``epochs``.
        device, verbose, random_state: as everywhere.

    Source: Sohn, Lee and Yan, "Learning structured output representation using deep conditional generative models",
    NeurIPS 2015; Debbagh, "Learning structured output representations from attributes using deep conditional
    generative models", 2023.

    Examples:
        >>> from holdfast.data.worlds.faces import make_attribute_faces
        >>> faces = make_attribute_faces(64, seed=1)
        >>> model = AttributeGenerator(steps=5, width=16, random_state=0).fit(faces.x, faces.c)
        >>> model.sample(faces.c[:2], 3, random_state=0).shape
        (2, 3, 1, 20, 20)
    """

    def __init__(
        self,
        network: Literal["auto", "mlp", "conv"] = "auto",
        latent: int = 16,
        width: int = 256,
        prior: Literal["learned", "standard", "mixture"] = "learned",
        likelihood: Literal["gaussian", "bernoulli", "discretised"] = "gaussian",
        sd: float = 0.1,
        beta: float = 1.0,
        warmup: float = 0.1,
        free_bits: float = 0.0,
        alpha: float = 1.0,
        hide: float = 0.0,
        continuous: Sequence[str] = (),
        epochs: int = 50,
        steps: int | None = None,
        batch_size: int = 128,
        lr: float = 1e-3,
        device: str = "auto",
        verbose: int = 0,
        random_state: Any = None,
    ) -> None:
        self.network = network
        self.latent = latent
        self.width = width
        self.prior: Literal["learned", "standard", "mixture"] = prior
        self.likelihood: Literal["gaussian", "bernoulli", "discretised"] = likelihood
        self.sd = sd
        self.beta = beta
        self.warmup = warmup
        self.free_bits = free_bits
        self.alpha = alpha
        self.hide = hide
        self.continuous = continuous
        self.epochs = epochs
        self.steps = steps
        self.batch_size = batch_size
        self.lr = lr
        self.device = device
        self.verbose = verbose
        self.random_state = random_state

    # -- fitting -------------------------------------------------------------------------------------------------------

    def fit(self, X: Any, C: Any) -> Self:
        """Learn from images and their attributes.

        Raises:
            ValueError: for pixels outside [0, 1], NaN, different lengths, an attribute that is neither 0 nor 1 and not
                named in ``continuous``, attributes that are all constant, or options that do not fit.
        """
        check_choice("network", self.network, ["auto", "mlp", "conv"])
        check_number("epochs", self.epochs, low=1, integer=True)
        check_number("beta", self.beta, low=0)
        check_number("warmup", self.warmup, low=0, high=1)
        if self.steps is not None:
            check_number("steps", self.steps, low=1, integer=True)
        x = _pixels(X)
        table = read_attributes(C)
        if len(x) != len(table.values):
            raise ValueError(
                f"there must be one row of attributes for every image, got {len(table.values)} for {len(x)}"
            )
        for name in self.continuous:
            check_choice("continuous", name, list(table.names))
        _refuse_other_than_binary(table, self.continuous)
        refuse_constant(table.values, table.known)
        self.attributes_ = table.names
        self.shape_ = tuple(x.shape[1:])
        self.takes_missing_ = bool(self.hide > 0 or not table.known.all())
        self.seed_ = seed_from(self.random_state)
        steps = self.steps if self.steps is not None else self.epochs * math.ceil(len(x) / self.batch_size)
        with isolated_rng(spawn_seed(self.seed_, "weights")):
            self.model_ = self._make(steps)
        self._embedding().fit(table.values, table.known)
        self.table_ = torch.where(table.known, table.values, torch.nan)
        result = train_attributes(
            self.model_,
            x,
            table.values,
            steps=steps,
            mask=table.known,
            hide=self.hide,
            batch_size=self.batch_size,
            lr=self.lr,
            seed=self.seed_,
            device=self.device,
            progress="images by attributes" if self.verbose else False,
        )
        self.history_, self.n_steps_ = result.history, result.steps
        return self

    def _make(self, steps: int) -> ConditionalVAE:
        shape, names = self.shape_, self.attributes_
        even = len(shape) == 3 and min(shape[1:]) >= 32 and all(side % 16 == 0 for side in shape[1:])
        convolutional = self.network == "conv" or (self.network == "auto" and even)
        columns = tuple(names.index(name) for name in self.continuous)
        embedding = AttributeEmbedding(len(names), 64, missing=self.takes_missing_, continuous=columns)
        if convolutional:
            recogniser: Any = ConvEncoder(shape, 64, 2 * self.latent, widths=_WIDTHS)
            decoder: Any = ConvDecoder(self.latent + 64, shape, widths=_WIDTHS[::-1])
        else:
            recogniser = MLPEncoder(shape, 64, 2 * self.latent, width=self.width)
            decoder = MLPDecoder(self.latent + 64, shape, width=self.width)
        likelihood: Likelihood = (
            GaussianLikelihood(self.sd) if self.likelihood == "gaussian" else make_likelihood(self.likelihood)
        )
        return ConditionalVAE(
            recogniser if self.alpha > 0 else None,
            AttributePrior(64, self.latent, self.prior),
            decoder,
            embedding=embedding,
            likelihood=likelihood,
            beta=KLSchedule("linear", self.beta, warmup=round(self.warmup * steps)),
            free_bits=self.free_bits,
            alpha=self.alpha,
        )

    def _embedding(self) -> AttributeEmbedding:
        return self.model_.embedding  # type: ignore[return-value]

    # -- use -----------------------------------------------------------------------------------------------------------

    def sample(
        self, C: Any, n: int = 1, *, temperature: float = 1.0, mean: bool = True, random_state: Any = None
    ) -> Float[np.ndarray, "requests n *shape"]:
        """Draw ``n`` images for every request.

        Args:
            C: requests: a table, or one request by name, such as ``{"glasses": 1}``.
            n: images for each.
            temperature: factor on the latent's deviation, above 0.
            mean: return means of pixels, without the noise of the likelihood, or draw that too.

        Raises:
            ValueError: for an attribute that is not there, a temperature that is not positive, or no images.

        Warns:
            UserWarning: for a value that no training row has, or a number outside the range of training.
        """
        check_number("temperature", temperature, low=0, open_low=True)
        check_number("n", n, low=1, integer=True)
        table = self._requests(C)
        self._warn(table)
        seed = seed_from(random_state)
        values, known = (t.repeat_interleave(n, dim=0) for t in (table.values, table.known))
        filled = self._filled(values, known, seed)
        model, device = self._on_device()
        rng = generator(spawn_seed(seed, "sample"), device)
        mask = known.to(device) if self.takes_missing_ else None
        out = model.sample(filled.to(device), 1, rng, mask=mask, temperature=temperature, mean=mean)
        return out[:, 0].unflatten(0, (-1, n)).cpu().numpy()

    def resample(
        self, n: int, law: Mapping[str, float], *, random_state: Any = None
    ) -> tuple[Float[np.ndarray, "n *shape"], Float[np.ndarray, "n attributes"]]:
        """Draw a data set with other frequencies: attributes of training rows, those in ``law`` drawn anew.

        Each attribute in ``law`` is 1 with the given probability whatever the others are, which balances a rare one and
        breaks its link to the rest.

        Returns:
            Images and their attributes.
        """
        check_number("n", n, low=1, integer=True)
        check_is_fitted(self, "model_")
        for name, p in law.items():
            check_choice("law", name, [a for a in self.attributes_ if a not in self.continuous])
            check_number(f"probability of {name}", p, low=0, high=1)
        seed = seed_from(random_state)
        rng = generator(spawn_seed(seed, "law"))
        whole = self.table_[~self.table_.isnan().any(1)]
        if not len(whole):
            raise ValueError("no training row has all attributes: there are none to draw from")
        c = whole[torch.randint(len(whole), (n,), generator=rng)]
        for name, p in law.items():
            c[:, self.attributes_.index(name)] = (torch.rand(n, generator=rng) < p).float()
        return self.sample(c.numpy(), 1, random_state=seed)[:, 0], c.numpy()

    def reconstruct(self, X: Any, C: Any) -> Float[np.ndarray, "n *shape"]:
        """Encode images and decode them."""
        x, c, mask = self._pairs(X, C)
        return self.model_.reconstruct(x, c, mask).cpu().numpy()

    def edit(self, X: Any, C: Any, C_new: Any) -> Float[np.ndarray, "n *shape"]:
        """Return the images as they would be with other attributes, see :meth:`ConditionalVAE.edit`."""
        x, c, mask = self._pairs(X, C)
        table = self._requests(C_new)
        if len(table.values) == 1 < len(x):
            # One request for all: what it does not name stays as it is.
            known, values = table.known.to(x.device), table.values.to(x.device)
            new = torch.where(known, values, c)
            mask_new = None if mask is None else mask | known
        else:
            new, mask_new = table.values.to(x.device), table.known.to(x.device) if self.takes_missing_ else None
            if not self.takes_missing_:
                new = torch.where(table.known.to(x.device), new, c)
        self._warn(table)
        return self.model_.edit(x, c, new, mask=mask, mask_new=mask_new).cpu().numpy()

    def log_likelihood(self, X: Any, C: Any, S: int = 100, *, random_state: Any = None) -> Float[np.ndarray, " n"]:
        """Estimate log p(x | c) of every image by importance sampling with S latents."""
        x, c, mask = self._pairs(X, C)
        rng = generator(spawn_seed(seed_from(random_state), "likelihood"), x.device)
        return self.model_.log_likelihood(x, c, S, mask=mask, generator=rng).cpu().numpy()

    def transform(self, X: Any, C: Any) -> Float[np.ndarray, "n latent"]:
        """Return the posterior's mean of every image."""
        return self.model_.encode(*self._pairs(X, C)).cpu().numpy()

    def _pairs(self, X: Any, C: Any) -> tuple[Tensor, Tensor, Tensor | None]:
        table = self._requests(C)
        x = _pixels(X)
        if tuple(x.shape[1:]) != self.shape_:
            raise ValueError(f"images must have shape (n, {', '.join(map(str, self.shape_))}), got {tuple(x.shape)}")
        if not self.takes_missing_ and not bool(table.known.all()):
            raise ValueError("this model saw no missing attributes: it needs all of them; fit with hide > 0")
        _, device = self._on_device()
        mask = table.known.to(device) if self.takes_missing_ else None
        return x.to(device), table.values.to(device), mask

    def _requests(self, C: Any) -> AttributeTable:
        check_is_fitted(self, "model_")
        table = read_attributes(C, self.attributes_)
        _refuse_other_than_binary(table, self.continuous)
        return table

    def _filled(self, values: Tensor, known: Tensor, seed: int) -> Tensor:
        """Draw what a request leaves open from training rows that agree with the rest of it."""
        if self.takes_missing_ or bool(known.all()):
            return values
        rng = generator(spawn_seed(seed, "fill"))
        filled = values.clone()
        for request in torch.cat([values, known.float()], 1).unique(dim=0):
            value, told = request.chunk(2)
            rows = ((values == value) & (known == told.bool())).all(1).nonzero().flatten()
            agree = ((self.table_ == value) | ~told.bool()).all(1).nonzero().flatten()
            pool = agree if len(agree) else torch.arange(len(self.table_))
            drawn = self.table_[pool[torch.randint(len(pool), (len(rows),), generator=rng)]]
            filled[rows] = torch.where(told.bool(), value, drawn)
        return filled

    def _warn(self, table: AttributeTable) -> None:
        embedding = self._embedding()
        at = embedding.low.device
        outside = embedding.outside(table.values.to(at), table.known.to(at))
        for k, name in enumerate(self.attributes_):
            if bool(embedding.is_continuous[k]):
                if bool(outside[:, k].any()):
                    warnings.warn(
                        f"{name} is asked for outside the range of training, {float(embedding.low[k]):g} to "
                        f"{float(embedding.high[k]):g}",
                        UserWarning,
                        stacklevel=3,
                    )
                continue
            for v in table.values[table.known[:, k], k].unique().tolist():
                count = int((self.table_[:, k] == v).sum())
                if count == 0:
                    warnings.warn(
                        f"{name} = {v:g} is asked for, but occurs in 0 of {len(self.table_)} training rows: it cannot "
                        "be composed from what was seen",
                        UserWarning,
                        stacklevel=3,
                    )

    def _on_device(self) -> tuple[ConditionalVAE, torch.device]:
        device = torch.device(pick_device(self.device))
        return self.model_.to(device).eval(), device

    # -- saving --------------------------------------------------------------------------------------------------------

    def _get_state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        check_is_fitted(self, "model_")
        params = self.get_params(deep=False) | {"random_state": self.seed_, "continuous": list(self.continuous)}
        names = ("seed_", "takes_missing_", "history_", "n_steps_")
        fitted = {k: getattr(self, k) for k in names}
        fitted |= {"attributes_": list(self.attributes_), "shape_": list(self.shape_)}
        tensors = {f"model.{k}": v for k, v in self.model_.state_dict().items()}
        return {"params": params, "fitted": fitted}, tensors | {"table": self.table_}

    def _set_state(self, state: dict[str, Any], tensors: dict[str, Tensor], **objects: Any) -> None:
        self.set_params(**state["params"])
        for k, value in state["fitted"].items():
            setattr(self, k, tuple(value) if k in ("attributes_", "shape_") else value)
        self.table_ = tensors["table"]
        with isolated_rng(self.seed_):
            self.model_ = self._make(self.n_steps_)
        self.model_.load_state_dict({k[6:]: v for k, v in tensors.items() if k.startswith("model.")})
        self.model_.eval()


def _refuse_other_than_binary(table: AttributeTable, continuous: Sequence[str]) -> None:
    binary = torch.tensor([name not in continuous for name in table.names])
    wrong = table.known & binary & (table.values != 0) & (table.values != 1)
    if bool(wrong.any()):
        row, column = wrong.nonzero()[0].tolist()
        value = float(table.values[row, column])
        raise ValueError(
            f"attribute {table.names[column]!r} must be 0 or 1, but row {row} has {value:g}; "
            "name it in continuous if it is a number"
        )


def _pixels(X: Any) -> Tensor:
    x = as_tensor(X)
    if x.ndim < 2:
        raise ValueError(f"images must have shape (n, ...), got {tuple(x.shape)}")
    if not x.is_floating_point():
        x = x.float() / 255
    x = x.float()
    check_finite("X", x)
    low, high = float(x.min()), float(x.max())
    if not (low >= 0 and high <= 1):
        raise ValueError(f"pixels must be integers from 0 to 255 or floats in [0, 1], got {low:g} to {high:g}")
    return x
