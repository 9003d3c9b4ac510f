"""What a study ships: a classifier, its trust part, and how to read the data it was made for."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from holdfast.core.saving import load, save
from holdfast.representation.trust import DistrustScore

__all__ = ["INFO", "Bundle", "BundleInfo", "column_kinds", "digest", "find_bundle", "read_info", "write_info"]

FORMAT = 1
INFO = "study.json"
_TRUST = "trust"


@dataclass(frozen=True)
class BundleInfo:
    """What is known of a shipped model beside its weights.

    Attributes:
        kind: modality of the samples.
        shape: of one sample, for vectors and images.
        columns: of a table: name to ``"number"``, ``"text"`` or ``"time"``.
        reading: column names the data were read with (label, environment, text, attributes).
        method: the learner, with its hyper-parameters.
        environments: what it was trained on.
        expect: sentences on what to expect on a new environment, from the study.
        origin: digest of all that determines the model, so that an unchanged study is not trained again.
    """

    study: str
    setting: str
    kind: str
    shape: list[int]
    columns: dict[str, str]
    reading: dict[str, Any]
    method: dict[str, Any]
    classes: list[str]
    environments: list[str]
    expect: list[str]
    selection: str
    origin: str
    versions: dict[str, str] = field(default_factory=dict)
    no_trust: str = ""


def column_kinds(frame: pd.DataFrame) -> dict[str, str]:
    """Return how each column has to be read so that it is as it was in training.

    Examples:
        >>> column_kinds(pd.DataFrame({"age": [1.0], "site": ["N"]}))
        {'age': 'number', 'site': 'text'}
    """
    types = pd.api.types
    return {
        str(name): "time"
        if types.is_datetime64_any_dtype(dtype)
        else "number"
        if types.is_numeric_dtype(dtype) or types.is_bool_dtype(dtype)
        else "text"
        for name, dtype in frame.dtypes.items()
    }


@dataclass
class Bundle:
    """A classifier with its trust part, as ``study`` saves and ``predict`` loads it."""

    classifier: Any
    trust: DistrustScore | None
    info: BundleInfo

    def predict(self, x: Any) -> pd.DataFrame:
        """Return prediction, probabilities and, with a trust part, distrust and nearest environment of samples."""
        p = self.classifier.predict_proba(x)
        out: dict[str, Any] = {"prediction": np.asarray(self.classifier.classes_)[p.argmax(1)]}
        out |= {f"p_{c}": p[:, i] for i, c in enumerate(self.classifier.classes_)}
        if self.trust is not None:
            trust = self.trust.score(self.classifier.transform(x))
            out |= {
                "distrust": trust.distrust,
                "p_value": trust.p_value,
                "p_value_new": trust.p_value_new,
                "nearest_environment": trust.nearest_environment,
            }
        return pd.DataFrame(out)

    def save(self, folder: Path) -> Path:
        """Write classifier, trust part and facts; the facts come last, so a folder that has them is whole."""
        (folder / INFO).unlink(missing_ok=True)
        save(self.classifier, folder)
        if self.trust is not None:
            save(self.trust, folder / _TRUST)
        write_info(folder, self.info)
        return folder

    @classmethod
    def load(cls, where: str | Path, **objects: Any) -> Bundle:
        """Read what :meth:`save` wrote; no code in the files is run.

        Raises:
            FileNotFoundError: when there is no shipped model.
            ValueError: for a file that was changed, cut short, or written by a newer version.
        """
        folder = find_bundle(where)
        info = read_info(folder)
        trust = load(folder / _TRUST) if not info.no_trust else None
        if trust is not None and not isinstance(trust, DistrustScore):
            raise ValueError(f"{folder / _TRUST} holds a {type(trust).__name__}, not a distrust score")
        return cls(load(folder, **objects), trust, info)


def write_info(folder: Path, info: BundleInfo) -> None:
    """Write the facts about a shipped model."""
    (folder / INFO).write_text(json.dumps({"format": FORMAT} | asdict(info), indent=1))


def read_info(folder: Path) -> BundleInfo:
    """Read the facts about a shipped model."""
    path = folder / INFO
    try:
        fields = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON (line {error.lineno}); the model folder is damaged") from None
    if not isinstance(fields, dict) or not isinstance(fields.get("format"), int):
        raise ValueError(f"{path} does not describe a shipped model")
    if fields.pop("format") > FORMAT:
        raise ValueError(f"{path} was written by a newer version of holdfast; update holdfast to read it")
    try:
        return BundleInfo(**fields)
    except TypeError as error:
        raise ValueError(f"{path} does not describe a shipped model: {error}") from None


def find_bundle(where: str | Path) -> Path:
    """Return the model folder in ``where``: itself, or a study with one model.

    Raises:
        FileNotFoundError: when there is none, or several to choose from.
    """
    where = Path(where)
    for folder in (where, where / "model"):
        if (folder / INFO).is_file():
            return folder
    several = sorted(p.parent for base in (where, where / "model") for p in base.glob(f"*/{INFO}"))
    if several:
        raise FileNotFoundError(f"{where} holds several models; name one: {', '.join(map(str, several))}")
    raise FileNotFoundError(f"there is no shipped model at {where}: expected {INFO} in it or in its folder 'model'")


def digest(**facts: Any) -> str:
    """Return a digest of JSON-ready facts."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=repr).encode()).hexdigest()[:24]
