"""Running a study: read, plan, run what is not stored yet, summarise, refit the chosen method, report."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import yaml

from holdfast.data import Environments
from holdfast.study.executors import make_executor
from holdfast.study.load import describe, load_setting
from holdfast.study.plan import Cell, SettingInfo, plan
from holdfast.study.spec import SpecError, StudySpec, parse_spec
from holdfast.study.store import Outcome, Store
from holdfast.study.summary import summarise

__all__ = ["Finished", "Progress", "open_study", "run_study", "versions"]

STORE = "cells.sqlite"


@dataclass(frozen=True)
class Progress:
    """What a watcher is told: before the first cell (``cell`` is ``None``) and after each."""

    done: int
    total: int
    cell: Cell | None = None
    outcome: Outcome | None = None


@dataclass(frozen=True)
class Finished:
    """A study that ran: its summary and where its files are."""

    summary: dict[str, Any]
    folder: Path
    report: Path
    models: dict[str, Path]


def versions() -> dict[str, str]:
    """Return the versions that results may depend on."""
    found = {"python": platform.python_version(), "machine": platform.machine()}
    for name in ("holdfast", "torch", "numpy", "scikit-learn", "pandas"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def run_study(
    spec: StudySpec,
    folder: str | Path,
    *,
    data: Mapping[str, Environments] | None = None,
    watch: Callable[[Progress], None] | None = None,
    ship: bool = True,
) -> Finished:
    """Run a study, or go on with one that was interrupted; finished cells are never run twice.

    Args:
        spec: what to run.
        folder: where the store (unless ``spec.store`` names another), the report, the summary and the model go.
        data: samples by setting, instead of reading what the specification names.
        watch: called before the first cell and after every one.
        ship: refit the chosen method on all environments and save it.

    Raises:
        SpecError: when data and specification do not fit, before any cell runs.

    Examples:
        >>> from holdfast.study import parse_spec
        >>> spec = parse_spec({"data": {"named": "sklearn-digits"}, "methods": ["erm"], "seeds": 1})
        >>> finished = run_study(spec, "runs/digits")  # doctest: +SKIP
        >>> finished.summary["settings"][0]["verdict"]["sentence"]  # doctest: +SKIP
    """
    from holdfast.study.report import write_report
    from holdfast.study.ship import ship_model

    folder = Path(folder)
    samples = dict(data) if data is not None else {s.name: load_setting(s) for s in spec.settings}
    for setting in spec.settings:
        if setting.name not in samples:
            raise SpecError(f"data: no samples were given for the setting {setting.name!r}")
    infos = [describe(s, samples[s.name]) for s in spec.settings]
    cells = plan(spec, infos)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "study.yaml").write_text(yaml.safe_dump(spec.to_dict(), sort_keys=False, allow_unicode=True))
    executor = make_executor(spec.executor, folder / "scratch")
    store = Store(spec.store or folder / STORE)
    try:
        store.put_study(spec.name, spec.to_dict(), infos, versions())
        _run_missing(store, executor, cells, samples, watch)
        outcomes = store.get(cells)
    finally:
        store.close()
        if (folder / "scratch").is_dir() and not any((folder / "scratch").iterdir()):
            (folder / "scratch").rmdir()
    summary = summarise(spec, infos, cells, outcomes, versions=versions())
    models = {}
    if ship:
        for setting in summary["settings"]:
            where = folder / "model" if len(infos) == 1 else folder / "model" / setting["name"]
            shipped, setting["not_shipped"] = ship_model(
                spec, setting, samples[setting["name"]], where, versions=versions()
            )
            if shipped is not None:
                models[setting["name"]] = shipped
                setting["model"] = str(shipped.relative_to(folder))
    (folder / "summary.json").write_text(json.dumps(summary, indent=1))
    return Finished(summary, folder, write_report(summary, folder / "report.html"), models)


def _run_missing(
    store: Store, executor: Any, cells: list[Cell], samples: Mapping[str, Environments], watch: Any
) -> None:
    unique = list({c.key: c for c in cells}.values())
    stored = {key for key, outcome in store.get(unique).items() if outcome.status == "done"}
    missing = [c for c in unique if c.key not in stored]
    done = len(unique) - len(missing)
    if watch is not None:
        watch(Progress(done, len(unique)))
    if not missing:
        return
    for cell, outcome in executor.run(missing, samples):
        store.put(cell, outcome)
        done += 1
        if watch is not None:
            watch(Progress(done, len(unique), cell, outcome))


def open_study(where: str | Path, name: str | None = None) -> tuple[dict[str, Any], Path]:
    """Return the summary of a stored study, finished or not, without its data; and its folder.

    Args:
        where: the study's folder, or the URL of its store.
        name: which study, where the store holds several.

    Raises:
        SpecError: when there is no study.
    """
    text = str(where)
    folder = Path(where) if "://" not in text else Path(".")
    url = None
    if "://" not in text:
        if not folder.is_dir():
            raise SpecError(f"there is no study folder at {folder}")
        if (folder / "study.yaml").is_file():
            fields = yaml.safe_load((folder / "study.yaml").read_text())
            url, name = fields.get("store"), name or fields["name"]
        if url is None and not (folder / STORE).is_file():
            raise SpecError(f"{folder} holds no study: neither study.yaml nor {STORE} is in it")
    store = Store(url or (text if "://" in text else folder / STORE))
    try:
        study = store.get_study(name)
        infos: list[SettingInfo] = study["settings"]
        spec = parse_spec(study["spec"], stored=True)
        cells = plan(spec, infos)
        outcomes = store.get(cells)
    except LookupError as error:
        raise SpecError(str(error)) from None
    finally:
        store.close()
    summary = summarise(spec, infos, cells, outcomes, versions=study["versions"])
    for setting in summary["settings"]:
        model = folder / "model" if len(infos) == 1 else folder / "model" / setting["name"]
        if (model / "study.json").is_file():
            setting["model"] = str(model.relative_to(folder))
    return summary, folder
