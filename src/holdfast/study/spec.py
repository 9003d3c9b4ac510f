"""What a study is: a strict, typed specification that is refused, field by field, before anything runs."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator

from holdfast.study.methods import METHODS, find_class
from holdfast.study.search import draw, parse_distribution

__all__ = [
    "DataSpec",
    "ExecutorSpec",
    "MethodSpec",
    "Setting",
    "ShiftSpec",
    "SpecError",
    "StudySpec",
    "load_spec",
    "parse_spec",
    "suggest",
]

Selection = Literal["training", "leave-one-out", "oracle"]
_RESERVED = ("random_state", "classes")


class SpecError(ValueError):
    """A specification that cannot be run; each line names a field."""


def suggest(name: str, known: Iterable[str]) -> str:
    """Return a hint for a misspelt name: the close matches first, else the known names.

    Examples:
        >>> suggest("vrx", ["erm", "vrex"])
        "did you mean 'vrex'? known: erm, vrex"
    """
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=2, cutoff=0.6)
    hint = f"did you mean {' or '.join(map(repr, close))}? " if close else ""
    shown = ", ".join(known[:40]) + (", ..." if len(known) > 40 else "")
    return f"{hint}known: {shown}"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class DataSpec(_Strict):
    """Where the samples come from: a file or folder of yours, a named data set, or memory.

    ``options`` are those of the named set, or of :func:`holdfast.data.read`: columns, drop, categorical and missing
    of a table, size of images, task.
    """

    path: Path | None = None
    named: str | None = None
    memory: bool = False
    options: dict[str, Any] = Field(default_factory=dict)
    label: str | None = None
    environment: str | None = None
    text: str | None = None
    attributes: tuple[str, ...] = ()
    limit: int | None = Field(default=None, ge=1)
    """At most so many samples, drawn once; every environment and class keeps its share."""

    @field_validator("path")
    @classmethod
    def _path_exists(cls, path: Path | None, info: ValidationInfo) -> Path | None:
        stored = info.context is not None and info.context.get("stored")  # a study is reported without its data
        if path is not None and not stored and not path.exists():
            raise ValueError(f"there is nothing at {path}")
        return path

    @field_validator("named")
    @classmethod
    def _named_exists(cls, named: str | None) -> str | None:
        if named is not None:
            from holdfast.data import list_named

            if named not in list_named():
                raise ValueError(f"unknown data set {named!r}; {suggest(named, list_named())}")
        return named

    @model_validator(mode="after")
    def _one_source(self) -> DataSpec:
        if (self.path is not None) + (self.named is not None) + self.memory != 1:
            raise ValueError("give either 'path' (your own file or folder) or 'named' (a data set by name)")
        if self.path is None and (self.label or self.environment or self.text or self.attributes):
            raise ValueError("label, environment, text and attributes go with 'path'; a named set takes 'options'")
        if self.memory and self.limit is not None:
            raise ValueError("limit goes with 'path' or 'named'; of samples in memory give fewer")
        if self.memory and self.options:
            raise ValueError("options go with 'path' or 'named'")
        if self.path is not None:
            from holdfast.data import read

            known = set(inspect.signature(read).parameters) - {"path", "label", "environment", "text", "attributes"}
            for name in self.options:
                if name not in known:
                    raise ValueError(f"options.{name}: no reader has such an option; {suggest(name, known)}")
        return self


class ShiftSpec(_Strict):
    """A shift made on purpose: its name in the table of shifts, and its parameters."""

    name: str
    params: dict[str, Any] = Field(default_factory=dict)
    seed: int = Field(default=0, ge=0)

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _known(self) -> ShiftSpec:
        from holdfast.data.shifts import SHIFTS, shift_parameters

        if self.name not in SHIFTS:
            raise ValueError(f"name: unknown shift {self.name!r}; {suggest(self.name, SHIFTS)}")
        known = shift_parameters(self.name)
        for name in self.params:
            if name not in known:
                raise ValueError(f"params.{name}: unknown parameter of {self.name}; {suggest(name, known)}")
        return self


class MethodSpec(_Strict):
    """A learner: a name of the table (or ``package.module:Class``), fixed hyper-parameters, a search budget."""

    name: str
    params: dict[str, Any] = Field(default_factory=dict)
    search: dict[str, Any] = Field(default_factory=dict)
    trials: int | None = Field(default=None, ge=1)
    title: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _known(self) -> MethodSpec:
        if self.name not in METHODS and ":" not in self.name:
            raise ValueError(f"name: unknown method {self.name!r}; {suggest(self.name, METHODS)}")
        try:
            cls = find_class(self.name)
        except (ImportError, AttributeError) as error:
            raise ValueError(f"name: cannot import {self.name!r}: {error}") from error
        known = [p for p in cls().get_params(deep=False) if p not in _RESERVED]
        for field in ("params", "search"):
            for name in getattr(self, field):
                if name not in known:
                    raise ValueError(f"{field}.{name}: unknown hyper-parameter of {self.name}; {suggest(name, known)}")
        for name, value in self.search.items():
            try:
                parse_distribution(value)
            except ValueError as error:
                raise ValueError(f"search.{name}: {error}") from None
        return self

    @property
    def label(self) -> str:
        """The name shown in tables and used to tell methods apart."""
        return self.title or self.name.rpartition(":")[2]

    def space(self) -> Mapping[str, Any]:
        """Return the search space: the table's, overridden by the specification's, without the fixed ones."""
        base = dict(METHODS[self.name].search) if self.name in METHODS else {}
        base |= {k: parse_distribution(v) for k, v in self.search.items()}
        return {k: v for k, v in base.items() if k not in self.params}

    def trial_params(self, trial: int, *, seed: int, common: Mapping[str, Any]) -> dict[str, Any]:
        """Return the hyper-parameters of one trial: shared budget, then the draw, then the fixed ones."""
        known = find_class(self.name)().get_params(deep=False)
        shared = {k: v for k, v in common.items() if k in known}
        return shared | draw(self.space(), trial, method=self.name, seed=seed) | self.params


class ExecutorSpec(_Strict):
    """Where cells run: ``local`` processes or a ``ray`` cluster (an address, or one started for the run)."""

    kind: Literal["local", "ray"] = "local"
    workers: int | None = Field(default=None, ge=0)
    address: str | None = None
    retries: int = Field(default=2, ge=0)

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: Any) -> Any:
        return {"kind": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _address_is_for_ray(self) -> ExecutorSpec:
        if self.address is not None and self.kind != "ray":
            raise ValueError("address: only a ray executor has one")
        return self


class Setting(_Strict):
    """One data set under at most one made shift, and the environments to hold out of it."""

    name: str = "data"
    data: DataSpec
    shift: ShiftSpec | None = None
    hold_out: Literal["each"] | tuple[str, ...] | None = None

    @field_validator("hold_out", mode="before")
    @classmethod
    def _names(cls, value: Any) -> Any:
        return _hold_out_names(value)


class StudySpec(_Strict):
    """A study: settings x methods x held-out environments x seeds x trials, and how to run it.

    Examples:
        >>> spec = parse_spec({"data": {"named": "sklearn-digits"}, "methods": ["erm"], "seeds": 2})
        >>> spec.seeds, spec.settings[0].data.named
        ((0, 1), 'sklearn-digits')
    """

    name: str = Field(default="study", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    settings: tuple[Setting, ...] = Field(min_length=1)
    methods: tuple[MethodSpec, ...] = Field(min_length=1)
    hold_out: Literal["each"] | tuple[str, ...] = "each"
    seeds: tuple[int, ...] = (0, 1, 2)
    trials: int = Field(default=1, ge=1)
    selection: Selection = "training"
    baseline: str | None = None
    validation: float = Field(default=0.2, gt=0, lt=1)
    steps: int | None = Field(default=None, ge=1)
    epochs: int | None = Field(default=None, ge=1)
    params: dict[str, Any] = Field(default_factory=dict)
    executor: ExecutorSpec = Field(default_factory=ExecutorSpec)
    store: str | None = None
    search_seed: int = Field(default=0, ge=0)

    @model_validator(mode="before")
    @classmethod
    def _one_setting(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            raise ValueError(f"a study must be a mapping of fields, got {type(value).__name__}")
        value = dict(value)
        if "data" in value:
            if "settings" in value:
                raise ValueError("give either 'data' (one setting) or 'settings' (several), not both")
            data = value.pop("data")
            if isinstance(data, str):
                data = {"named": data} if not Path(data).exists() and not Path(data).suffix else {"path": data}
            value["settings"] = [{"data": data, "shift": value.pop("shift", None)}]
        return value

    @field_validator("hold_out", mode="before")
    @classmethod
    def _names(cls, value: Any) -> Any:
        return _hold_out_names(value)

    @field_validator("seeds", mode="before")
    @classmethod
    def _seeds(cls, value: Any) -> Any:
        if isinstance(value, int) and not isinstance(value, bool):
            if value < 1:
                raise ValueError(f"a study needs at least one seed, got {value}")
            return tuple(range(value))
        return value

    @field_validator("seeds")
    @classmethod
    def _distinct_seeds(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if not value or min(value) < 0 or len(set(value)) < len(value):
            raise ValueError(f"seeds must be distinct whole numbers from 0 on, got {list(value)}")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> StudySpec:
        for what, names in (
            ("settings", [s.name for s in self.settings]),
            ("methods", [m.label for m in self.methods]),
        ):
            twice = sorted({n for n in names if names.count(n) > 1})
            if twice:
                field = "name" if what == "settings" else "title"
                raise ValueError(f"{what}: {', '.join(twice)} appears twice; give each its own {field}")
        labels = [m.label for m in self.methods]
        if self.baseline is not None and self.baseline not in labels:
            raise ValueError(f"baseline: unknown method {self.baseline!r}; {suggest(self.baseline, labels)}")
        if self.steps is not None and self.epochs is not None:
            raise ValueError("steps: give steps or epochs, not both")
        for name in self.params:
            if not any(name in find_class(m.name)().get_params(deep=False) for m in self.methods):
                raise ValueError(f"params.{name}: no method of this study has such a hyper-parameter")
        return self

    @property
    def reference(self) -> str:
        """The method every other one is compared with: ``baseline``, else ERM, else the first."""
        labels = [m.label for m in self.methods]
        return self.baseline or ("erm" if "erm" in labels else labels[0])

    def common(self) -> dict[str, Any]:
        """Hyper-parameters given to every method that has them."""
        budget = {"steps": self.steps, "epochs": self.epochs}
        return {k: v for k, v in budget.items() if v is not None} | self.params

    def method(self, label: str) -> MethodSpec:
        """Return the method with this label."""
        return next(m for m in self.methods if m.label == label)

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary that :func:`parse_spec` reads back."""
        return self.model_dump(mode="json", exclude_none=True)


