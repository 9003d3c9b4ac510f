"""How one step runs: on one device as plain PyTorch, else through Lightning Fabric (precision, DDP, FSDP)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from holdfast.core.checks import check_choice, check_number
from holdfast.core.ema import WeightAverage
from holdfast.core.sharding import Unsharded, same_shape, split_like, unshard_for_good, whole

if TYPE_CHECKING:
    from lightning_fabric.wrappers import _FabricOptimizer

__all__ = ["PRECISIONS", "STRATEGIES", "DirectEngine", "FabricEngine", "make_engine", "pick_device"]

Precision = Literal["32-true", "bf16-mixed", "16-mixed"]
PRECISIONS: tuple[Precision, ...] = ("32-true", "bf16-mixed", "16-mixed")
STRATEGIES = ("auto", "ddp", "ddp_find_unused_parameters_true", "fsdp")

Loss = Callable[[nn.Module, Any, Any], "Tensor | Mapping[str, Tensor]"]


def pick_device(device: str | torch.device = "auto") -> torch.device:
    """Return the device of that name; "auto" takes the first accelerator there is, else the CPU.

    Raises:
        ValueError: if the name is unknown or there is no such device.

    Examples:
        >>> pick_device("cpu")
        device(type='cpu')
    """
    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if str(device) == "auto":
        return torch.device("cuda", 0) if cuda else torch.device("mps") if mps else torch.device("cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"device must be 'auto', 'cpu', 'cuda', 'cuda:1' or 'mps', got {device!r}") from error
    if chosen.type == "cuda":
        if not cuda:
            raise ValueError(f"device={str(device)!r} was asked for, but PyTorch sees no CUDA device here")
        chosen = torch.device("cuda", chosen.index or 0)
        if chosen.index >= torch.cuda.device_count():
            raise ValueError(f"device={str(device)!r} was asked for, but there are {torch.cuda.device_count()}")
    if chosen.type == "mps" and not mps:
        raise ValueError("device='mps' was asked for, but PyTorch sees no such device here")
    return chosen


class _Step(nn.Module):
    """Module and loss as one module: precision and gradient reduction cover whatever the loss calls."""

    def __init__(self, module: nn.Module, loss: Loss) -> None:
        super().__init__()
        self.module = module
        self.loss = loss

    def forward(self, call: _Call) -> Tensor | Mapping[str, Tensor]:
        return self.loss(self.module, call.batch, call.info)


class _Call:
    """A batch and its step as one opaque argument, which wrappers pass on untouched."""

    __slots__ = ("batch", "info")

    def __init__(self, batch: Any, info: Any) -> None:
        self.batch, self.info = batch, info


class DirectEngine:
    """One device, 32 bits: forward, backward and step are PyTorch's own calls, with nothing around them."""

    rank, world_size = 0, 1
    fused = True

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def setup(self, module: nn.Module, loss: Loss) -> None:
        """Put the module (and a loss that is one) on the device."""
        self.module, self.loss = module, loss
        self.whole = _Step(module, loss)
        self.whole.to(self.device)

    def setup_optimizer(self, optimizer: Optimizer) -> None:
        """Take over the optimizer."""
        self.optimizer = optimizer
        self.params = [p for group in optimizer.param_groups for p in group["params"]]

    def to_device(self, batch: Any) -> Any:
        """Move a batch of tensors, tuples, lists, mappings, dataclasses or objects with ``to``."""
        if self.device.type == "cpu":
            return batch
        from lightning_fabric.utilities import move_data_to_device

        return move_data_to_device(batch, self.device)

    def forward(self, batch: Any, info: Any) -> Tensor | Mapping[str, Tensor]:
        """Return what the loss returns."""
        return self.loss(self.module, batch, info)

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of ``loss``."""
        loss.backward()

    def clip(self, max_norm: float) -> None:
        """Scale the gradients down to ``max_norm`` in all."""
        nn.utils.clip_grad_norm_(self.params, max_norm)

    def step(self) -> None:
        """Move the weights and forget the gradients."""
        self.optimizer.step()
        self.optimizer.zero_grad()

    def accumulating(self, more: bool) -> AbstractContextManager[Any]:
        """Context of a backward pass that ``more`` passes of the same step follow."""
        return nullcontext()

    def mean(self, values: Tensor) -> Tensor:
        """Return the mean of ``values`` over the processes."""
        return values

    def barrier(self) -> None:
        """Wait for every process."""

    def gathered(self) -> AbstractContextManager[Any]:
        """Context in which the module holds whole weights and can be called on its own."""
        return nullcontext()

    def weights(self) -> dict[str, Tensor]:
        """Return a copy of the whole state of module and loss."""
        return {k: v.detach().clone() for k, v in self.whole.state_dict().items() if isinstance(v, Tensor)}

    def load_weights(self, weights: dict[str, Tensor]) -> None:
        """Take over a state from :meth:`weights`."""
        keys = self.whole.load_state_dict(weights, strict=False)
        wrong = [k for k in (*keys.missing_keys, *keys.unexpected_keys) if not k.endswith("_extra_state")]
        if wrong:
            raise ValueError(f"the weights do not fit the module, see {', '.join(wrong[:5])}")

    def optimizer_state(self) -> dict[str, Any]:
        """Return the optimizer's state, and the gradient scaler's where there is one."""
        return {"optimizer": self.optimizer.state_dict()}

    def load_optimizer_state(self, state: dict[str, Any]) -> None:
        """Take over a state from :meth:`optimizer_state`."""
        self.optimizer.load_state_dict(state["optimizer"])

    def average_state(self, average: WeightAverage) -> dict[str, Any]:
        """Return the whole state of an average of the weights."""
        return average.state_dict()

    def load_average_state(self, average: WeightAverage, state: dict[str, Any]) -> None:
        """Take over a state from :meth:`average_state`."""
        average.load_state_dict(state)

    def finish(self) -> None:
        """Leave the module as a plain PyTorch module."""


class FabricEngine(DirectEngine):
    """Mixed precision, or several processes, by Lightning Fabric."""

    def __init__(self, device: torch.device, devices: int | list[int], precision: Precision, strategy: str) -> None:
        from lightning_fabric import Fabric

        super().__init__(device)
        self.fused = precision != "16-mixed" and strategy != "fsdp"
        self.sharded = strategy == "fsdp"
        if device.index is not None and device.type == "cuda" and devices == 1:
            devices = [device.index]
        self.fabric = Fabric(
            accelerator=device.type, devices=devices, precision=precision, strategy=_fabric_strategy(strategy, devices)
        )
        self.fabric.launch()
        self.device = self.fabric.device
        self.rank, self.world_size = self.fabric.global_rank, self.fabric.world_size

    def setup(self, module: nn.Module, loss: Loss) -> None:
        super().setup(module, loss)
        self.wrapped = self.fabric.setup_module(self.whole)

    def setup_optimizer(self, optimizer: Optimizer) -> None:
        super().setup_optimizer(optimizer)
        # One optimizer in, one out; only several come back as a tuple.
        self.stepper = cast("_FabricOptimizer", self.fabric.setup_optimizers(optimizer))

    def forward(self, batch: Any, info: Any) -> Tensor | Mapping[str, Tensor]:
        return self.wrapped(_Call(batch, info))

    def backward(self, loss: Tensor) -> None:
        self.fabric.backward(loss)

    def clip(self, max_norm: float) -> None:
        self.fabric.clip_gradients(self.wrapped, self.stepper, max_norm=max_norm, error_if_nonfinite=False)

    def step(self) -> None:
        self.stepper.step()
        self.optimizer.zero_grad()

    def accumulating(self, more: bool) -> AbstractContextManager[Any]:
        if self.world_size == 1:
            return nullcontext()
        return self.fabric.no_backward_sync(self.wrapped, enabled=more)

    def mean(self, values: Tensor) -> Tensor:
        if self.world_size == 1:
            return values
        result = self.fabric.all_reduce(values, reduce_op="mean")
        return result if isinstance(result, Tensor) else values

    def barrier(self) -> None:
        self.fabric.barrier()

    def gathered(self) -> AbstractContextManager[Any]:
        return Unsharded(self.whole) if self.sharded else nullcontext()

    def weights(self) -> dict[str, Tensor]:
        if not self.sharded:
            return super().weights()
        return {k: whole(v).detach().clone() for k, v in self.whole.state_dict().items() if isinstance(v, Tensor)}

    def load_weights(self, weights: dict[str, Tensor]) -> None:
        if not self.sharded:
            super().load_weights(weights)
            return
        with torch.no_grad():
            for name, held in self.whole.state_dict(keep_vars=True).items():
                if isinstance(held, Tensor):
                    held.copy_(split_like(weights[name].to(self.device), held))

    def optimizer_state(self) -> dict[str, Any]:
        state = self.optimizer.state_dict()
        if self.sharded:
            state["state"] = {i: {k: whole(v) for k, v in s.items()} for i, s in state["state"].items()}
        scaler = getattr(self.fabric.strategy.precision, "scaler", None)
        return {"optimizer": state, "scaler": scaler.state_dict() if scaler is not None else {}}

    def load_optimizer_state(self, state: dict[str, Any]) -> None:
        inner = state["optimizer"]
        if self.sharded:
            shaped = {}
            for i, p in enumerate(self.params):
                saved = inner["state"].get(i, {})
                shaped[i] = {k: split_like(v.to(self.device), p) if same_shape(v, p) else v for k, v in saved.items()}
            inner = {**inner, "state": shaped}
        self.optimizer.load_state_dict(inner)
        scaler = getattr(self.fabric.strategy.precision, "scaler", None)
        if scaler is not None and state.get("scaler"):
            scaler.load_state_dict(state["scaler"])

    def average_state(self, average: WeightAverage) -> dict[str, Any]:
        state = average.state_dict()
        return {**state, "mean": [whole(m) for m in state["mean"]]}

    def load_average_state(self, average: WeightAverage, state: dict[str, Any]) -> None:
        means = [split_like(saved.to(self.device), m) for saved, m in zip(state["mean"], average.mean, strict=True)]
        average.load_state_dict({**state, "mean": means})

    def finish(self) -> None:
        if self.sharded:
            unshard_for_good(self.whole)


def _fabric_strategy(strategy: str, devices: int | list[int]) -> Any:
    if strategy != "fsdp":
        return strategy
    from lightning_fabric.strategies.model_parallel import ModelParallelStrategy
    from torch.distributed.fsdp import fully_shard

    def shard(module: nn.Module, mesh: Any) -> nn.Module:
        # The module itself, of a class that is FSDPModule and its own.
        return cast("nn.Module", fully_shard(module, mesh=mesh["data_parallel"]))

    count = devices if isinstance(devices, int) else len(devices)
    return ModelParallelStrategy(shard, data_parallel_size=count, tensor_parallel_size=1)


def make_engine(
    device: str | torch.device, devices: int | list[int] | str, precision: str, strategy: str
) -> DirectEngine:
    """Return the engine for a device, a number of devices, a precision and a strategy.

    Raises:
        ValueError: for an unknown name or a combination that cannot run here.
    """
    known: Precision = check_choice("precision", precision, PRECISIONS)
    check_choice("strategy", strategy, STRATEGIES)
    chosen = pick_device(device)
    if devices == "auto":
        devices = torch.cuda.device_count() if chosen.type == "cuda" and strategy != "auto" else 1
    if not isinstance(devices, list):
        devices = int(check_number("devices", devices, low=1, integer=True))
    if strategy != "auto" and chosen.type == "mps":
        raise ValueError(f"strategy={strategy!r} needs CUDA devices or the CPU, but the device is {chosen}")
    if precision == "16-mixed" and chosen.type == "cpu":
        raise ValueError("precision='16-mixed' needs a GPU; on the CPU use 'bf16-mixed' or '32-true'")
    several = devices != 1 and devices != [chosen.index]
    if several and strategy == "auto":
        raise ValueError(f"devices={devices} needs strategy='ddp' or 'fsdp', got strategy='auto'")
    if strategy == "auto" and precision == "32-true":
        return DirectEngine(chosen)
    return FabricEngine(chosen, devices, known, strategy)
