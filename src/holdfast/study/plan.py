"""The plan of a study: every cell that has to be run, each known by what determines its result."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

from holdfast.study.spec import SpecError, StudySpec, suggest

__all__ = ["Cell", "SettingInfo", "held_out_of", "plan"]


@dataclass(frozen=True)
class SettingInfo:
    """What is known of a setting's data once it was read: enough to plan and to report without the data."""

    name: str
    fingerprint: str
    kind: str
    counts: dict[str, int]
    classes: list[str]
    shift: str = ""

    @property
    def environments(self) -> tuple[str, ...]:
        """Names of the environments."""
        return tuple(self.counts)


@dataclass(frozen=True)
class Cell:
    """One model to train: data, method with hyper-parameters, held-out environments, seed and trial.

    ``held_out`` has one environment, or two for leave-one-out selection: the model that has seen neither ``a`` nor
    ``b`` is scored on ``b`` to select for ``a``, and on ``a`` to select for ``b``.

    Examples:
        >>> cell = Cell("data", "abc", "erm", "erm", {}, ("A",), seed=0, trial=0, validation=0.2)
        >>> len(cell.key), cell.title
        (32, 'data · erm · without A · seed 0 · trial 0')
    """

    setting: str
    fingerprint: str
    label: str
    method: str
    params: dict[str, Any] = field(hash=False)
    held_out: tuple[str, ...]
    seed: int
    trial: int
    validation: float

    @property
    def key(self) -> str:
        """A digest of everything that determines the result; equal cells of several studies share it."""
        identity = {
            "data": self.fingerprint,
            "method": self.method,
            "params": self.params,
            "held_out": sorted(self.held_out),
            "seed": self.seed,
            "trial": self.trial,
            "validation": self.validation,
        }
        text = json.dumps(identity, sort_keys=True, default=repr)
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    @property
    def title(self) -> str:
        """One line for people."""
        return (
            f"{self.setting} · {self.label} · without {', '.join(self.held_out)} · "
            f"seed {self.seed} · trial {self.trial}"
        )


def held_out_of(spec: StudySpec, info: SettingInfo) -> tuple[str, ...]:
    """Return the environments a setting holds out, in the data's order.

    Raises:
        SpecError: for an unknown environment, or when too few would be left to train on.
    """
    position = next(i for i, s in enumerate(spec.settings) if s.name == info.name)
    own = spec.settings[position].hold_out
    wanted, where = (own, f"settings[{position}].hold_out") if own is not None else (spec.hold_out, "hold_out")
    names = info.environments
    if len(names) < 2:
        raise SpecError(
            f"data.environment: {info.name} has one environment ({', '.join(names)}); a study holds one out and trains "
            "on the others, so it needs at least two: name the column that tells them apart, or make them with a shift"
        )
    if spec.selection == "leave-one-out" and len(names) < 3:
        raise SpecError(
            f"selection: leave-one-out over the training environments needs at least three environments, "
            f"{info.name} has {len(names)}; use selection: training"
        )
    if wanted == "each":
        return names
    for i, name in enumerate(wanted):
        if name not in names:
            raise SpecError(f"{where}[{i}]: {info.name} has no environment {name!r}; {suggest(name, names)}")
    return tuple(n for n in names if n in wanted)


def plan(spec: StudySpec, infos: Sequence[SettingInfo]) -> list[Cell]:
    """Return all cells of a study, the cheap overview first: trial 0 of every method, then further trials."""
    return list(_cells(spec, infos))


def _cells(spec: StudySpec, infos: Iterable[SettingInfo]) -> Iterable[Cell]:
    most = max(m.trials or spec.trials for m in spec.methods)
    infos = list(infos)
    for trial, seed, info in product(range(most), spec.seeds, infos):
        held_out = held_out_of(spec, info)
        groups = [(name,) for name in held_out]
        searching = [m for m in spec.methods if (m.trials or spec.trials) > 1]
        pairs: list[tuple[str, ...]] = []
        if spec.selection == "leave-one-out" and searching:
            order = {n: i for i, n in enumerate(info.environments)}
            found = {tuple(sorted((t, j), key=order.__getitem__)) for t in held_out for j in order if j != t}
            pairs = sorted(found, key=lambda p: tuple(order[n] for n in p))
        for group in groups + pairs:
            for method in spec.methods:
                budget = method.trials or spec.trials
                if trial >= budget or (len(group) == 2 and budget == 1):
                    continue
                yield Cell(
                    setting=info.name,
                    fingerprint=info.fingerprint,
                    label=method.label,
                    method=method.name,
                    params=method.trial_params(trial, seed=spec.search_seed, common=spec.common()),
                    held_out=group,
                    seed=seed,
                    trial=trial,
                    validation=spec.validation,
                )
