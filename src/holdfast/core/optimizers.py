"""Optimizers by name, with the choices that matter: which weights decay, and the fused kernel where there is one."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from holdfast.core.checks import check_choice, check_number

__all__ = ["OPTIMIZERS", "make_optimizer"]

OPTIMIZERS = ("adamw", "adam", "sgd")

_FUSED_DEVICES = ("cpu", "cuda")


def _groups(
    module: nn.Module, extra: Iterable[nn.Parameter], weight_decay: float, decay_all: bool
) -> list[dict[str, Any]]:
    trained = [p for p in (*module.parameters(), *extra) if p.requires_grad]
    trained = list(dict.fromkeys(trained))
    if decay_all:
        return [{"params": trained, "weight_decay": weight_decay}]
    split = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return [g for g in split if g["params"]]


def make_optimizer(
    module: nn.Module,
    optimizer: str | Callable[[list[dict[str, Any]]], Optimizer] = "adamw",
    *,
    lr: float = 1e-3,
    weight_decay: float = 0.0,
    momentum: float = 0.9,
    decay_norms_and_biases: bool = True,
    param_groups: Callable[[nn.Module], list[dict[str, Any]]] | None = None,
    extra: Iterable[nn.Parameter] = (),
    fused: bool = True,
) -> Optimizer:
    """Return an optimizer over the trainable parameters of ``module``.

    Args:
        module: what is trained.
        optimizer: "adamw", "adam", "sgd", or a callable that turns parameter groups into an ``Optimizer``.
        lr: learning rate.
        weight_decay: decoupled for "adamw", added to the gradient for the others.
        momentum: for "sgd".
        decay_norms_and_biases: if false, parameters with one axis or none (biases, norms' scales) do not decay.
        param_groups: callable that turns ``module`` into parameter groups, each with its own ``lr`` or
            ``weight_decay`` where wanted.
        extra: parameters beside the module's (those of a loss that learns).
        fused: use the fused kernel where the device and the dtype have one.

    Raises:
        ValueError: for an unknown name, numbers out of range, or nothing to train.

    Examples:
        >>> net = nn.Linear(3, 2)
        >>> opt = make_optimizer(net, "sgd", lr=0.1, weight_decay=0.01, decay_norms_and_biases=False)
        >>> [(len(g["params"]), g["weight_decay"]) for g in opt.param_groups]
        [(1, 0.01), (1, 0.0)]
    """
    check_number("lr", lr, low=0, open_low=True)
    check_number("weight_decay", weight_decay, low=0)
    check_number("momentum", momentum, low=0, high=1, open_high=True)
    extra = list(extra)
    if param_groups is None:
        groups = _groups(module, extra, weight_decay, decay_norms_and_biases)
    else:
        groups = [dict(g, params=list(g["params"])) for g in param_groups(module)]
        listed = {p for g in groups for p in g["params"]}
        rest = [p for p in extra if p.requires_grad and p not in listed]
        groups += [{"params": rest}] if rest else []
    params = [p for g in groups for p in g["params"]]
    if not params:
        raise ValueError("there is nothing to train: no parameter of the module has requires_grad=True")
    if callable(optimizer):
        return optimizer(groups)
    check_choice("optimizer", optimizer, OPTIMIZERS)
    fused = fused and all(p.device.type in _FUSED_DEVICES and p.is_floating_point() for p in params)
    if optimizer == "sgd":
        return torch.optim.SGD(groups, lr=lr, momentum=momentum, weight_decay=weight_decay, fused=fused)
    cls = torch.optim.AdamW if optimizer == "adamw" else torch.optim.Adam
    return cls(groups, lr=lr, weight_decay=weight_decay, fused=fused)
