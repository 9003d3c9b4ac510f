"""holdfast: representations, distributions and generators that hold when the data moves.

The names below are imported on first use, so ``import holdfast`` is quick::

    import holdfast as hf

    data = hf.read_table("sites.csv", label="y", environment="hospital")
    model = hf.GroupDRO().fit(data.x, data.y, environment=data.environment_names)
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

_EXPORTS: dict[str, str] = {
    # data
    "Environments": "holdfast.data",
    "apply_shift": "holdfast.data",
    "load_named": "holdfast.data",
    "read": "holdfast.data",
    "read_graphs": "holdfast.data",
    "read_images": "holdfast.data",
    "read_manifest": "holdfast.data",
    "read_npz": "holdfast.data",
    "read_table": "holdfast.data",
    "read_text": "holdfast.data",
    # the loop and the files
    "Classifier": "holdfast.core",
    "Estimator": "holdfast.core",
    "Regressor": "holdfast.core",
    "load": "holdfast.core",
    "save": "holdfast.core",
    "train": "holdfast.core",
    # learners
    "CORAL": "holdfast.shift",
    "DANN": "holdfast.shift",
    "ERM": "holdfast.shift",
    "ERMRegressor": "holdfast.shift",
    "GroupDRO": "holdfast.shift",
    "IRM": "holdfast.shift",
    "Mixup": "holdfast.shift",
    "VREx": "holdfast.shift",
    "AdaptiveLabelDRO": "holdfast.shift",
    "LabelDRO": "holdfast.shift",
    "CategoryModel": "holdfast.representation",
    "DiffusionFeatureClassifier": "holdfast.diffusion",
    "MatryoshkaClassifier": "holdfast.representation",
    "RelativeClassifier": "holdfast.representation",
    "RichClassifier": "holdfast.representation",
    "StationaryClassifier": "holdfast.representation",
    # generators
    "DiffusionModel": "holdfast.diffusion",
    # is a likelihood on these data worth anything
    "singularity_report": "holdfast.distribution",
    # the effect of actions that were never tried
    "InterventionExtrapolator": "holdfast.causal",
    # study and papers
    "Study": "holdfast.study",
    "cite": "holdfast.papers",
    "papers": "holdfast.papers",
    "reproduce": "holdfast.papers",
}

__all__ = [*_EXPORTS, "__version__"]  # pyright: ignore[reportUnsupportedDunderAll]

__version__ = version("holdfast")

if TYPE_CHECKING:
    from holdfast.causal import InterventionExtrapolator
    from holdfast.core import Classifier, Estimator, Regressor, load, save, train
    from holdfast.data import (
        Environments,
        apply_shift,
        load_named,
        read,
        read_graphs,
        read_images,
        read_manifest,
        read_npz,
        read_table,
        read_text,
    )
    from holdfast.diffusion import DiffusionFeatureClassifier, DiffusionModel
    from holdfast.distribution import singularity_report
    from holdfast.papers import cite, papers, reproduce
    from holdfast.representation import (
        CategoryModel,
        MatryoshkaClassifier,
        RelativeClassifier,
        RichClassifier,
        StationaryClassifier,
    )
    from holdfast.shift import (
        CORAL,
        DANN,
        ERM,
        IRM,
        AdaptiveLabelDRO,
        ERMRegressor,
        GroupDRO,
        LabelDRO,
        Mixup,
        VREx,
    )
    from holdfast.study import Study


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module 'holdfast' has no attribute {name!r}")
    value = getattr(import_module(_EXPORTS[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
