"""Where finished cells are kept: one row a cell, committed at once, in any database SQLAlchemy speaks to."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from sqlalchemy import (
    Column,
    DateTime,
    Float,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    create_engine,
    delete,
    event,
    insert,
    select,
)
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from holdfast.study.plan import Cell, SettingInfo
from holdfast.study.spec import SpecError

__all__ = ["Outcome", "Store", "pack_bits", "unpack_bits"]

_META = MetaData()
_STUDIES = Table(
    "holdfast_study",
    _META,
    Column("name", String(200), primary_key=True),
    Column("spec", Text, nullable=False),
    Column("settings", Text, nullable=False),
    Column("versions", Text, nullable=False),
    Column("started", DateTime(timezone=True), nullable=False),
    Column("final", Text),
)
_CELLS = Table(
    "holdfast_cell",
    _META,
    Column("key", String(32), primary_key=True),
    Column("setting", String(200), nullable=False),
    Column("method", String(200), nullable=False),
    Column("params", Text, nullable=False),
    Column("held_out", Text, nullable=False),
    Column("seed", String(20), nullable=False),
    Column("trial", String(20), nullable=False),
    Column("status", String(10), nullable=False),
    Column("message", Text, nullable=False),
    Column("result", Text, nullable=False),
    Column("correct", LargeBinary, nullable=False),
    Column("seconds", Float, nullable=False),
    Column("finished", DateTime(timezone=True), nullable=False),
)


@dataclass(frozen=True)
class Outcome:
    """What came of a cell: ``status`` is ``"done"`` or ``"failed"``.

    Attributes:
        result: JSON-ready measurements, see :mod:`holdfast.study.measure`.
        correct: per held-out environment, whether each of its samples was predicted correctly.
        seconds: wall time of the whole cell.
    """

    status: str
    message: str
    result: dict[str, Any]
    correct: dict[str, np.ndarray]
    seconds: float


def pack_bits(named: dict[str, np.ndarray]) -> bytes:
    """Return named boolean vectors as compressed bits.

    Examples:
        >>> unpack_bits(pack_bits({"A": np.array([True, False, True])}))["A"].tolist()
        [True, False, True]
    """
    head = json.dumps([[name, len(bits)] for name, bits in named.items()]).encode()
    body = b"".join(np.packbits(np.asarray(bits, bool)).tobytes() for bits in named.values())
    return zlib.compress(len(head).to_bytes(4, "little") + head + body, 6)


def unpack_bits(blob: bytes) -> dict[str, np.ndarray]:
    """Undo :func:`pack_bits`."""
    raw = zlib.decompress(blob)
    size = int.from_bytes(raw[:4], "little")
    named, start = {}, 4 + size
    for name, n in json.loads(raw[4 : 4 + size]):
        stop = start + -(-n // 8)
        named[name] = np.unpackbits(np.frombuffer(raw[start:stop], np.uint8), count=n).astype(bool)
        start = stop
    return named


class Store:
    """Studies and finished cells in a database.

    Cells are keyed by what determines their result, so several studies in one database share cells, and a study
    that gained a method, a seed or a trial runs only what is new.

    Raises:
        SpecError: naming the field ``store``, when the address is no SQLAlchemy URL or nothing answers there.
    """

    def __init__(self, url: str | Path) -> None:
        self.url = f"sqlite:///{url}" if isinstance(url, Path) else url
        try:
            self._engine = create_engine(self.url)
            if self._engine.dialect.name == "sqlite":
                event.listen(self._engine, "connect", _patient)
            _META.create_all(self._engine)
        except (ArgumentError, ImportError, SQLAlchemyError) as error:
            reason = str(error).splitlines()[0]
            raise SpecError(f"store: cannot open {self.url!r}: {reason}") from None

    def close(self) -> None:
        """Let go of every connection."""
        self._engine.dispose()

    # Studies

    def put_study(self, name: str, spec: dict, settings: Iterable[SettingInfo], versions: dict[str, str]) -> None:
        """Write (or replace) the record of a study."""
        row = {
            "name": name,
            "spec": json.dumps(spec),
            "settings": json.dumps([asdict(s) for s in settings]),
            "versions": json.dumps(versions),
            "started": datetime.now(UTC),
        }
        with self._engine.begin() as connection:
            connection.execute(delete(_STUDIES).where(_STUDIES.c.name == name))
            connection.execute(insert(_STUDIES).values(row))

    def get_study(self, name: str | None = None) -> dict[str, Any]:
        """Return the record of a study (of the only one, without a name).

        Raises:
            LookupError: when there is none, or several and no name was given.
        """
        query = select(_STUDIES).order_by(_STUDIES.c.started.desc())
        with self._engine.connect() as connection:
            rows = connection.execute(query if name is None else query.where(_STUDIES.c.name == name)).all()
        if not rows:
            raise LookupError(f"{self.url} holds no study" + (f" named {name!r}" if name else ""))
        if len(rows) > 1:
            raise LookupError(f"{self.url} holds several studies: {', '.join(r.name for r in rows)}; name one")
        row = rows[0]
        return {
            "name": row.name,
            "spec": json.loads(row.spec),
            "settings": [SettingInfo(**s) for s in json.loads(row.settings)],
            "versions": json.loads(row.versions),
            "started": row.started,
        }

    # Cells

    def put(self, cell: Cell, outcome: Outcome) -> None:
        """Commit what came of a cell, replacing an earlier failure."""
        row = {
            "key": cell.key,
            "setting": cell.setting,
            "method": cell.method,
            "params": json.dumps(cell.params, default=repr),
            "held_out": json.dumps(cell.held_out),
            "seed": str(cell.seed),
            "trial": str(cell.trial),
            "status": outcome.status,
            "message": outcome.message,
            "result": json.dumps(outcome.result),
            "correct": pack_bits(outcome.correct),
            "seconds": outcome.seconds,
            "finished": datetime.now(UTC),
        }
        with self._engine.begin() as connection:
            connection.execute(delete(_CELLS).where(_CELLS.c.key == cell.key))
            connection.execute(insert(_CELLS).values(row))

    def get(self, cells: Iterable[Cell]) -> dict[str, Outcome]:
        """Return the outcomes there are for ``cells``, by key."""
        keys = list(dict.fromkeys(cell.key for cell in cells))
        found: dict[str, Outcome] = {}
        with self._engine.connect() as connection:
            for start in range(0, len(keys), 500):
                part = keys[start : start + 500]
                for row in connection.execute(select(_CELLS).where(_CELLS.c.key.in_(part))):
                    found[row.key] = Outcome(
                        row.status, row.message, json.loads(row.result), unpack_bits(row.correct), row.seconds
                    )
        return found


def _patient(connection: Any, _: Any) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA busy_timeout = 30000")
    cursor.close()
