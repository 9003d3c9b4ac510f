"""Streaming prediction of a table larger than the memory it may use: peak memory and rows per second.

Writes a CSV of about ``--gigabytes``, trains and ships a model on its first rows, runs ``holdfast predict`` on the
whole in a process of its own, and reports that process's peak resident memory.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv as pa_csv

from holdfast.study import parse_spec, run_study

NUMERIC, ROWS = 20, 200_000


def block(seed: int) -> pd.DataFrame:
    """Rows with numbers, a category, some missing values, a site and a label."""
    rng = np.random.default_rng(seed)
    site = rng.integers(0, 4, ROWS)
    label = rng.integers(0, 2, ROWS)
    x = np.round(rng.normal(size=(ROWS, NUMERIC)) + 0.4 * label[:, None] + 0.3 * site[:, None], 5)
    x[rng.random(ROWS) < 0.02, 0] = np.nan
    frame = pd.DataFrame(x, columns=[f"x{i}" for i in range(NUMERIC)])
    frame["ward"] = np.array(["east", "west", "north"])[rng.integers(0, 3, ROWS)]
    frame["site"] = np.array(["A", "B", "C", "D"])[site]
    frame["label"] = label
    return frame


def write_table(path: Path, size: int) -> int:
    """Write blocks until the file has ``size`` bytes; return its rows. The same few blocks are used in turn."""
    blocks = [pa.Table.from_pandas(block(seed), preserve_index=False) for seed in range(4)]
    with path.open("wb") as file, pa_csv.CSVWriter(file, blocks[0].schema) as writer:
        n = 0
        while file.tell() < size:
            writer.write_table(blocks[n % len(blocks)])
            n += 1
    return n * ROWS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gigabytes", type=float, default=1.0)
    parser.add_argument("--folder", type=Path, help="where the table is written; a temporary folder by default")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as scratch:
        folder = Path(scratch)
        few = folder / "few.csv"
        block(100).head(4000).to_csv(few, index=False)
        data = {"path": str(few), "label": "label", "environment": "site"}
        fields = {"data": data, "methods": ["erm"], "seeds": 1, "steps": 100, "executor": {"workers": 0}}
        run_study(parse_spec(fields), folder / "run")
        rows = write_table(folder / "table.csv", int(args.gigabytes * 1e9))
        command = [sys.executable, "-c", "from holdfast.cli import main; main()", "predict", str(folder / "run")]
        command += [str(folder / "table.csv"), "--out", str(folder / "predictions.csv"), "--json"]
        start = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, env=os.environ, check=False)
        seconds = time.perf_counter() - start
        if done.returncode:
            raise SystemExit(done.stderr)
        predicted = json.loads(done.stdout)
        # Of all children, the largest: no other process of this script is as large as the prediction.
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
        result = {
            "table_bytes": (folder / "table.csv").stat().st_size,
            "rows": rows,
            "predicted_rows": predicted["rows"],
            "peak_bytes": peak,
            "target_bytes": 10**9,
            "seconds": seconds,
            "rows_per_second": rows / predicted["seconds"],
            "predictions_bytes": (folder / "predictions.csv").stat().st_size,
        }
    if args.json:
        print(json.dumps(result))
        return
    print(f"table {result['table_bytes'] / 1e9:.2f} GB, {rows:,} rows; predicted {result['predicted_rows']:,}")
    print(f"peak memory {peak / 1e6:.0f} MB, target <= 1000 MB")
    print(f"{seconds:.1f} s in all, {result['rows_per_second']:,.0f} rows/s")


if __name__ == "__main__":
    main()
