"""Learning one task after another while a gallery stays indexed, with models that may be replaced on the way."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from holdfast.core.checks import check_number, check_same_length
from holdfast.core.random import generator, spawn_seed
from holdfast.core.training import StepInfo, train
from holdfast.nn.contract import EmbeddingContract, tensor_digest
from holdfast.nn.growing import GrowingClassifier
from holdfast.nn.network import Network
from holdfast.nn.simplex import FixedSimplexClassifier
from holdfast.representation.rehearsal import HalfAndHalfSampler, RehearsalBuffer

__all__ = ["LifelongResult", "LifelongTrainer"]

Task = tuple[Tensor, Int[Tensor, " n"]]
Replacement = nn.Module | Mapping[str, Tensor] | str | Path
Compatibility = nn.Module | Callable[[nn.Module], nn.Module]


class _WithFeatures(nn.Module):
    """Returns features and logits from one forward pass."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        f = self.network.features(x)
        return f, self.network.head(f)


@dataclass(frozen=True)
class _TaskBatches:
    sampler: HalfAndHalfSampler
    x: Tensor
    y: Tensor
    f_old: Tensor | None

    def __len__(self) -> int:
        return len(self.sampler)

    def epoch(self, e: int) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
        for rows in self.sampler.epoch(e):
            yield self.x[rows], self.y[rows], None if self.f_old is None else self.f_old[rows]


@dataclass(frozen=True)
class LifelongResult:
    """What a run left.

    Attributes:
        models: frozen copies of the network after each task, in evaluation mode, on the CPU.
        history: training records of each task.
    """

    models: list[Network]
    history: list[list[dict[str, float]]]

    @torch.inference_mode()
    def embed(self, x: Tensor) -> list[Float[Tensor, "n d"]]:
        """Features of ``x`` by every model."""
        return [m.features(x) for m in self.models]


