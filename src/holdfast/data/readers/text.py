"""Tables with a column of texts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from holdfast.data.environments import Environments
from holdfast.data.errors import DataError
from holdfast.data.labels import Task
from holdfast.data.readers.columns import (
    at,
    attribute_values,
    decoded,
    environment_codes,
    first_null,
    label_values,
    warn_absent,
)
from holdfast.data.readers.frames import MISSING, check_columns, column_names, needed_columns, read_arrow

__all__ = ["read_text"]


def read_text(
    path: str | Path,
    *,
    text: str = "text",
    label: str,
    environment: str | None = None,
    attributes: Sequence[str] = (),
    task: Task | None = None,
    missing: Iterable[str] = (),
    encoding: str = "utf-8",
) -> Environments:
    """Read a CSV, TSV, Parquet, JSON or JSON-lines table with a column of texts as ``x``, a list of ``str``.

    Args:
        path: the file.
        text: column of the texts; quoted texts may hold line breaks.
        label, environment, attributes, task, missing, encoding: as in :func:`holdfast.data.read_table`.

    Raises:
        DataError: as :func:`holdfast.data.read_table`, and for a row without text.

    Examples:
        >>> import tempfile
        >>> p = Path(tempfile.mkdtemp()) / "posts.jsonl"
        >>> posts = [("hi", 0, "A"), ("no", 1, "A"), ("hey", 0, "B"), ("go", 1, "B")]
        >>> rows = ['{"text": "%s", "y": %d, "site": "%s"}' % post for post in posts]
        >>> _ = p.write_text("\\n".join(rows))
        >>> read_text(p, label="y", environment="site", task="classification").x[:2]
        ['hi', 'no']
    """
    if isinstance(attributes, str):
        raise DataError(f"attributes must be a list of column names, got the text {attributes!r}")
    names, source = column_names(path, encoding), Path(path).name
    check_columns(source, names, text=text, label=label, environment=environment, attributes=attributes)
    needed = needed_columns([text, *attributes], label, environment)
    table = read_arrow(path, needed, text=[text], missing=[*MISSING, *missing], encoding=encoding)
    texts = decoded(table[text])
    row, count = first_null(texts)
    if count:
        raise DataError(
            f"{at(source, text, row)}: the text is missing ({count} of {len(texts)} are); fill it in or drop the row"
        )
    if len(texts.unique()) == 1 and len(texts) > 1:
        raise DataError(f"{at(source, text)}: every row holds the same text; is it the right column?")
    y = label_values(table[label], source, label, task)
    codes, places = (None, None) if environment is None else environment_codes(table[environment], source, environment)
    kept = {a: attribute_values(table[a]) for a in attributes}
    return warn_absent(Environments.from_arrays(texts.to_pylist(), y, codes, kept, names=places, kind="text"), source)
