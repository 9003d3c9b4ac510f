"""Concatenated representations: the union of what several training episodes found."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, Literal, Self

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from holdfast.core.batching import Batches, BatchPlan
from holdfast.core.checks import check_choice, check_labels, check_number, check_same_length
from holdfast.core.training import train
from holdfast.nn.network import Network
from holdfast.representation.rich import Featurizer, same_weights

__all__ = ["ConcatRepresentation", "TwoStageFineTune", "concat_heads"]


class ConcatRepresentation(nn.Module):
    r"""The concatenation of several representations, "Cat-n".

    .. math:: \Phi(x) = [\phi_1(x); \dots; \phi_n(x)] \in \mathbb R^{m_1 + \dots + m_n}

    Networks trained from different seeds solve the training task by different features, each dropping what it did
    not need; their union serves other tasks and distributions better than one network of the same total width.
    Standardise before a regularised probe, or members of large scale dominate.

    Args:
        featurizers: modules from input to (B, m_i), of any widths.
        freeze: members never change: no gradients, always in evaluation mode.
        standardize: ``"none"``, ``"batchnorm"`` (running statistics, no scale or shift of its own), or ``"zscore"``
            (mean and deviation from :meth:`fit`).
        allow_duplicates: accept members that hold the same weights.

    Raises:
        ValueError: for no member; members with the same weights (by name); members made for other inputs; a member
            that was unfrozen after the freeze; features that are not finite (naming the member); ``"zscore"`` before
            :meth:`fit`.

    Source: Zhang and Bottou, "Learning useful representations for shifting tasks and distributions", ICML 2023.

    Examples:
        >>> phi = ConcatRepresentation([nn.Linear(4, 3), nn.Linear(4, 5)])
        >>> phi(torch.zeros(2, 4)).shape
        torch.Size([2, 8])
    """

    def __init__(
        self,
        featurizers: Sequence[nn.Module],
        freeze: bool = True,
        standardize: Literal["none", "batchnorm", "zscore"] = "none",
        allow_duplicates: bool = False,
    ) -> None:
        super().__init__()
        check_choice("standardize", standardize, ["none", "batchnorm", "zscore"])
        members = list(featurizers)
        if not members:
            raise ValueError("a concatenation needs at least one featuriser, got none")
        self.members = nn.ModuleList(members)
        self.freeze, self.standardize = freeze, standardize
        if not allow_duplicates:
            self._refuse_duplicates()
        self._refuse_other_inputs()
        self.norm: nn.Module = nn.LazyBatchNorm1d(affine=False) if standardize == "batchnorm" else nn.Identity()
        if standardize == "zscore":
            self.register_buffer("mean", None)
            self.register_buffer("std", None)
        self.requires_grad_(not freeze)
        self.train(not freeze)

    @torch.no_grad()
    def fit(self, x: Any) -> Self:
        """Estimate mean and deviation of the features of ``x`` for ``standardize="zscore"``."""
        if self.standardize != "zscore":
            raise ValueError(f'fit estimates the statistics of standardize="zscore", not of {self.standardize!r}')
        z = self._concatenate(x)
        self.mean, std = z.mean(0), z.std(0, correction=0)
        # A feature that never varies carries nothing; dividing it by one keeps it at zero.
        self.std = torch.where(std > 1e-12, std, torch.ones_like(std))
        return self

    def forward(self, x: Any) -> Float[Tensor, "batch dim"]:
        """Return the concatenated, standardised features."""
        if self.freeze:
            with torch.no_grad():
                z = self._concatenate(x)
        else:
            z = self._concatenate(x)
        if self.standardize == "zscore":
            if self.mean is None:
                raise ValueError('standardize="zscore" needs fit(x) first')
            return (z - self.mean) / self.std
        return self.norm(z)

    def train(self, mode: bool = True) -> Self:
        """Set the mode; frozen members stay in evaluation mode."""
        super().train(mode)
        if self.freeze:
            self.members.eval()
        return self

    def _concatenate(self, x: Any) -> Tensor:
        parts = []
        for i, member in enumerate(self.members):
            if self.freeze and any(p.requires_grad for p in member.parameters()):
                raise ValueError(
                    f"{self._name(i)} is not frozen, but the concatenation is; freeze it or pass freeze=False"
                )
            try:
                z = member(x)
            except RuntimeError as error:
                shape = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
                raise ValueError(f"{self._name(i)} cannot read the input {shape}: {error}") from error
            if z.ndim != 2:
                raise ValueError(f"{self._name(i)} must return (batch, dim) features, got {tuple(z.shape)}")
            # A program that is being exported cannot branch on values.
            if not torch.compiler.is_compiling() and not bool(torch.isfinite(z).all()):
                raise ValueError(f"{self._name(i)} returned features that are not finite (NaN or infinity)")
            parts.append(z)
        return torch.cat(parts, 1)

    def _name(self, i: int) -> str:
        name = getattr(self.members[i], "name", "")
        return f"member {i} ({name})" if name else f"member {i}"

    def _refuse_duplicates(self) -> None:
        for j in range(len(self.members)):
            for i in range(j):
                if any(True for _ in self.members[i].state_dict()) and same_weights(self.members[i], self.members[j]):
                    raise ValueError(
                        f"{self._name(i)} and {self._name(j)} hold the same weights and would add no features; "
                        "train from different seeds, or pass allow_duplicates=True"
                    )

    def _refuse_other_inputs(self) -> None:
        first = _input_signature(self.members[0])
        for i, member in enumerate(self.members):
            other = _input_signature(member)
            if first is not None and other is not None and first != other:
                raise ValueError(f"{self._name(0)} reads {first}, but {self._name(i)} reads {other}")


def _input_signature(member: nn.Module) -> Any:
    """Return what a member says about its input and its preprocessing, if it does."""
    for module in (member, getattr(member, "model", None)):
        if module is not None and getattr(module, "signature", None) is not None:
            return module.signature
    return None


def concat_heads(heads: Sequence[nn.Linear], scale: Literal["sum", "mean"] = "mean") -> nn.Linear:
    r"""Concatenate linear heads into one over concatenated features.

    .. math:: W = s\,[W_1, \dots, W_n], \qquad b = s \sum_i b_i, \qquad s = 1 \text{ or } 1/n

    so its logits are the sum, or the mean, of the members' logits.

    Raises:
        ValueError: for no head, or heads with different numbers of outputs.
        TypeError: for a head that is not linear.

    Source: Zhang and Bottou, "Learning useful representations for shifting tasks and distributions", ICML 2023.

    Examples:
        >>> concat_heads([nn.Linear(3, 2), nn.Linear(5, 2)])
        Linear(in_features=8, out_features=2, bias=True)
    """
    check_choice("scale", scale, ["sum", "mean"])
    heads = list(heads)
    if not heads:
        raise ValueError("concat_heads needs at least one head, got none")
    for i, head in enumerate(heads):
        if not isinstance(head, nn.Linear):
            raise TypeError(f"heads[{i}] must be nn.Linear, got {type(head).__name__}")
        if head.out_features != heads[0].out_features:
            raise ValueError(
                f"heads must have equally many outputs: heads[0] has {heads[0].out_features}, "
                f"heads[{i}] has {head.out_features}"
            )
    factor = 1.0 if scale == "sum" else 1 / len(heads)
    weight = torch.cat([head.weight.detach() for head in heads], 1) * factor
    biases = [head.bias.detach() for head in heads if head.bias is not None]
    out = nn.Linear(weight.shape[1], weight.shape[0], bias=bool(biases), device=weight.device, dtype=weight.dtype)
    with torch.no_grad():
        out.weight.copy_(weight)
        if biases:
            out.bias.copy_(torch.stack(biases).sum(0) * factor)
    return out


class TwoStageFineTune:
    r"""Fine-tune a concatenated representation in two stages.

    (1) Every member is fine-tuned alone, with its own head, on the target task. (2) The fine-tuned members are
    concatenated and frozen, the large head starts as the concatenation of theirs, and it is trained briefly.
    Fine-tuning all weights at once from the concatenated start wastes it: training comes to rely on one member.

    Args:
        featurizers: models with ``features`` and a linear ``head`` for the target task. They are copied.
        fine_tune_fn: ``(model, index) -> model`` trains one model with its head on the target (in place, or
            returning it).
        head_epochs: epochs of stage two; few.
        head_lr: its step size.
        batch_size: its batch size.
        scale: how the heads are concatenated, see :func:`concat_heads`.
        seed: order of the data in stage two.

    Source: Zhang and Bottou, "Learning useful representations for shifting tasks and distributions", ICML 2023.

    Examples:
        >>> nets = [Network(nn.Linear(4, 3), nn.Linear(3, 2)) for _ in range(2)]
        >>> tuned = TwoStageFineTune(nets, lambda model, index: model, batch_size=8)
        >>> net = tuned.fit(torch.randn(16, 4), torch.arange(16) % 2)
        >>> net(torch.zeros(5, 4)).shape
        torch.Size([5, 2])
    """

    def __init__(
        self,
        featurizers: Sequence[nn.Module],
        fine_tune_fn: Callable[[nn.Module, int], nn.Module | None],
        head_epochs: int = 2,
        head_lr: float = 1e-3,
        *,
        batch_size: int = 64,
        scale: Literal["sum", "mean"] = "mean",
        seed: int = 0,
    ) -> None:
        self.featurizers = list(featurizers)
        if not self.featurizers:
            raise ValueError("two-stage fine-tuning needs at least one featuriser, got none")
        self.fine_tune_fn = fine_tune_fn
        self.head_epochs = int(check_number("head_epochs", head_epochs, low=0, integer=True))
        self.head_lr = check_number("head_lr", head_lr, low=0, open_low=True)
        self.batch_size = int(check_number("batch_size", batch_size, low=1, integer=True))
        self.scale = check_choice("scale", scale, ["sum", "mean"])
        self.seed = seed

    def fit(self, x: Tensor, y: Int[Tensor, " n"]) -> Network:
        """Run both stages; ``x`` and ``y`` are the target's training data, used for the head.

        Raises:
            ValueError: for lengths that differ, labels beyond the heads' outputs, or a member without a head.
        """
        check_same_length(x=x, y=y)
        tuned = []
        for i, model in enumerate(self.featurizers):
            model = copy.deepcopy(model.model if isinstance(model, Featurizer) else model).requires_grad_(True).train()
            head = getattr(model, "head", None)
            if not isinstance(head, nn.Linear):
                raise ValueError(f"featurizers[{i}] needs a linear head for the target task")
            check_labels("y", y, head.out_features)
            result = self.fine_tune_fn(model, i)
            tuned.append(Featurizer(model if result is None else result, name=f"member {i}"))
        head = concat_heads([member.head for member in tuned], self.scale)
        network = Network(ConcatRepresentation(tuned), head)
        if self.head_epochs:
            with torch.no_grad():
                z = network.features(x)
            plan = BatchPlan(len(y), self.batch_size, seed=self.seed)
            train(
                head,
                lambda head, batch, info: F.cross_entropy(head(batch[0]), batch[1]),
                Batches(plan, lambda rows: (z[rows], y[rows])),
                steps=self.head_epochs * len(plan),
                lr=self.head_lr,
                device=z.device,
                seed=self.seed,
            )
        return network