def _hold_out_names(value: Any) -> Any:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return (str(value),)
    if isinstance(value, str) and value != "each":
        return (value,)
    if isinstance(value, (list, tuple)):
        if len(value) == 0:
            raise ValueError("name at least one environment, or write 'each'")
        return tuple(str(v) for v in value)
    return value


def _field(location: tuple[int | str, ...]) -> str:
    """Spell a pydantic location the way the file is written: ``settings[0].data.path``."""
    text = ""
    for part in location:
        if isinstance(part, int):
            text += f"[{part}]"
        elif not (part.startswith(("literal[", "tuple[", "function-")) or part in ("constrained-str",)):
            text += f".{part}" if text else part
    return text


def _fields_beside(location: tuple[int | str, ...]) -> list[str]:
    """The fields that a misspelt one, nested in others, could have been."""
    parts = [p for p in location[:-1] if isinstance(p, str)]
    models = {
        "settings": Setting,
        "data": DataSpec,
        "shift": ShiftSpec,
        "methods": MethodSpec,
        "executor": ExecutorSpec,
    }
    return sorted(next((models[p] for p in reversed(parts) if p in models), StudySpec).model_fields)


def _spell(error: Mapping[str, Any]) -> str:
    message = error["msg"].removeprefix("Value error, ")
    field = _field(error["loc"])
    if error["type"] == "extra_forbidden":
        message = "there is no such field"
    if error["type"] == "missing":
        message = "this field is needed"
    if error["type"] == "too_short":
        message = "name at least one"
    if error["type"] == "literal_error":
        message = f"must be {error['ctx']['expected']}, got {error['input']!r}"
    if not field:
        return message
    joint = "." if message.split(":")[0].split(".")[0] in ("name", "params", "search", "address", "options") else ": "
    return f"{field}{joint}{message}"


