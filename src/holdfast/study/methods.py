"""The methods a study can run: an explicit table of names, classes and search spaces."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from holdfast.study.search import Choice, LogUniform, SearchSpace, Uniform

__all__ = ["METHODS", "Method", "build", "find_class"]

_OPTIMISER: SearchSpace = {"lr": LogUniform(1e-4, 1e-2), "weight_decay": LogUniform(1e-6, 1e-2)}


@dataclass(frozen=True)
class Method:
    """A learner by name: where its class is, one line on what it does, and what a random search draws."""

    path: str
    about: str
    search: Mapping[str, Any] = field(default_factory=lambda: _OPTIMISER)


_BATCH: SearchSpace = {**_OPTIMISER, "batch_size": Choice((32, 64, 128))}

METHODS: dict[str, Method] = {
    "erm": Method("holdfast.shift:ERM", "mean loss over all environments pooled", _BATCH),
    "groupdro": Method(
        "holdfast.shift:GroupDRO",
        "loss of the worst environment, by exponentiated weights",
        {**_OPTIMISER, "step_size": LogUniform(1e-3, 1e-1)},
    ),
    "coral": Method(
        "holdfast.shift:CORAL",
        "equal mean and covariance of features across environments",
        {**_OPTIMISER, "penalty": LogUniform(1e-1, 1e1)},
    ),
    "irm": Method(
        "holdfast.shift:IRM",
        "a classifier that is optimal in every environment at once",
        {**_OPTIMISER, "penalty": LogUniform(1e-1, 1e4), "penalty_start": Uniform(0.0, 0.5)},
    ),
    "vrex": Method(
        "holdfast.shift:VREx",
        "small variance of the loss across environments",
        {**_OPTIMISER, "penalty": LogUniform(1e-1, 1e4), "penalty_start": Uniform(0.0, 0.5)},
    ),
    "mixup": Method(
        "holdfast.shift:Mixup",
        "training on convex combinations of samples",
        {**_OPTIMISER, "alpha": LogUniform(1e-1, 1e1)},
    ),
    "dann": Method(
        "holdfast.shift:DANN",
        "features from which an adversary cannot tell the environment",
        {**_OPTIMISER, "penalty": LogUniform(1e-2, 1e1)},
    ),
    "label-dro": Method(
        "holdfast.shift:LabelDRO",
        "loss robust to the distribution of labels",
        {**_OPTIMISER, "temperature": LogUniform(1e-1, 1e1), "margin": Uniform(0.0, 1.0)},
    ),
    "adaptive-label-dro": Method(
        "holdfast.shift:AdaptiveLabelDRO",
        "loss robust to the distribution of labels, as much as each sample needs",
        {
            **_OPTIMISER,
            "temperature": LogUniform(1e0, 1e2),
            "alpha": LogUniform(1.2, 8e0),
            "margin": Uniform(0.0, 1.0),
        },
    ),
    "stationary": Method(
        "holdfast.representation:StationaryClassifier",
        "features on a fixed simplex, with room for classes to come",
        {**_OPTIMISER, "n_preallocated": Choice((128, 256))},
    ),
    "relative": Method(
        "holdfast.representation:RelativeClassifier",
        "features as similarities to anchor samples",
        {**_OPTIMISER, "n_anchors": Choice((None, 32)), "hidden": Choice((64, 128, 256))},
    ),
    "category-model": Method(
        "holdfast.representation:CategoryModel",
        "groups of features with a Gaussian of every class, for density and class at once",
        {
            **_OPTIMISER,
            "n_groups": Choice((4, 8, 16)),
            "beta": LogUniform(1e-2, 1e0),
        },
    ),
    "rich": Method(
        "holdfast.representation:RichClassifier",
        "several networks trained apart, their features concatenated",
        {**_OPTIMISER, "n_episodes": Choice((2, 4, 6))},
    ),
    "diffusion-features": Method(
        "holdfast.diffusion:DiffusionFeatureClassifier",
        "a light head on frozen features of a diffusion model of the inputs",
        {**_OPTIMISER, "pool": Choice((1, 2, 4)), "C": LogUniform(1e-2, 1e1)},
    ),
    "matryoshka": Method(
        "holdfast.representation:MatryoshkaClassifier",
        "features of which every prefix is a representation too",
        {**_OPTIMISER, "efficient": Choice((False, True))},
    ),
}


@cache
def find_class(name: str) -> type:
    """Import the class of a method of the table, or of ``package.module:Class``.

    Raises:
        ImportError, AttributeError: when the module or the class is not there.
    """
    module, _, attribute = (METHODS[name].path if name in METHODS else name).rpartition(":")
    return getattr(importlib.import_module(module), attribute)


def build(name: str, params: Mapping[str, Any], *, random_state: int) -> Any:
    """Construct an unfitted learner; ``random_state`` is given to every class that has one."""
    cls = find_class(name)
    known = cls().get_params(deep=False)
    return cls(**params, **({"random_state": random_state} if "random_state" in known else {}))
