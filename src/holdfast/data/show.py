"""How data looks in a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from rich.table import Table

    from holdfast.data.environments import Environments

__all__ = ["environments_table"]

_MOST_CLASSES = 10
_MOST_ROWS = 40


def environments_table(data: Environments) -> Table:
    """Return a rich table: one row for each environment, counts of the classes or spread of the targets.

    Examples:
        >>> from holdfast.data import Environments
        >>> environments_table(Environments.from_arrays([[0.0], [1.0]], [0, 1])).row_count
        1
    """
    from rich.table import Table

    counts = data.describe()
    table = Table(title=f"{data.kind}, {len(data):,} samples, {data.task}", title_justify="left", title_style="bold")
    table.add_column("environment", style="cyan")
    table.add_column("samples", justify="right")
    samples = counts.pop("samples")
    if data.task == "classification" and counts.shape[1] > _MOST_CLASSES:
        values = counts.to_numpy()
        counts = counts.iloc[:, :0].assign(
            classes=(values > 0).sum(1),
            **{"smallest class": np.where(values > 0, values, values.max() + 1).min(1)},
            **{"largest class": values.max(1)},
        )
    for column in counts.columns:
        table.add_column(str(column), justify="right")
    for name, n, row in list(zip(counts.index, samples, counts.to_numpy()))[:_MOST_ROWS]:
        shown = [f"{v:,.0f}" if float(v).is_integer() else f"{v:.4g}" for v in row.tolist()]
        table.add_row(str(name), f"{n:,.0f}", *shown)
    if len(counts) > _MOST_ROWS:
        table.caption = f"{len(counts) - _MOST_ROWS} more environments"
    return table