def parse_spec(fields: Mapping[str, Any], *, stored: bool = False) -> StudySpec:
    """Check a mapping of fields and return the specification; one that was ``stored`` may lack its data by now.

    Raises:
        SpecError: one line per wrong field, each with the field's name.

    Examples:
        >>> parse_spec({"data": {"named": "sklearn-digits"}, "methods": ["emr"]})
        Traceback (most recent call last):
        ...
        holdfast.study.spec.SpecError: methods[0].name: unknown method 'emr'; did you mean 'erm'? ...
    """
    try:
        return StudySpec.model_validate(fields, context={"stored": stored})
    except ValidationError as error:
        known = set(StudySpec.model_fields) | {"data", "shift"}
        lines = []
        inside = {e["loc"][0] for e in error.errors() if len(e["loc"]) > 1}
        misspelt = [suggest(str(e["loc"][0]), known) for e in error.errors() if e["type"] == "extra_forbidden"]
        for e in error.errors():
            if e["type"] == "too_short" and e["loc"][0] in inside:
                continue  # its entries were refused one by one
            if e["type"] == "missing" and any(hint.startswith(f"did you mean {e['loc'][0]!r}") for hint in misspelt):
                continue  # it is there under another name, which is refused with this one as the hint
            line = _spell(e)
            if e["type"] == "extra_forbidden":
                line += f"; {suggest(str(e['loc'][-1]), known if len(e['loc']) == 1 else _fields_beside(e['loc']))}"
            elif e["type"] == "missing" and e["loc"] == ("settings",):
                line = "data: this field is needed: a path or a named data set"
            if isinstance(fields, Mapping) and "settings" not in fields:
                line = line.removeprefix("settings[0].")
            if line not in lines:
                lines.append(line)
        raise SpecError("\n".join(lines)) from None


def load_spec(path: str | Path, overrides: Mapping[str, Any] | None = None) -> StudySpec:
    """Read a specification from YAML; ``overrides`` replace fields of the file. Paths are relative to the file.

    Raises:
        SpecError: when the file is not YAML, or a field is wrong.
    """
    path = Path(path)
    try:
        fields = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        raise SpecError(f"there is no study file at {path}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SpecError(f"{path} is not YAML: {error}") from None
    if not isinstance(fields, dict):
        raise SpecError(f"{path} must hold fields such as data and methods, got {type(fields).__name__}")
    fields.setdefault("name", path.stem)
    for holder in [fields, *(s for s in fields.get("settings") or [] if isinstance(s, dict))]:
        data = holder.get("data")
        if isinstance(data, dict) and isinstance(data.get("path"), str):
            data["path"] = str(path.parent / Path(data["path"]).expanduser())
    overrides = dict(overrides or {})
    if "data" in overrides:
        fields.pop("settings", None)
    return parse_spec(fields | overrides)
