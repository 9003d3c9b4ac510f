"""Declare a problem, train once, and get posteriors in milliseconds for priors chosen at run time."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any, Literal, Self

import torch
from jaxtyping import Float
from sklearn.utils.validation import check_is_fitted
from torch import Tensor
from torch.distributions import ExpTransform, SigmoidTransform, Transform

from holdfast.core.checks import check_choice, check_finite, check_number
from holdfast.core.engine import pick_device
from holdfast.core.estimator import Estimator
from holdfast.core.random import generator, isolated_rng, seed_from, spawn_seed
from holdfast.distribution.gaussian_mixture import GaussianMixture
from holdfast.distribution.transformer.calibration import CalibrationReport, simulation_based_calibration
from holdfast.distribution.transformer.embedding import ParametricPriorEmbedding
from holdfast.distribution.transformer.filtering import MixtureFilter
from holdfast.distribution.transformer.model import DistributionTransformer, MappedMixture, check_components
from holdfast.distribution.transformer.problem import InferenceProblem
from holdfast.distribution.transformer.training import fit_amortised

__all__ = ["AmortizedPosterior"]

_REFERENCE, _FAR, _RIDGE = 4096, 2.0, 1e-2


class AmortizedPosterior(Estimator):
    """A :class:`DistributionTransformer` with its problem: ``fit`` simulates, ``posterior`` answers.

    Args:
        problem: the meta-prior and the observation models.
        components: K of the posterior; for mixture priors also that of the prior.
        sample_space: where the state lives: ``"real"``, ``"positive"`` or ``"unit"`` (0, 1).
        width, heads, layers, hidden: of the network.
        steps, batch_size, lr, warmup: of training; ``lr=None`` depends on the size of the network.
        prior_loss: train the decoding of the prior too.
        device, verbose, random_state: as everywhere.

    Source: Whittle et al., "Distribution transformers", ICML 2026.

    Examples:
        >>> from holdfast.distribution.transformer import LinearObservation, MixtureMetaPrior
        >>> problem = InferenceProblem(MixtureMetaPrior(2), {"z": LinearObservation(torch.eye(1), torch.eye(1))})
        >>> model = AmortizedPosterior(problem, 2, width=16, heads=2, layers=1, hidden=32, steps=20, random_state=0)
        >>> prior = GaussianMixture.gaussian(torch.zeros(4, 1), torch.eye(1)).pad_components(2)
        >>> model.fit().posterior(prior, {"z": torch.ones(4, 1, 1)}).sample(3).shape
        torch.Size([3, 4, 1])
    """

    def __init__(
        self,
        problem: InferenceProblem | None = None,
        components: int = 5,
        sample_space: Literal["real", "positive", "unit"] = "real",
        width: int = 64,
        heads: int = 4,
        layers: int = 3,
        hidden: int = 128,
        steps: int = 2000,
        batch_size: int = 256,
        lr: float | None = None,
        warmup: float = 0.1,
        prior_loss: bool = True,
        device: str = "auto",
        verbose: int = 0,
        random_state: Any = None,
    ) -> None:
        self.problem = problem
        self.components = components
        self.sample_space: Literal["real", "positive", "unit"] = sample_space
        self.width = width
        self.heads = heads
        self.layers = layers
        self.hidden = hidden
        self.steps = steps
        self.batch_size = batch_size
        self.lr = lr
        self.warmup = warmup
        self.prior_loss = prior_loss
        self.device = device
        self.verbose = verbose
        self.random_state = random_state

    def fit(self, X: None = None, y: None = None) -> Self:
        """Train on simulated problems; there are no data to give.

        Raises:
            ValueError: for data, or a mixture meta-prior with another number of components.
        """
        if X is not None or y is not None:
            raise ValueError("fit takes no data: problems are simulated from the meta-prior and observation models")
        self.seed_ = seed_from(self.random_state)
        with isolated_rng(spawn_seed(self.seed_, "weights")):
            self.model_ = self._make_model()
        self.history_ = fit_amortised(
            self.model_,
            self._declared(),
            steps=int(check_number("steps", self.steps, low=1, integer=True)),
            batch_size=self.batch_size,
            lr=self.lr,
            warmup=self.warmup,
            prior_loss=self.prior_loss,
            seed=self.seed_,
            device=self.device,
            progress="distribution transformer" if self.verbose else False,
        ).history
        device = next(self.model_.parameters()).device
        phi = self._declared().meta_prior.sample(_REFERENCE, generator(spawn_seed(self.seed_, "reference"), device))
        codes = self._code(phi)
        centred = codes - codes.mean(0)
        cov = centred.mT @ centred / len(codes)
        # Codes lie near a surface of few dimensions; without the ridge the empty ones would rule the distance.
        cov = cov + _RIDGE * cov.trace() / len(cov) * torch.eye(len(cov), dtype=cov.dtype, device=device)
        self.code_mean_, self.code_precision_ = codes.mean(0).cpu(), torch.linalg.inv(cov).cpu()
        self.farthest_ = float(self.prior_distance(phi).max())
        return self

    def _declared(self) -> InferenceProblem:
        if not isinstance(self.problem, InferenceProblem):
            raise ValueError(f"problem must be an InferenceProblem, got {self.problem!r}")
        return self.problem

    def _make_model(self) -> DistributionTransformer:
        check_choice("sample_space", self.sample_space, ["real", "positive", "unit"])
        maps: dict[str, Transform | None] = {
            "real": None,
            "positive": ExpTransform().inv,
            "unit": SigmoidTransform().inv,
        }
        meta = self._declared().meta_prior
        prior = None
        if meta.n_parameters is not None:
            prior = ParametricPriorEmbedding(meta.n_parameters, self.components, self.width)
        elif getattr(meta, "components", self.components) != self.components:
            raise ValueError(
                f"the meta-prior has mixtures of {getattr(meta, 'components', None)} components, so components must be "
                f"the same, got {self.components}"
            )
        return DistributionTransformer(
            self.components,
            meta.dim,
            {name: law.dim for name, law in self._declared().observation_models.items()},
            prior=prior,
            width=self.width,
            heads=self.heads,
            layers=self.layers,
            hidden=self.hidden,
            sample_space=maps[self.sample_space],
        )

    @torch.no_grad()
    def _code(self, phi: Any) -> Float[Tensor, "batch width"]:
        return self.model_.prior(phi).mean(1).double()

    def prior_distance(self, phi: Any) -> Float[Tensor, "batch"]:
        """Return the Mahalanobis distance of the embedded priors from those of training."""
        check_is_fitted(self, "model_")
        code = self._code(self._moved(phi)).cpu() - self.code_mean_
        return torch.einsum("bi,ij,bj->b", code, self.code_precision_, code).clamp_min(0).sqrt()

    def posterior(self, phi: Any, obs: Mapping[str, Tensor], mask: Mapping[str, Tensor] | None = None) -> MappedMixture:
        """Return the posteriors of B problems as laws of states, with ``log_prob`` and ``sample``.

        Args:
            phi: priors: a batch of K-component mixtures, or positive parameters (B, n).
            obs: observations (B, m, p) by type; types may be left out.
            mask: (B, m), false where an observation is absent.

        Raises:
            ValueError: for priors of other sizes, observations of unknown types, outside their support, or NaN.

        Warns:
            UserWarning: for priors far from all of training.
        """
        check_is_fitted(self, "model_")
        self.check_prior(phi)
        self._declared().check(obs, mask)
        distance = float(self.prior_distance(phi).max())
        if distance > _FAR * self.farthest_:
            warnings.warn(
                f"a prior is far from all priors of training: its Mahalanobis distance is {distance:.3g}, theirs at "
                f"most {self.farthest_:.3g}; widen the meta-prior and fit again",
                stacklevel=2,
            )
        seen = None if mask is None else self._moved(dict(mask))
        return self.model_.posterior(self._moved(phi), self._moved(dict(obs)), seen)

    def check_prior(self, phi: Any) -> None:
        """Raise unless ``phi`` is a prior of the family that was trained for."""
        n = self._declared().meta_prior.n_parameters
        if n is None:
            if not isinstance(phi, GaussianMixture):
                raise TypeError(f"priors must be a GaussianMixture, got {type(phi).__name__}")
            check_components(phi, self.components, self._declared().meta_prior.dim)
            return
        if not isinstance(phi, Tensor) or phi.ndim != 2 or phi.shape[1] != n:
            shape = tuple(phi.shape) if isinstance(phi, Tensor) else type(phi).__name__
            raise ValueError(f"priors must be positive parameters (batch, {n}), got {shape}")
        check_finite("phi", phi)
        if float(phi.min()) <= 0:
            raise ValueError(f"parameters of priors must be positive, got {float(phi.min()):g}")

    def filter(
        self, A: Float[Tensor, "dim dim"], Q: Float[Tensor, "dim dim"], b: Float[Tensor, "dim"] | None = None
    ) -> MixtureFilter:
        """Return a filter of linear dynamics with this update; see :class:`MixtureFilter`."""
        check_is_fitted(self, "model_")
        if self._declared().meta_prior.n_parameters is not None:
            raise ValueError("a filter needs mixture priors, as the posterior of a step is the prior of the next")
        return MixtureFilter(self.model_, self._moved(A), self._moved(Q), None if b is None else self._moved(b))

    def calibration(self, n: int = 1000, draws: int = 99, bins: int = 10, random_state: Any = 0) -> CalibrationReport:
        """Check the posteriors on new problems; see :func:`simulation_based_calibration`."""
        check_is_fitted(self, "model_")
        rng = generator(seed_from(random_state), next(self.model_.parameters()).device)
        return simulation_based_calibration(self.model_.posterior, self._declared(), n, draws, bins, rng)

    def _moved(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {k: v.to(next(self.model_.parameters()).device) for k, v in value.items()}
        return value.to(next(self.model_.parameters()).device)

    def _get_state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        check_is_fitted(self, "model_")
        params: dict[str, Any] = self.get_params(deep=False)
        params["problem"] = {"meta_prior": type(self._declared().meta_prior).__qualname__}
        params["random_state"] = self.seed_
        fitted = {k: getattr(self, k) for k in ("seed_", "history_", "farthest_")}
        tensors = {f"model.{k}": v for k, v in self.model_.state_dict().items()}
        codes = {"code_mean": self.code_mean_, "code_precision": self.code_precision_}
        return {"params": params, "fitted": fitted}, tensors | codes

    def _set_state(self, state: dict[str, Any], tensors: dict[str, Tensor], **objects: Any) -> None:
        params = dict(state["params"])
        problem = objects.get("problem")
        if not isinstance(problem, InferenceProblem):
            name = params["problem"]["meta_prior"]
            raise ValueError(f"this model was fitted to a problem of yours ({name}); pass load(path, problem=...)")
        self.set_params(**{**params, "problem": problem})
        for k, value in state["fitted"].items():
            setattr(self, k, value)
        with isolated_rng(self.seed_):
            self.model_ = self._make_model().eval()
        prefix = "model."
        self.model_.load_state_dict({k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)})
        self.model_.to(pick_device(self.device))
        self.code_mean_, self.code_precision_ = tensors["code_mean"], tensors["code_precision"]
