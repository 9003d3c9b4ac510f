"""Taps and an early exit for networks that were written without them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from holdfast.diffusion.backbones.transformer import check_taps

__all__ = ["run_tapped"]


class _Stopped(Exception):
    """Leaves a network behind the last block that is needed."""


def run_tapped(
    call: Callable[[], Any], blocks: Sequence[nn.Module], *, taps: Sequence[int] = (), stop_at: int | None = None
) -> tuple[Any | None, dict[int, Tensor]]:
    """Run ``call`` and keep what the blocks in ``taps`` return on the way, by hooks that are gone afterwards.

    Returns what ``call`` returns, ``None`` if it was left behind block ``stop_at``, and the kept outputs. Blocks are
    numbered from 1.

    Raises:
        ValueError: for blocks that are not there, or a tap behind the early exit.

    Examples:
        >>> import torch
        >>> net = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 4))
        >>> out, found = run_tapped(lambda: net(torch.zeros(1, 2)), list(net), taps=(1,), stop_at=1)
        >>> out, found[1].shape
        (None, torch.Size([1, 3]))
    """
    check_taps(taps, stop_at, len(blocks))
    found: dict[int, Tensor] = {}

    def keep(number: int) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            if number in taps:
                found[number] = output
            if number == stop_at:
                raise _Stopped

        return hook

    watched = {*taps, *(() if stop_at is None else (stop_at,))}
    handles = [blocks[number - 1].register_forward_hook(keep(number)) for number in watched]
    try:
        return call(), found
    except _Stopped:
        return None, found
    finally:
        for handle in handles:
            handle.remove()
