"""From a setting to its samples: read the data, apply the shift, and look at what came."""

from __future__ import annotations

from typing import Any

from holdfast.data import DataError, Environments
from holdfast.study.plan import SettingInfo
from holdfast.study.sharing import fingerprint
from holdfast.study.spec import DataSpec, Setting, SpecError

__all__ = ["describe", "load_setting", "reading_options"]


def reading_options(spec: DataSpec) -> dict[str, Any]:
    """Return the options of :func:`holdfast.data.read` that a data specification gives."""
    options = {"label": spec.label, "environment": spec.environment, "text": spec.text}
    given: dict[str, Any] = {k: v for k, v in options.items() if v is not None}
    return given | ({"attributes": spec.attributes} if spec.attributes else {}) | spec.options


def load_setting(setting: Setting) -> Environments:
    """Read a setting's data and apply its shift.

    Raises:
        SpecError: naming the setting, with what the reader or the shift said.
    """
    from holdfast.data import load_named, read
    from holdfast.data.shifts import apply_shift

    spec = setting.data
    if spec.memory:
        raise SpecError(f"{setting.name}: its samples were in memory; run it from Python with Study(...) again")
    try:
        if spec.path is not None:
            data = read(spec.path, **reading_options(spec))
        else:
            data = load_named(str(spec.named), **spec.options)
        if spec.limit is not None and spec.limit < len(data):
            data = data.split(spec.limit / len(data), seed=0)[1]
        if setting.shift is not None:
            data = apply_shift(data, setting.shift.name, seed=setting.shift.seed, **setting.shift.params)
    except (DataError, ValueError, TypeError, OSError) as error:
        raise SpecError(f"{setting.name}: {error}") from error
    if data.task != "classification":
        raise SpecError(
            f"data.label: {setting.name} has real-valued targets; a study compares classifiers. "
            "Bin the targets into classes, or give whole numbers or texts"
        )
    if len(data.classes) < 2:
        raise SpecError(f"data.label: {setting.name} has one class ({data.classes[0]!r}); at least two are needed")
    return data


def describe(setting: Setting, data: Environments) -> SettingInfo:
    """Return what is worth keeping of ``data`` for planning and reporting."""
    shift = ""
    if setting.shift is not None:
        params = ", ".join(f"{k}={v}" for k, v in setting.shift.params.items())
        shift = f"{setting.shift.name}({params})"
    return SettingInfo(
        name=setting.name,
        fingerprint=fingerprint(data),
        kind=data.kind,
        counts={str(k): int(v) for k, v in data.counts.items()},
        classes=[str(c) for c in data.classes],
        shift=shift,
    )
