"""Weights split over processes: gathering them, splitting them, and calling a module meanwhile."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

from torch import Tensor, nn

__all__ = ["Unsharded", "same_shape", "split_like", "unshard_for_good", "whole"]


class Unsharded(AbstractContextManager[None]):
    """Context in which a sharded module holds whole weights, so that its parts can be called on their own."""

    def __init__(self, module: Any) -> None:
        self.module = module

    def __enter__(self) -> None:
        self.module.unshard()

    def __exit__(self, *_: object) -> None:
        self.module.reshard()


def whole(t: Any) -> Any:
    """Return ``t`` gathered from all processes if it is split, else as it is."""
    return t.full_tensor() if hasattr(t, "full_tensor") else t


def same_shape(value: Any, parameter: Tensor) -> bool:
    """Whether ``value`` has an entry for every weight of ``parameter`` (as moments have and step counts do not)."""
    return isinstance(value, Tensor) and value.shape == parameter.shape and value.ndim > 0


def split_like(value: Tensor, held: Tensor) -> Tensor:
    """Return ``value`` split over the processes as ``held`` is."""
    if not hasattr(held, "device_mesh"):
        return value
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value, held.device_mesh, held.placements)  # pyright: ignore[reportAttributeAccessIssue]


def unshard_for_good(module: nn.Module) -> None:
    """Replace the parameters split over processes by whole ones; shared parameters stay shared."""
    made: dict[int, nn.Parameter] = {}
    for owner in module.modules():
        for key, p in list(owner._parameters.items()):
            if p is not None:
                if id(p) not in made:
                    made[id(p)] = nn.Parameter(whole(p).detach().clone(), requires_grad=p.requires_grad)
                owner._parameters[key] = made[id(p)]
