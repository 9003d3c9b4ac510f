"""A thousand posteriors of a variance: one pass of a trained network against variational fits and NUTS of Pyro.

Problems have an inverse-gamma prior of their own, whose two parameters are Gamma(1, 1) draws, and one centred Gaussian
observation of unknown variance; the exact posterior is inverse-gamma. The network (K = 5) is trained once, on simulated
problems; its training is reported and not counted, as it is paid once for all priors. Pyro fits every problem on its
own, one after the other, as a new prior makes a new problem for it: ``SVI`` with a log-normal guide (200 to 2,000
steps of Adam), and NUTS. Only ``--peer-problems`` of them are run by Pyro, since their times do not depend on each
other; its seconds for all are the mean times the number of problems, and so marked. On exactly these problems all are
compared by the KL divergence of the exact posterior from what was found and by the log-density of the true state
(NUTS through a kernel estimate in the logarithm). SVI gets as many steps as its best row needs; a ratio counts only
where the network's log-density is at least the peer's, less ``--tolerance`` nats.

    python benchmarks/distribution_transformer.py [--problems 1000] [--peer-problems 20] [--steps 2000] [--json]

needs the package ``pyro-ppl``; without it our own rows are printed.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import time
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor
from torch.distributions import InverseGamma

from holdfast.core.random import generator, spawn_seed
from holdfast.distribution.transformer import AmortizedPosterior, InferenceProblem, InverseGammaMetaPrior
from holdfast.distribution.transformer.observations import VarianceObservation


def scores(exact: InverseGamma, log_prob: Any, x: Tensor, n: int = 4000) -> tuple[float, float]:
    """Return the mean KL(exact || found) and the mean log-density of the true states."""
    draws = exact.sample(torch.Size([n])).clamp(1e-6, 1e6)
    kl = (exact.log_prob(draws)[..., 0] - log_prob(draws)).mean(0)
    return float(kl.mean()), float(log_prob(x).mean())


def svi(a: Tensor, b: Tensor, z: Tensor, steps: int, seed: int) -> Any:
    """Fit a log-normal guide to one problem, from the scale of prior and data on, and return its log-density."""
    import pyro
    from pyro import distributions as dist
    from pyro.infer import SVI, Trace_ELBO

    pyro.clear_param_store()
    pyro.set_rng_seed(seed)

    def model() -> None:
        v = pyro.sample("v", dist.InverseGamma(a, b))
        pyro.sample("z", dist.Normal(0.0, v.sqrt()), obs=z)

    def guide() -> None:
        # The variance may be of any size, and steps are of 0.03: from 0 on, most fits would not arrive.
        loc = pyro.param("loc", (b + z.square() / 2).log())
        scale = pyro.param("scale", torch.ones(()), constraint=torch.distributions.constraints.positive)
        pyro.sample("v", dist.LogNormal(loc, scale))

    fit = SVI(model, guide, pyro.optim.Adam({"lr": 0.03}), Trace_ELBO())
    for _ in range(steps):
        fit.step()
    found = torch.distributions.LogNormal(pyro.param("loc").detach(), pyro.param("scale").detach())
    return found.log_prob


def nuts(a: Tensor, b: Tensor, z: Tensor, draws: int, seed: int) -> Any:
    """Run one chain and return the log-density of a kernel estimate in the logarithm (Silverman's bandwidth)."""
    import pyro
    from pyro import distributions as dist
    from pyro.infer import MCMC, NUTS

    pyro.set_rng_seed(seed)

    def model() -> None:
        v = pyro.sample("v", dist.InverseGamma(a, b))
        pyro.sample("z", dist.Normal(0.0, v.sqrt()), obs=z)

    chain = MCMC(NUTS(model), num_samples=draws, warmup_steps=draws // 2, disable_progbar=True)
    chain.run()
    u = chain.get_samples()["v"].log()
    width = 1.06 * u.std() * len(u) ** -0.2

    def log_prob(x: Tensor) -> Tensor:
        gap = (x.log()[..., None] - u) / width
        each = -0.5 * gap.square() - 0.5 * math.log(2 * math.pi) - width.log() - math.log(len(u))
        return torch.logsumexp(each, -1) - x.log()

    return log_prob


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--problems", type=int, default=1000)
    parser.add_argument("--peer-problems", type=int, default=20, help="how many of them Pyro is run on")
    parser.add_argument("--steps", type=int, default=2000, help="of training")
    parser.add_argument("--svi-steps", type=int, nargs="+", default=[200, 1000, 2000])
    parser.add_argument("--nuts-draws", type=int, default=500)
    parser.add_argument("--repetitions", type=int, default=5, help="of our pass; the median is reported")
    parser.add_argument("--tolerance", type=float, default=0.02, help="nats of log-density that count as equal")
    parser.add_argument("--seed", type=int, default=100)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    options = parser.parse_args()

    problem = InferenceProblem(InverseGammaMetaPrior(), {"z": VarianceObservation()})
    begin = time.perf_counter()
    ours = AmortizedPosterior(
        problem, 5, "positive", steps=options.steps, device=options.device, random_state=options.seed
    ).fit()
    training = time.perf_counter() - begin
    phi, x, obs, _ = problem.sample(options.problems, generator(spawn_seed(options.seed, "problems")))
    z = obs["z"][:, 0]
    seconds = []
    for _ in range(options.repetitions + 1):
        begin = time.perf_counter()
        found = ours.model_.posterior(ours._moved(phi), ours._moved(obs))
        found.sample(1).cpu()  # waits for the device
        seconds.append(time.perf_counter() - begin)
    ours_seconds = float(torch.tensor(seconds[1:]).median())
    device = next(ours.model_.parameters()).device

    def ours_log_prob(rows: int) -> Any:
        part = ours.model_.posterior(ours._moved(phi[:rows]), ours._moved({"z": obs["z"][:rows]}))
        return lambda v: part.log_prob(v.to(device)).cpu()

    def exact(rows: int) -> InverseGamma:
        return InverseGamma(phi[:rows, :1] + 0.5, phi[:rows, 1:] + z[:rows].square() / 2)

    rows: list[dict[str, Any]] = []
    for n in sorted({options.peer_problems, options.problems}):
        kl, density = scores(exact(n), ours_log_prob(n), x[:n])
        rows.append({"method": "ours", "scored_on": n, "seconds": ours_seconds, "kl": kl, "log_density": density})
    reference = rows[0]
    if find_spec("pyro") is not None:
        peers: list[tuple[str, Any, int]] = [(f"pyro SVI {s}", svi, s) for s in options.svi_steps]
        peers.append((f"pyro NUTS {options.nuts_draws}", nuts, options.nuts_draws))
        n = options.peer_problems
        for name, run, effort in peers:
            begin = time.perf_counter()
            laws = [run(phi[i, 0], phi[i, 1], z[i, 0], effort, spawn_seed(options.seed, i)) for i in range(n)]
            taken = (time.perf_counter() - begin) / n * options.problems
            together = lambda v, laws=laws: torch.stack([law(v[..., i, 0]) for i, law in enumerate(laws)], -1)  # noqa: E731
            kl, density = scores(exact(n), together, x[:n])
            better = reference["log_density"] >= density - options.tolerance
            rows.append(
                {
                    "method": name,
                    "scored_on": n,
                    "seconds": taken,
                    "kl": kl,
                    "log_density": density,
                    "ratio": taken / ours_seconds,
                    "ours_at_least_as_good": better,
                }
            )
    if options.json:
        about = {"torch": torch.__version__, "python": platform.python_version(), "device": str(device)}
        print(json.dumps({"settings": about | vars(options), "training_seconds": training, "results": rows}))
        return
    print(f"{options.problems} problems on {device}; ours was trained once for {training:.0f} s, not counted")
    print(f"{'method':16s} {'scored on':>9s} {'seconds':>10s} {'KL':>8s} {'log-density':>12s} {'ratio':>9s}  as good")
    for r in rows:
        ratio = f"{r['ratio']:9.0f}  {'yes' if r['ours_at_least_as_good'] else 'no'}" if "ratio" in r else ""
        numbers = f"{r['seconds']:10.4f} {r['kl']:8.4f} {r['log_density']:12.3f}"
        print(f"{r['method']:16s} {r['scored_on']:9d} {numbers} {ratio}")
    print("seconds of Pyro are the mean of those that were run times the number of problems")


if __name__ == "__main__":
    main()
