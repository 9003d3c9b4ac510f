"""Tables of attributes as they are given: named columns, missing entries, single requests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from holdfast.data.errors import suggest

__all__ = ["AttributeTable", "read_attributes"]


class AttributeTable(NamedTuple):
    """Attributes by row; entries that are not known hold 0.

    Attributes:
        values, known: (n, attributes).
        names: of the columns.
    """

    values: Float[Tensor, "n attributes"]
    known: Bool[Tensor, "n attributes"]
    names: tuple[str, ...]


def read_attributes(c: Any, names: Sequence[str] | None = None) -> AttributeTable:
    """Read attributes from a data frame, an array, or one request as a mapping; NaN and absent columns are missing.

    Args:
        c: one row for every point; columns of a data frame are found by name.
        names: of the columns that are expected; without them, those of the table are taken.

    Raises:
        ValueError: for an unknown name, text, infinity, or another number of columns.

    Examples:
        >>> read_attributes({"hat": 1}, ["glasses", "hat"]).known
        tensor([[False,  True]])
    """
    if isinstance(c, Mapping):
        c = pd.DataFrame([dict(c)])
    if isinstance(c, pd.DataFrame):
        columns = [str(k) for k in c.columns]
        own = columns if names is None else list(names)
        for name in columns:
            if name not in own:
                raise ValueError(f"there is no attribute {name!r}{suggest(name, own)}")
        text = [k for k in c.columns if not pd.api.types.is_numeric_dtype(c[k]) and bool(c[k].notna().to_numpy().any())]
        if text:
            raise ValueError(
                f"attribute {str(text[0])!r} holds no numbers; make 0/1 columns of it (pandas.get_dummies)"
            )
        table = c.set_axis(columns, axis=1).reindex(columns=own).to_numpy(dtype=np.float32, na_value=np.nan)
    else:
        table = np.asarray(c, dtype=np.float32)
        if table.ndim == 1 and names is None:
            table = table[:, None]
        if table.ndim != 2:
            raise ValueError(f"attributes must be a table (n, attributes), got shape {table.shape}")
        own = [f"attribute {k}" for k in range(table.shape[1])] if names is None else list(names)
        if table.shape[1] != len(own):
            raise ValueError(f"attributes must have {len(own)} columns ({', '.join(own)}), got {table.shape[1]}")
    if np.isinf(table).any():
        raise ValueError("attributes must be finite or missing (NaN), got infinity")
    known = ~np.isnan(table)
    return AttributeTable(torch.from_numpy(np.where(known, table, 0.0)), torch.from_numpy(known), tuple(own))