class LifelongTrainer:
    r"""Sequential fine-tuning with rehearsal, compatibility to the predecessor, and model replacement.

    At task t > 0 a frozen copy of the weights that the task starts from is the old model, and the loss is

    .. math:: L = \lambda\, \mathrm{CE}(h(\phi_{new}(x)), y)
              + (1 - \lambda)\, L_{compat}(\phi_{new}(x), \phi_{old}(x), y)

    on batches that are half new classes and half rehearsal memory; the first task uses the cross-entropy alone.
    Before a task with a replacement, the working encoder is discarded for another one, trained elsewhere; memory
    and galleries stay. The old model of that task is then the replacement itself, so compatibility across a
    replacement rests on a shared table of class prototypes (:class:`FixedSimplexClassifier`) alone.

    Args:
        network: encoder and head. Heads that fit: :class:`FixedSimplexClassifier` without projection (put the
            projection at the end of the encoder, features are what the head sees), and :class:`GrowingClassifier`,
            which gets outputs as classes come and is drawn anew after a replacement. It is trained in place.
        compatibility: a loss ``(f_new, f_old, labels)``, or a function from the frozen old network to one (as
            :class:`BCTLoss` needs); ``None`` for plain rehearsal.
        weight: :math:`\lambda` in [0, 1].
        memory: the rehearsal buffer; it is filled in place.
        augment: from a batch of inputs and a ``torch.Generator`` to augmented inputs; old and new model see the same.
        owner: name under which the classes of the tasks are claimed in a fixed table.
        folder: where ``task-0.safetensors``, ``task-1.safetensors``... and ``memory.safetensors`` are kept.

    Raises:
        ValueError: for options out of range, a head that cannot take the labels, or incompatible replacements.

    Source: Biondi, Pernici, Ricci, Del Bimbo, "Stationary Representations: Optimally Approximating
    Compatibility and Implications for Improved Model Replacements", CVPR 2024, Sections 4 and 5.

    Examples:
        >>> from holdfast.representation.compatibility import HOCLoss
        >>> _ = torch.manual_seed(0)
        >>> net = Network(nn.Linear(4, 7), FixedSimplexClassifier(7, 8, project=False))
        >>> trainer = LifelongTrainer(net, compatibility=HOCLoss(), memory=RehearsalBuffer(2), epochs=1, batch_size=8)
        >>> x, y = torch.randn(24, 4), torch.arange(24) % 2
        >>> len(trainer.run([(x, y), (x, y + 2)]).models)
        2
    """

    def __init__(
        self,
        network: Network,
        *,
        compatibility: Compatibility | None,
        weight: float = 0.1,
        memory: RehearsalBuffer | None = None,
        epochs: int = 70,
        batch_size: int = 128,
        lr: float = 1e-3,
        min_lr: float = 1e-5,
        momentum: float = 0.9,
        weight_decay: float = 5e-4,
        schedule: str = "cosine",
        augment: Callable[[Tensor, torch.Generator], Tensor] | None = None,
        precision: str = "32-true",
        device: str = "cpu",
        owner: str = "tasks",
        folder: str | Path | None = None,
        progress: bool = False,
        seed: int = 0,
    ) -> None:
        self.network = network
        self.compatibility = compatibility
        self.weight = float(check_number("weight", weight, low=0, high=1))
        self.memory = RehearsalBuffer(20) if memory is None else memory
        self.epochs = int(check_number("epochs", epochs, low=1, integer=True))
        self.batch_size = int(check_number("batch_size", batch_size, low=2, integer=True))
        self.lr, self.min_lr, self.momentum, self.weight_decay = lr, min_lr, momentum, weight_decay
        self.schedule, self.augment, self.precision, self.device = schedule, augment, precision, device
        self.owner, self.progress = owner, progress
        self.folder = None if folder is None else Path(folder)
        self.seed = int(check_number("seed", seed, low=0, integer=True))

    def run(self, tasks: Sequence[Task], replacements: Mapping[int, Replacement] | None = None) -> LifelongResult:
        """Learn the tasks in order.

        Args:
            tasks: inputs and labels of each; labels are global class numbers from 0.
            replacements: from task number to the model that is loaded before it: a network, its state dict, or a
                safetensors file of one. ``replacements[0]`` is the checkpoint to start from.
        """
        replacements = dict(replacements or {})
        unknown = sorted(t for t in replacements if not 0 <= t < len(tasks))
        if unknown:
            raise ValueError(f"replacement before task {unknown[0]}, but tasks are 0 to {len(tasks) - 1}")
        models, history = [], []
        for t, (x, y) in enumerate(tasks):
            check_same_length(x=x, y=y)
            rng = generator(spawn_seed(self.seed, "task", t))
            if t in replacements:
                self._replace(replacements[t], rng)
            self._admit(y, rng)
            history.append(self._fit(t, x, y))
            self._remember(x, y, rng)
            model = copy.deepcopy(self.network).cpu().eval().requires_grad_(False)
            models.append(model)
            self._store(t, model)
        return LifelongResult(models, history)

    def _admit(self, y: Tensor, rng: torch.Generator) -> None:
        head = self.network.head
        if isinstance(head, FixedSimplexClassifier):
            head.claim(torch.unique(y), self.owner)
        elif isinstance(head, GrowingClassifier):
            head.grow(int(y.max()) + 1, rng)

    def _fit(self, t: int, x: Tensor, y: Tensor) -> list[dict[str, float]]:
        n = len(y)
        if self.memory.x is not None and self.memory.y is not None:
            x, y = torch.cat([x, self.memory.x]), torch.cat([y, self.memory.y])
        old, term, f_old = None, None, None
        if t > 0 and self.compatibility is not None:
            old = copy.deepcopy(self.network).eval().requires_grad_(False)
            c = self.compatibility
            term = c if isinstance(c, nn.Module) else c(old)
            if self.augment is None:
                device = next((p.device for p in old.parameters()), torch.device("cpu"))
                with torch.no_grad():
                    f_old = torch.cat([old.features(part.to(device)).cpu() for part in x.split(1024)])
        sampler = HalfAndHalfSampler(
            torch.arange(n), torch.arange(n, len(y)), self.batch_size, seed=spawn_seed(self.seed, "batches", t)
        )

        def loss(module: nn.Module, batch: Any, info: StepInfo) -> Tensor | dict[str, Tensor]:
            inputs, labels, target = batch
            if self.augment is not None:
                inputs = self.augment(inputs, info.generator)
            features, logits = module(inputs)
            ce = F.cross_entropy(logits, labels)
            if term is None:
                return ce
            if target is None and old is not None:
                with torch.no_grad():
                    target = old.features(inputs)
            compat = term(features, target, labels)
            return {"loss": self.weight * ce + (1 - self.weight) * compat, "ce": ce, "compatibility": compat}

        result = train(
            _WithFeatures(self.network),
            loss,
            _TaskBatches(sampler, x, y, f_old),
            steps=self.epochs * len(sampler),
            optimizer="sgd",
            lr=self.lr,
            min_lr=min(self.min_lr, self.lr),
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            decay_norms_and_biases=False,
            schedule=self.schedule,
            precision=self.precision,
            device=self.device,
            progress=f"task {t}" if self.progress else False,
            seed=spawn_seed(self.seed, "steps", t),
        )
        return result.history

    def _remember(self, x: Tensor, y: Tensor, rng: torch.Generator) -> None:
        features = None
        if self.memory.strategy == "herding":
            device = next((p.device for p in self.network.parameters()), torch.device("cpu"))
            with torch.no_grad():
                features = torch.cat([self.network.features(p.to(device)).cpu() for p in x.split(1024)])
        self.memory.add(x, y, features=features, generator=rng)

    def _replace(self, replacement: Replacement, rng: torch.Generator) -> None:
        if isinstance(replacement, nn.Module):
            state: Mapping[str, Tensor] = replacement.state_dict()
        elif isinstance(replacement, Mapping):
            state = replacement
        else:
            from safetensors.torch import load_file

            state = load_file(replacement)
        encoder = {k.removeprefix("encoder."): v for k, v in state.items() if k.startswith("encoder.")}
        if not encoder:
            raise ValueError("the replacement holds no weights under 'encoder.'; save a Network's state_dict()")
        head = self.network.head
        if isinstance(head, FixedSimplexClassifier):
            table = state.get("head.vertices")
            if table is None:
                raise ValueError(
                    "the network has a fixed simplex head, but the replacement was trained with another kind of head; "
                    "its features would not be comparable with the gallery"
                )
            theirs = EmbeddingContract("simplex", len(table), tensor_digest(table))
            head.contract.check(theirs, names=("network's table", "replacement's table"))
            self._merge_claims(head, state["head.owners"])
        elif isinstance(head, GrowingClassifier):
            head.reset(rng)
        self.network.encoder.load_state_dict(encoder)

    @staticmethod
    def _merge_claims(head: FixedSimplexClassifier, owners: Tensor) -> None:
        owners = owners.to(head.owners.device)
        theirs, ours = (owners != 0).any(1), (head.owners != 0).any(1)
        clash = theirs & ours & (owners != head.owners).any(1)
        if bool(clash.any()):
            row = int(clash.nonzero()[0])
            name = bytes(owners[row].tolist()).rstrip(b"\0").decode()
            raise ValueError(
                f"row {row} of the simplex table is used by {head.owner_of(row)!r} in the network and by "
                f"{name!r} in the replacement; take classes from opposite ends, or a larger table"
            )
        head.owners[theirs] = owners[theirs]

    def _store(self, t: int, model: Network) -> None:
        if self.folder is None:
            return
        from safetensors.torch import save_file

        self.folder.mkdir(parents=True, exist_ok=True)
        save_file({k: v.contiguous() for k, v in model.state_dict().items()}, self.folder / f"task-{t}.safetensors")
        save_file({k: v.contiguous() for k, v in self.memory.state_dict().items()}, self.folder / "memory.safetensors")
