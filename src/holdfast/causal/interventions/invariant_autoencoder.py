"""Autoencoders whose code is, in the mean, linear in an action."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, Protocol, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from holdfast.causal.interventions.linear_invariance import LinearInvariancePenalty, mmr_test
from holdfast.core.batching import Batches, BatchPlan
from holdfast.core.checks import check_choice, check_number, check_same_length
from holdfast.core.random import generator, isolated_rng, spawn_seed
from holdfast.core.results import TrainResult
from holdfast.core.steps import StepInfo
from holdfast.core.training import train

__all__ = [
    "Autoencoder",
    "InvariantAutoencoder",
    "LambdaChoice",
    "PlainAutoencoder",
    "UnconditionalVAE",
    "reconstruction_error",
    "select_lambda",
    "train_invariant_autoencoder",
]

_ROWS = 4096


class Autoencoder(Protocol):
    """What the constraint can be put on: a module with these three methods."""

    def encode(self, x: Tensor) -> Tensor:
        """Return codes (batch, d), with gradient; of a law of codes, its mean."""
        ...

    def decode(self, code: Tensor) -> Tensor:
        """Return what the codes stand for. Actions are no input: features depend on them through the state alone."""
        ...

    def loss(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return the loss that the module is trained on without the constraint, a scalar."""
        ...


class PlainAutoencoder(nn.Module):
    r"""Encoder and decoder with the squared error :math:`\lVert x - \eta(\phi(x)) \rVert^2`, a mean over entries.

    Examples:
        >>> model = PlainAutoencoder(nn.Linear(6, 1), nn.Linear(1, 6))
        >>> x = torch.zeros(4, 6)
        >>> model.encode(x).shape, model.decode(model.encode(x)).shape, model.loss(x).ndim
        (torch.Size([4, 1]), torch.Size([4, 6]), 0)
    """

    def __init__(self, encoder: nn.Module, decoder: nn.Module) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder

    def encode(self, x: Float[Tensor, "batch *shape"]) -> Float[Tensor, "batch d"]:
        """Return codes."""
        return self.encoder(x)

    def decode(self, code: Float[Tensor, "batch d"]) -> Float[Tensor, "batch *shape"]:
        """Return reconstructions."""
        return self.decoder(code)

    def loss(self, x: Float[Tensor, "batch *shape"], generator: torch.Generator | None = None) -> Float[Tensor, ""]:
        """Return the mean squared error; nothing is drawn."""
        return (x - self.decode(self.encode(x))).square().mean()


class UnconditionalVAE(nn.Module):
    """A conditional variational autoencoder under one fixed condition, as an :class:`Autoencoder`.

    Its code is the posterior's mean, and its loss is the model's own.

    Args:
        vae: with ``posterior``, ``embedding``, ``generator``, ``likelihood`` and ``loss``, such as
            :class:`holdfast.distribution.generators.cvae.ConditionalVAE`.
        condition: (c,) the condition that all points are given. It must not tell of the action.
    """

    condition: Tensor

    def __init__(self, vae: nn.Module, condition: Float[Tensor, " c"]) -> None:
        super().__init__()
        self.vae = vae
        self.register_buffer("condition", condition.detach().clone())

    def _given(self, n: int) -> Tensor:
        return self.condition.expand(n, -1)

    def encode(self, x: Float[Tensor, "batch *shape"]) -> Float[Tensor, "batch latent"]:
        """Return the mean of the posterior."""
        vae = cast("Any", self.vae)
        return vae.posterior(x, vae.embedding(self._given(len(x)), None)).mu

    def decode(self, code: Float[Tensor, "batch latent"]) -> Float[Tensor, "batch *shape"]:
        """Return the decoder's mean."""
        vae = cast("Any", self.vae)
        e = vae.embedding(self._given(len(code)), None)
        return vae.likelihood.mean(vae.generator(torch.cat([code, e], dim=-1)))

    def loss(self, x: Float[Tensor, "batch *shape"], generator: torch.Generator | None = None) -> Float[Tensor, ""]:
        """Return the loss of the model."""
        return cast("Any", self.vae).loss(x, self._given(len(x)), generator)


