"""Predictions with a distrust score, streamed: memory holds one chunk, whatever the size of the data."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pandas as pd
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from holdfast.study.bundle import Bundle
from holdfast.study.sources import chunks

__all__ = ["PredictionSummary", "predict_stream"]


@dataclass(frozen=True)
class PredictionSummary:
    """What was predicted: rows, seconds, share of distrusted rows, and counts by class and by nearest environment."""

    rows: int
    seconds: float
    distrusted: float | None
    classes: dict[str, int]
    nearest: dict[str, int]
    out: str


def predict_stream(
    bundle: Bundle,
    data: str | Path,
    out: str | Path,
    *,
    rows: int | None = None,
    keep: Sequence[str] = (),
    missing: Sequence[str] = (),
    threshold: float = 0.95,
    watch: Callable[[int], None] | None = None,
) -> PredictionSummary:
    """Predict every sample of ``data`` and write one row for each to ``out``.

    Columns: what names the sample (row number or file, and ``keep``), ``prediction``, ``p_CLASS`` for every class,
    ``distrust`` in [0, 1], ``p_value`` (as a sample of the training environments), ``p_value_new`` (as one of a new
    environment like them), ``nearest_environment``. The file appears under its name when it is complete.

    Args:
        bundle: a shipped model.
        data: see :func:`holdfast.study.sources.chunks`.
        out: ``.csv`` or ``.parquet``; ``-`` writes CSV to the standard output.
        rows: samples in a chunk.
        keep: columns of a table to hand through.
        missing: further texts of a table that stand for a missing value.
        threshold: distrust from which a row counts as distrusted in the summary.
        watch: called with the number of rows done.

    Raises:
        DataError: for data the model cannot read, with the column or the file.
        ValueError: for an ``out`` of another type.
    """
    target = Path(out)
    to_screen = str(out) == "-"
    if not to_screen and target.suffix not in (".csv", ".parquet"):
        raise ValueError(f"out must end in .csv or .parquet, or be -, got {out}")
    start, done, distrusted = time.perf_counter(), 0, 0
    classes: dict[str, int] = {}
    nearest: dict[str, int] = {}
    part = target.with_name(target.name + ".part")
    sink: Any = None
    try:
        for chunk in chunks(bundle.info, data, rows=rows, keep=keep, missing=missing):
            frame = pd.concat([chunk.names, bundle.predict(chunk.x)], axis=1)
            table = pa.Table.from_pandas(frame, preserve_index=False)
            if sink is None:
                if not to_screen:
                    target.parent.mkdir(parents=True, exist_ok=True)
                sink = _open(sys.stdout.buffer if to_screen else part, table.schema, target.suffix)
            sink.write_table(table)
            done += len(frame)
            _count(classes, frame, "prediction")
            if "distrust" in frame:
                distrusted += int((frame["distrust"].to_numpy() >= threshold).sum())
                _count(nearest, frame, "nearest_environment")
            if watch is not None:
                watch(done)
        if sink is None:
            raise ValueError(f"{data} holds no samples")
        sink.close()
        if not to_screen:
            part.replace(target)
    finally:
        if not to_screen:
            part.unlink(missing_ok=True)
    share = distrusted / done if bundle.trust is not None else None
    return PredictionSummary(done, time.perf_counter() - start, share, classes, nearest, str(out))


def _open(where: Any, schema: pa.Schema, suffix: str) -> Any:
    return pq.ParquetWriter(where, schema) if suffix == ".parquet" else pa_csv.CSVWriter(where, schema)


def _count(counts: dict[str, int], frame: pd.DataFrame, column: str) -> None:
    values = cast("pd.Series", frame[column])
    for name, n in values.value_counts().items():
        counts[str(name)] = counts.get(str(name), 0) + int(n)
