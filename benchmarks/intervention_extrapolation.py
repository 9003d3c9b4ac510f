"""Effect of an action through a state that is seen: ``holdfast.causal`` against two-stage least squares of
``linearmodels``, in one run.

Both sides get the same arrays and return the slope of the outcome on the confounded state; ``difference`` is the
largest gap between their coefficients. ``control function`` is the same value by our general regressor with straight
lines, which also has the region of the codes for its diagnostics. The peer has standard errors and tests, which ours
has not, and its ``fit`` prepares them. Last, what lines cannot do: the error of the expected outcome outside the tried
actions, where the outcome bends, by splines.

The peer runs in an interpreter of its own (``--peer-python``), which times itself with the same clock.

    python benchmarks/intervention_extrapolation.py [--peer-python python] [--repetitions 9] [--json]
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from holdfast.causal import ControlFunctionRegressor, two_stage_least_squares
from holdfast.data.worlds import simulate_linear_action_scm

SETTINGS = ((3000, 1), (30_000, 1), (30_000, 5))

PEER = """
import json, statistics, sys, time
import numpy as np
from linearmodels.iv import IV2SLS
data, repetitions = np.load(sys.argv[1]), int(sys.argv[2])
Z, A, Y = data["Z"], data["A"], data["Y"]
constant = np.ones((len(Y), 1))
fit = lambda: np.asarray(IV2SLS(Y, constant, Z, A).fit().params)
found, seconds = fit(), []
for _ in range(repetitions):
    begin = time.process_time()
    fit()
    seconds.append(time.process_time() - begin)
print(json.dumps({"coefficients": found.tolist(), "seconds": statistics.median(seconds)}))
"""


def timed(fit: Callable[[], Any], repetitions: int) -> tuple[Any, float]:
    """Return the result and the median processor time."""
    found, seconds = fit(), []
    for _ in range(repetitions):
        begin = time.process_time()
        fit()
        seconds.append(time.process_time() - begin)
    return found, statistics.median(seconds)


def peer(python: str, world: Any, repetitions: int) -> dict[str, Any]:
    """Return the peer's coefficients (intercept first) and its median processor time."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "world.npz"
        np.savez(path, Z=world.Z, A=world.A, Y=world.Y)
        command = [python, "-c", PEER, str(path), str(repetitions)]
        return json.loads(subprocess.run(command, capture_output=True, check=True, text=True).stdout)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="two-stage least squares against linearmodels")
    parser.add_argument("--peer-python", default=sys.executable, help="interpreter that has the package linearmodels")
    parser.add_argument("--repetitions", type=int, default=9)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for n, d in SETTINGS:
        mixing = "exponential" if d == 1 else "perceptron"
        world = simulate_linear_action_scm(n, d, m=d + 5, mixing=mixing, seed=100)
        theirs = peer(options.peer_python, world, options.repetitions)
        ours, seconds = timed(lambda w=world: two_stage_least_squares(w.Z, w.A, w.Y), options.repetitions)
        general, general_seconds = timed(
            lambda w=world: ControlFunctionRegressor("linear", "linear").fit(w.Z, w.A, w.Y), options.repetitions
        )
        grid = np.eye(d) * 2
        rows.append(
            {
                "n": n,
                "d": d,
                "difference": float(np.abs(np.r_[ours.intercept, ours.slope] - theirs["coefficients"]).max()),
                "difference_of_curves": float(np.abs(general.predict_do(grid) - ours.predict_do(grid).numpy()).max()),
                "milliseconds": seconds * 1e3,
                "control_function_milliseconds": general_seconds * 1e3,
                "peer_milliseconds": theirs["seconds"] * 1e3,
                "ratio": seconds / theirs["seconds"],
            }
        )
    world = simulate_linear_action_scm(3000, seed=100)
    new = np.linspace(1.7, 3, 12)
    new = np.concatenate([-new[::-1], new])
    truth = world.expected(new[:, None])
    line = two_stage_least_squares(world.Z, world.A, world.Y).predict_do(new).numpy()
    bent = ControlFunctionRegressor("spline", "spline").fit(world.Z, world.A, world.Y).predict_do(new)
    error = {k: float(np.sqrt(np.mean((v - truth) ** 2))) for k, v in (("2sls", line), ("splines", bent))}
    if options.json:
        print(json.dumps({"settings": vars(options), "results": rows, "error_outside": error}))
        return
    print(f"{options.repetitions} repetitions, one thread, processor time in ms")
    print(
        f"{'rows':>7} {'d':>3} {'ours':>8} {'control f.':>10} {'linearmodels':>12} {'ours/peer':>9} {'difference':>11}"
    )
    for r in rows:
        print(
            f"{r['n']:7d} {r['d']:3d} {r['milliseconds']:8.2f} {r['control_function_milliseconds']:10.2f} "
            f"{r['peer_milliseconds']:12.2f} {r['ratio']:9.3f} {r['difference']:11.1e}"
        )
    print(
        f"error of the mean outcome outside the tried actions: 2SLS {error['2sls']:.2f}, splines {error['splines']:.2f}"
    )


if __name__ == "__main__":
    main()