class InvariantAutoencoder(nn.Module):
    r"""An autoencoder with the linear invariance constraint on its code.

    .. math:: L(\phi, \eta) = L_{\text{own}}(\phi, \eta) + \lambda\, Q(\phi), \qquad
              Q = E\bigl[r^\top r' \kappa(A, A')\bigr]

    see :class:`LinearInvariancePenalty`. Where the actions move a hidden state linearly and the features are an
    injective function of it, a code with Q = 0 that still reconstructs is the state up to an affine map. With
    :math:`\lambda = 0` the loss is the autoencoder's own, to the last bit.

    Args:
        autoencoder: a module with ``encode``, ``decode`` and ``loss``; see :class:`Autoencoder`.
        penalty: Q.
        lam: :math:`\lambda`; 10 suits features of unit variance.

    Raises:
        TypeError: for an autoencoder without one of the methods.
        ValueError: for a negative weight.

    Source: Saengkyongam et al., "Identifying representations for intervention extrapolation", ICLR 2024, section 4.

    Examples:
        >>> model = InvariantAutoencoder(PlainAutoencoder(nn.Linear(6, 1), nn.Linear(1, 6)), lam=3.0)
        >>> sorted(model.objective(torch.randn(50, 6), torch.randn(50, 1)))
        ['loss', 'penalty', 'reconstruction']
    """

    def __init__(
        self, autoencoder: nn.Module, penalty: LinearInvariancePenalty | None = None, lam: float = 10.0
    ) -> None:
        super().__init__()
        missing = [m for m in ("encode", "decode", "loss") if not callable(getattr(autoencoder, m, None))]
        if not isinstance(autoencoder, nn.Module) or missing:
            lacks = f" without {', '.join(missing)}" if missing else ""
            raise TypeError(
                f"autoencoder must be a module with encode, decode and loss, got {type(autoencoder).__name__}{lacks}"
            )
        self.autoencoder = autoencoder
        self.penalty = LinearInvariancePenalty() if penalty is None else penalty
        self.lam = check_number("lam", lam, low=0)

    def encode(self, x: Float[Tensor, "batch *shape"]) -> Float[Tensor, "batch d"]:
        """Return codes."""
        return cast("Autoencoder", self.autoencoder).encode(x)

    def decode(self, code: Float[Tensor, "batch d"]) -> Float[Tensor, "batch *shape"]:
        """Return reconstructions."""
        return cast("Autoencoder", self.autoencoder).decode(code)

    def objective(
        self,
        x: Float[Tensor, "batch *shape"],
        action: Float[Tensor, "batch k"],
        generator: torch.Generator | None = None,
    ) -> dict[str, Float[Tensor, ""]]:
        """Return the loss with its parts; without a weight there is no penalty."""
        own = cast("Autoencoder", self.autoencoder).loss(x, generator)
        if self.lam == 0:
            return {"loss": own, "reconstruction": own.detach()}
        penalty = self.penalty(self.encode(x), action)
        return {"loss": own + self.lam * penalty, "reconstruction": own.detach(), "penalty": penalty.detach()}


def train_invariant_autoencoder(
    model: InvariantAutoencoder,
    X: Float[Tensor, "n *shape"],
    A: Float[Tensor, "n k"],
    *,
    steps: int = 800,
    batch_size: int = 4096,
    lr: float = 4e-3,
    schedule: str = "cosine",
    device: str | torch.device = "auto",
    progress: bool | str = False,
    seed: int = 0,
) -> TrainResult:
    """Train by Adam on the objective; the kernel's bandwidth is set once, by all actions.

    Batches should be large (all rows, where they fit): the noise of the penalty, about one over the batch, times its
    weight must stay below the reconstruction error.

    Args:
        model: trained in place.
        X, A: features, and actions (best standardised).
        steps, batch_size, lr, schedule, device, progress, seed: of :func:`holdfast.core.training.train`.

    Raises:
        ValueError: for lengths that differ.

    Examples:
        >>> model = InvariantAutoencoder(PlainAutoencoder(nn.Linear(6, 1), nn.Linear(1, 6)))
        >>> train_invariant_autoencoder(model, torch.randn(50, 6), torch.randn(50, 1), steps=2, device="cpu").steps
        2
    """
    n = check_same_length(X=X, A=A)
    model.penalty.fit(A)
    # A short last batch would have a noisier penalty.
    plan = BatchPlan(n, batch_size, seed=spawn_seed(seed, "batches"), drop_last=True)

    def loss(module: nn.Module, batch: Any, info: StepInfo) -> dict[str, Tensor]:
        x, action = batch
        return cast("InvariantAutoencoder", module).objective(x, action, info.generator)

    return train(
        model,
        loss,
        Batches(plan, lambda rows: (X[rows], A[rows])),
        steps=steps,
        optimizer="adam",
        lr=lr,
        schedule=schedule,
        device=device,
        progress=progress,
        seed=seed,
    )


@torch.no_grad()
def encode_all(model: nn.Module, X: Float[Tensor, "n *shape"]) -> Float[Tensor, "n d"]:
    """Return the codes of all rows, on the CPU in double precision."""
    device = next(model.parameters()).device
    return torch.cat([cast("Any", model).encode(x.to(device)).cpu() for x in X.split(_ROWS)]).double()


