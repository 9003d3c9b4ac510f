"""Detectors that read the classifier's logits alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from holdfast.core.checks import check_number
from holdfast.representation.ood.protocol import OODDetector

__all__ = ["MSP", "Energy", "MaxLogit"]


@dataclass(kw_only=True)
class _FromLogits(OODDetector):
    needs_features: ClassVar[bool] = False
    needs_logits: ClassVar[bool] = True

    def _fit(self, features: Tensor | None, labels: Tensor | None, logits: Tensor | None) -> dict[str, Tensor]:
        return {}


@dataclass(kw_only=True)
class MSP(_FromLogits):
    r"""Maximum softmax probability: :math:`-\max_c \mathrm{softmax}(z)_c`.

    Source: Hendrycks and Gimpel, "A Baseline for Detecting Misclassified and Out-of-Distribution Examples in Neural
    Networks", ICLR 2017.

    Examples:
        >>> MSP().fit(logits=[[0.0, 0.0]]).score(logits=[[0.0, 0.0]])
        array([-0.5])
    """

    def _score(self, features: Tensor | None, logits: Tensor) -> Tensor:
        return -logits.softmax(1).amax(1)


@dataclass(kw_only=True)
class MaxLogit(_FromLogits):
    r"""Largest logit: :math:`-\max_c z_c`.

    Source: Hendrycks et al., "Scaling Out-of-Distribution Detection for Real-World Settings", ICML 2022.

    Examples:
        >>> MaxLogit().fit(logits=[[0.0, 0.0]]).score(logits=[[1.0, 3.0]])
        array([-3.])
    """

    def _score(self, features: Tensor | None, logits: Tensor) -> Tensor:
        return -logits.amax(1)


@dataclass(kw_only=True)
class Energy(_FromLogits):
    r"""Free energy: :math:`-T \log \sum_c e^{z_c / T}`.

    Source: Liu et al., "Energy-based Out-of-distribution Detection", NeurIPS 2020, equation 3.

    Examples:
        >>> Energy().fit(logits=[[0.0, 0.0]]).score(logits=[[0.0, 0.0]]).round(4)
        array([-0.6931])
    """

    temperature: float = 1.0

    def _check_settings(self) -> None:
        check_number("temperature", self.temperature, low=0, open_low=True)

    def _score(self, features: Tensor | None, logits: Tensor) -> Tensor:
        return -self.temperature * torch.logsumexp(logits / self.temperature, 1)
