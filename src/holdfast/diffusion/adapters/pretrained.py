"""Pretrained diffusion models by name: the network, its schedule and what it predicts, as one denoiser."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor, nn

from holdfast.diffusion.adapters.diffusers_models import DiTAdapter, UNetAdapter, import_diffusers
from holdfast.diffusion.ddpm import DDPMSchedule
from holdfast.diffusion.denoiser import Denoiser, Output
from holdfast.diffusion.paths import Path, Prediction

__all__ = ["NoiseFromAngle", "pretrained_denoiser", "schedule_from_config"]

_KINDS = {"linear": "linear", "scaled_linear": "scaled_linear", "squaredcos_cap_v2": "cosine"}


class NoiseFromAngle(nn.Module):
    r"""A network that predicts :math:`v = \alpha\epsilon - \sigma x_0`, turned into one that predicts noise.

    .. math:: \epsilon = \alpha v + \sigma x_t \qquad (\alpha^2 + \sigma^2 = 1)

    That v is the derivative by the angle :math:`\arctan(\sigma/\alpha)`; this package's velocity is the one by time.

    Source: Salimans and Ho, "Progressive distillation for fast sampling of diffusion models", ICLR 2022, appendix D.

    Examples:
        >>> import torch
        >>> class Zero(nn.Module):
        ...     def forward(self, x, t, y=None):
        ...         return torch.zeros_like(x)
        >>> NoiseFromAngle(Zero(), DDPMSchedule(1000))(torch.ones(1, 1), torch.tensor([999.0])).pred.round(decimals=3)
        tensor([[1.]])
    """

    def __init__(self, network: nn.Module, path: Path) -> None:
        super().__init__()
        self.network, self.path = network, path
        self.depth: int | None = getattr(network, "depth", None)
        self.class_dropout: float = getattr(network, "class_dropout", 0.0)
        self.null_class: int | None = getattr(network, "null_class", None)

    def forward(
        self,
        x: Float[Tensor, "batch *shape"],
        t: Float[Tensor, " batch"],
        y: Int[Tensor, " batch"] | None = None,
        *,
        taps: Sequence[int] = (),
        stop_at: int | None = None,
    ) -> Output:
        """Return the predicted noise and the network's taps."""
        asked = {k: v for k, v in (("taps", taps), ("stop_at", stop_at)) if v}
        out = self.network(x, t, *(() if y is None else (y,)), **asked)
        if not isinstance(out, Output):
            out = Output(out, {})
        if out.pred is None:
            return out
        alpha, sigma = (c.to(x.dtype).reshape(-1, *[1] * (x.ndim - 1)) for c in self.path.coefficients(t)[:2])
        return Output(alpha * out.like(x) + sigma * x, out.taps)


def schedule_from_config(config: Mapping[str, Any]) -> DDPMSchedule:
    """Return the schedule that a scheduler's configuration of diffusers describes.

    Raises:
        ValueError: for betas that have no formula here.

    Examples:
        >>> schedule_from_config({"num_train_timesteps": 10, "beta_schedule": "scaled_linear"}).kind
        'scaled_linear'
    """
    kind = config.get("beta_schedule", "linear")
    if config.get("trained_betas") is not None or config.get("rescale_betas_zero_snr", False) or kind not in _KINDS:
        raise ValueError(
            f"the schedule must be one of {', '.join(_KINDS)} with its own betas, got {kind!r}, "
            f"trained_betas={'given' if config.get('trained_betas') is not None else None}, "
            f"rescale_betas_zero_snr={config.get('rescale_betas_zero_snr', False)}"
        )
    return DDPMSchedule(
        config.get("num_train_timesteps", 1000),
        _KINDS[kind],  # pyright: ignore[reportArgumentType]
        config.get("beta_start", 1e-4),
        config.get("beta_end", 0.02),
    )


def pretrained_denoiser(
    name_or_path: str | PathLike[str],
    *,
    revision: str | None = None,
    local_files_only: bool = False,
    null_class: int | None = None,
) -> Denoiser:
    """Load a pipeline of diffusers, by its name on the Hugging Face hub or from a folder, as a denoiser.

    The pipeline's network is a ``UNet2DModel`` or a ``DiTTransformer2DModel``; schedule and kind of prediction are
    read from its scheduler. What a latent model's images are decoded with is not loaded.

    Args:
        name_or_path: "google/ddpm-cifar10-32", "facebook/DiT-XL-2-256", or a folder with ``model_index.json``.
        revision: of the repository.
        local_files_only: never ask the network.
        null_class: label of no class of a ``UNet2DModel`` that was trained with one.

    Raises:
        ImportError: without diffusers; the message names the extra.
        ValueError: for a pipeline without such a network, or a schedule or prediction that is not known here.

    Examples:
        >>> from holdfast.diffusion import ddim
        >>> model = pretrained_denoiser("google/ddpm-cifar10-32")  # doctest: +SKIP
        >>> images = ddim(model, torch.randn(4, 3, 32, 32), steps=50).x  # doctest: +SKIP
    """
    pipeline_class = import_diffusers().DiffusionPipeline
    where: dict[str, Any] = {"revision": revision, "local_files_only": local_files_only}
    config = pipeline_class.load_config(name_or_path, **where)
    parts = {key: value[1] for key, value in config.items() if isinstance(value, (list, tuple)) and len(value) == 2}
    kinds = {"UNet2DModel": "unet", "DiTTransformer2DModel": "transformer"}
    known = [name for kind, name in kinds.items() if parts.get(name) == kind]
    if not known:
        has = ", ".join(f"{name}: {kind}" for name, kind in parts.items())
        raise ValueError(f"the pipeline needs a {' or a '.join(kinds)}, {name_or_path} has {has}")
    skipped = {"vae": None} if "vae" in parts else {}
    pipeline = pipeline_class.from_pretrained(name_or_path, **where, **skipped)
    model = getattr(pipeline, known[0]).eval()
    network = UNetAdapter(model, null_class=null_class) if known[0] == "unet" else DiTAdapter(model)
    scheduler = pipeline.scheduler.config
    path = schedule_from_config(scheduler)
    said = scheduler.get("prediction_type", "epsilon")
    predictions: dict[str, Prediction] = {"epsilon": "noise", "sample": "data", "v_prediction": "noise"}
    if said not in predictions:
        raise ValueError(f"prediction_type must be one of {', '.join(predictions)}, got {said!r}")
    wrapped = NoiseFromAngle(network, path) if said == "v_prediction" else network
    return Denoiser(wrapped, path, predictions[said])