@torch.no_grad()
def reconstruction_error(model: nn.Module, X: Float[Tensor, "n *shape"]) -> float:
    r"""Return :math:`\sum \lVert x - \hat x \rVert^2 / \sum \lVert x - \bar x \rVert^2`, that is :math:`1 - R^2`.

    Examples:
        >>> x = torch.randn(9, 2)
        >>> reconstruction_error(PlainAutoencoder(nn.Identity(), nn.Identity()), x)
        0.0
    """
    ae, device = cast("Any", model), next(iter(model.parameters()), X).device
    error = sum(float((x - ae.decode(ae.encode(x.to(device))).cpu()).double().square().sum()) for x in X.split(_ROWS))
    return error / float((X - X.mean(0)).double().square().sum())


class LambdaChoice(NamedTuple):
    """The weight that was chosen and what each did on held-out rows.

    Attributes:
        lam: the choice.
        errors: reconstruction error by weight, 0 included.
        p_values: of :func:`mmr_test` by weight, 0 included.
    """

    lam: float
    errors: dict[float, float]
    p_values: dict[float, float]


def select_lambda(
    make: Callable[[], nn.Module],
    X: Float[Tensor, "n *shape"],
    A: Float[Tensor, "n k"],
    lambdas: Sequence[float] = (0.3, 1.0, 3.0, 10.0, 30.0),
    *,
    rule: Literal["reconstruction", "test"] = "reconstruction",
    tolerance: float = 0.2,
    level: float = 0.05,
    held_out: float = 0.2,
    penalty: LinearInvariancePenalty | None = None,
    seed: int = 0,
    **training: Any,
) -> LambdaChoice:
    """Choose the weight of the constraint on held-out rows.

    "reconstruction" takes the largest weight whose reconstruction error is at most ``1 + tolerance`` times that
    without the constraint; "test" the smallest at which :func:`mmr_test` does not reject at ``level``.

    Args:
        make: returns a fresh autoencoder.
        X, A: features and actions.
        lambdas: weights to try, besides 0.
        held_out: share of the rows that training does not see.
        penalty, training: see :class:`InvariantAutoencoder` and :func:`train_invariant_autoencoder`.

    Raises:
        ValueError: for no weights, numbers out of range, or lengths that differ.

    Warns:
        UserWarning: where no weight passes; then "reconstruction" gives the smallest and "test" the largest.

    Examples:
        >>> make = lambda: PlainAutoencoder(nn.Linear(3, 1), nn.Linear(1, 3))
        >>> x, a = torch.randn(2, 100, 3)
        >>> choice = select_lambda(make, x, a[:, :1], (1.0,), steps=2, device="cpu", tolerance=1.0)
        >>> choice.lam, sorted(choice.errors)
        (1.0, [0.0, 1.0])
    """
    check_choice("rule", rule, ["reconstruction", "test"])
    check_number("tolerance", tolerance, low=0)
    check_number("level", level, low=0, high=1, open_low=True, open_high=True)
    check_number("held_out", held_out, low=0, high=1, open_low=True, open_high=True)
    weights = sorted({check_number("lambdas", v, low=0, open_low=True) for v in lambdas})
    if not weights:
        raise ValueError("lambdas must name at least one weight to try")
    n = check_same_length(X=X, A=A)
    order = torch.randperm(n, generator=generator(spawn_seed(seed, "held out")))
    cut = max(1, round(held_out * n))
    test, rest = order[:cut], order[cut:]
    errors: dict[float, float] = {}
    p_values: dict[float, float] = {}
    for lam in [0.0, *weights]:
        with isolated_rng(spawn_seed(seed, "weights")):
            model = InvariantAutoencoder(make(), penalty, lam)
        train_invariant_autoencoder(model, X[rest], A[rest], seed=seed, **training)
        errors[lam] = reconstruction_error(model, X[test])
        p_values[lam] = mmr_test(encode_all(model, X[test]), A[test], seed=seed).p_value
    if rule == "reconstruction":
        passed = [v for v in weights if errors[v] <= (1 + tolerance) * errors[0.0]]
        chosen = max(passed, default=weights[0])
    else:
        passed = [v for v in weights if p_values[v] >= level]
        chosen = min(passed, default=weights[-1])
    if not passed:
        what = "keeps the reconstruction" if rule == "reconstruction" else "makes the code linear in the action"
        warnings.warn(f"no weight among {weights} {what}; {chosen:g} is taken", UserWarning, stacklevel=2)
    return LambdaChoice(chosen, errors, p_values)
