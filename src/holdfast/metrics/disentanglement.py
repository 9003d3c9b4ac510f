"""Which part of a code holds which factor: variance shares, probes of blocks, DCI and MIG."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from holdfast.core.checks import check_number
from holdfast.metrics._inputs import as_codes, as_float

__all__ = ["DCI", "Band", "band_centroid", "dci", "mig", "modularity", "variance_share"]

Band = slice | Sequence[int]
"""The entries of one block of a code."""


class DCI(NamedTuple):
    """Disentanglement, completeness and informativeness, and the matrix of importances they come from.

    Attributes:
        disentanglement: 1 when every entry of the code tells one factor.
        completeness: 1 when every factor is told by one entry.
        informativeness: mean test accuracy of the factors' predictors.
        importance: (dim, factors), non-negative; columns sum to one.
    """

    disentanglement: float
    completeness: float
    informativeness: float
    importance: Float[Tensor, "dim factors"]


def _code(z: Any) -> Tensor:
    return as_float("z", z, ndim=2).cpu()


def _factors(name: str, factors: Any, n: int) -> list[np.ndarray]:
    table = factors.detach().cpu().numpy() if isinstance(factors, Tensor) else np.asarray(factors)
    table = table[:, None] if table.ndim == 1 else table
    if table.ndim != 2 or len(table) != n or table.shape[1] == 0:
        raise ValueError(f"{name} must hold one row of factors for each of the {n} codes, got shape {table.shape}")
    columns = [as_codes(**{name: column})[0][0].numpy() for column in table.T]
    if constant := [j for j, c in enumerate(columns) if c.max() == 0]:
        raise ValueError(f"factor {constant[0]} has one value only: there is nothing to tell")
    return columns


def _bands(bands: Sequence[Band], dim: int) -> list[Tensor]:
    index = torch.arange(dim)
    found = []
    for i, band in enumerate(bands):
        if not isinstance(band, slice) and any(not 0 <= int(j) < dim for j in band):
            raise ValueError(f"band {i} must name entries in [0, {dim}), got {list(band)}")
        found.append(index[band] if isinstance(band, slice) else index[torch.as_tensor(list(band), dtype=torch.long)])
        if len(found[-1]) == 0:
            raise ValueError(f"band {i} is empty")
    if not found:
        raise ValueError("there must be at least one band")
    return found


def variance_share(z: Any, factors: Any, bands: Sequence[Band]) -> Float[Tensor, "factors bands"]:
    r"""Share of a block's variance that every factor explains on its own.

    .. math:: S_{a, i} = \frac{\sum_{d \in \text{band } i} \mathrm{Var}\bigl(E[z_d \mid a]\bigr)}
                              {\sum_{d \in \text{band } i} \mathrm{Var}(z_d)}

    Unlike a probe it is not fooled by a trace of a factor that training put elsewhere: a probe reads a coarse factor
    from nearly any projection of an image. A block without variance has share 0.

    Args:
        z: (n, d) codes.
        factors: (n, F) discrete factors, labels of any kind; independent draws.
        bands: entries of every block, as slices or lists.

    Raises:
        ValueError: for lengths that differ, a factor of one value, or a band that is empty or outside the code.

    Source: the correlation ratio (Pearson 1905), summed over a block.

    Examples:
        >>> a, b = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 0, 1])
        >>> z = torch.stack([a, a + b], 1).float()
        >>> variance_share(z, torch.stack([a, b], 1), [slice(0, 1), slice(1, 2)])
        tensor([[1.0000, 0.5000],
                [0.0000, 0.5000]], dtype=torch.float64)
    """
    code = _code(z)
    code = code - code.mean(0)
    columns, parts = _factors("factors", factors, len(code)), _bands(bands, code.shape[1])
    total = code.square().mean(0)
    explained = torch.stack([_between(code, torch.from_numpy(c)) for c in columns])
    out = [explained[:, p].sum(1) / total[p].sum().clamp_min(torch.finfo(total.dtype).tiny) for p in parts]
    return torch.stack(out, 1)


def _between(code: Tensor, labels: Tensor) -> Tensor:
    """Variance of the conditional mean of every entry of a centred code."""
    member = torch.nn.functional.one_hot(labels).to(code)
    counts = member.sum(0)
    means = (member.T @ code) / counts[:, None]
    return (counts[:, None] * means.square()).sum(0) / len(code)


def band_centroid(share: Float[Tensor, "factors bands"]) -> Float[Tensor, " factors"]:
    r"""Mean band of every factor, weighted by its shares: :math:`c_a = \sum_i i\,S_{a,i} / \sum_i S_{a,i}`.

    Raises:
        ValueError: for negative shares, or a factor without any.

    Examples:
        >>> band_centroid(torch.tensor([[0.5, 0.5, 0.0], [0.0, 0.0, 1.0]])).tolist()
        [0.5, 2.0]
    """
    if share.ndim != 2:
        raise ValueError(f"share must have shape (factors, bands), got {tuple(share.shape)}")
    total = share.sum(1)
    if bool((share < 0).any()) or bool((total == 0).any()):
        raise ValueError("shares must be non-negative, and every factor needs one above zero")
    return (share * torch.arange(share.shape[1]).to(share)).sum(1) / total


def modularity(
    z: Any,
    factors: Any,
    bands: Sequence[Band],
    *,
    z_test: Any = None,
    factors_test: Any = None,
    penalty: float = 1.0,
) -> Float[Tensor, "factors bands"]:
    """Accuracy of a linear probe of every factor on every block alone.

    Entries are standardised first. Chance is the share of a factor's most frequent value.

    Args:
        z, factors, bands: see :func:`variance_share`; the probes are fitted here.
        z_test, factors_test: where the probes are scored; without them, on every other half by two-fold
            cross-validation.
        penalty: inverse strength of the ridge of scikit-learn's logistic regression.

    Raises:
        ValueError: as :func:`variance_share`, or for a test value that was not seen in training.

    Source: Yue et al., "Exploring Diffusion Time-steps for Unsupervised Representation Learning", ICLR 2024,
    section 6 (linear probes of subsets).

    Examples:
        >>> rng = torch.Generator().manual_seed(0)
        >>> a, b = torch.randint(2, (2, 400), generator=rng)
        >>> z = torch.stack([a, b], 1) + 0.1 * torch.randn(400, 2, generator=rng)
        >>> found = modularity(z, torch.stack([a, b], 1), [slice(0, 1), slice(1, 2)])
        >>> bool(found.diagonal().min() > 0.99), bool(found[0, 1] < 0.65)
        (True, True)
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    code = _code(z)
    parts = _bands(bands, code.shape[1])
    if (z_test is None) != (factors_test is None):
        raise ValueError("give z_test and factors_test together")
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=penalty, max_iter=1000))
    if z_test is None:
        columns = _factors("factors", factors, len(code))
        folds = StratifiedKFold(2, shuffle=True, random_state=0)
        score = [
            [float(np.mean(cross_val_score(probe, code[:, p].numpy(), c, cv=folds))) for p in parts] for c in columns
        ]
        return torch.tensor(score, dtype=torch.float64)
    other = _code(z_test)
    n = len(code)
    both = _factors("factors", np.concatenate([_table(factors), _table(factors_test)]), n + len(other))
    out = torch.zeros(len(both), len(parts), dtype=torch.float64)
    for a, c in enumerate(both):
        if unseen := sorted(set(c[n:].tolist()) - set(c[:n].tolist())):
            raise ValueError(f"factor {a} has {len(unseen)} test values that no training row has")
        for i, p in enumerate(parts):
            fitted = cast("Any", probe).fit(code[:, p].numpy(), c[:n])
            out[a, i] = fitted.score(other[:, p].numpy(), c[n:])
    return out


def _table(factors: Any) -> np.ndarray:
    table = factors.detach().cpu().numpy() if isinstance(factors, Tensor) else np.asarray(factors)
    return table[:, None] if table.ndim == 1 else table


def dci(z: Any, factors: Any, *, test_fraction: float = 0.5, trees: int = 50, random_state: int = 0) -> DCI:
    r"""Disentanglement, completeness and informativeness from the importances of random forests.

    With importances R, rows :math:`P_{d,a} = R_{d,a} / \sum_a R_{d,a}` and columns
    :math:`\tilde P_{d,a} = R_{d,a} / \sum_d R_{d,a}`,

    .. math:: D = \sum_d \rho_d\,(1 - H_F(P_{d\cdot})), \qquad C = \frac1F \sum_a (1 - H_d(\tilde P_{\cdot a})),

    entropies in units of their largest value and :math:`\rho_d` the share of entry d in all importance.

    Args:
        z, factors: see :func:`variance_share`.
        test_fraction: part of the rows on which informativeness is measured.
        trees: of every forest.

    Raises:
        ValueError: as :func:`variance_share`.

    Source: Eastwood and Williams, "A framework for the quantitative evaluation of disentangled representations",
    ICLR 2018.

    Examples:
        >>> rng = torch.Generator().manual_seed(0)
        >>> factors = torch.randint(3, (300, 2), generator=rng)
        >>> result = dci(factors + 0.01 * torch.randn(300, 2, generator=rng), factors)
        >>> result.disentanglement > 0.9, result.completeness > 0.9, result.informativeness > 0.99
        (True, True, True)
    """
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.model_selection import train_test_split

    code = _code(z).numpy()
    check_number("test_fraction", test_fraction, low=0, high=1, open_low=True, open_high=True)
    check_number("trees", trees, low=1, integer=True)
    columns = _factors("factors", factors, len(code))
    importance, accuracy = np.zeros((code.shape[1], len(columns))), []
    for a, c in enumerate(columns):
        x, x_test, y, y_test = train_test_split(code, c, test_size=test_fraction, random_state=random_state)
        # Every split sees the whole code: with a random part of it, entries that tell nothing must be split on too.
        forest = cast("Any", RandomForestClassifier)(trees, max_features=None, random_state=random_state).fit(x, y)
        importance[:, a] = forest.feature_importances_
        accuracy.append(float(forest.score(x_test, y_test)))
    r = torch.from_numpy(importance)
    weight = r.sum(1) / r.sum().clamp_min(1e-12)
    return DCI(
        float((weight * (1 - _entropy(r))).sum()), float((1 - _entropy(r.T)).mean()), float(np.mean(accuracy)), r
    )


def _entropy(r: Tensor) -> Tensor:
    """Entropy of the normalised rows, in units of its largest value; 0 for rows of one entry, 1 for rows of zeros."""
    k = r.shape[1]
    if k == 1:
        return torch.zeros(len(r), dtype=r.dtype)
    total = r.sum(1, keepdim=True)
    p = torch.where(total > 0, r / total.clamp_min(1e-300), torch.full_like(r, 1 / k))
    return torch.special.entr(p).sum(1) / np.log(k)


def mig(z: Any, factors: Any, *, bins: int = 20) -> float:
    r"""Mutual information gap: how far the entry that tells a factor best is ahead of the second best.

    .. math:: \frac1F \sum_a \frac{I(z_{d_1}; a) - I(z_{d_2}; a)}{H(a)}

    Entries are cut into ``bins`` intervals of equal length.

    Raises:
        ValueError: as :func:`variance_share`, or for a code of one entry.

    Source: Chen, Li, Grosse and Duvenaud, "Isolating sources of disentanglement in variational autoencoders",
    NeurIPS 2018, section 4.

    Examples:
        >>> a, b = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 0, 1])
        >>> round(mig(torch.stack([a, b], 1).float(), torch.stack([a, b], 1)), 6)
        1.0
    """
    code = _code(z)
    if code.shape[1] < 2:
        raise ValueError("a gap between the best two entries needs two, but the code has one")
    check_number("bins", bins, low=2, integer=True)
    columns = _factors("factors", factors, len(code))
    low, span = code.min(0).values, (code.max(0).values - code.min(0).values).clamp_min(1e-300)
    cells = ((code - low) / span * bins).long().clamp(max=bins - 1)
    member = torch.nn.functional.one_hot(cells, bins).double()
    gaps = []
    for c in columns:
        labels = torch.nn.functional.one_hot(torch.from_numpy(c)).double()
        joint = torch.einsum("ndb,nc->dbc", member, labels) / len(code)
        known = torch.special.entr(joint.sum(1)[0]).sum()
        information = (torch.special.entr(joint.sum(2)).sum(1) + known - torch.special.entr(joint).sum((1, 2))) / known
        best = information.topk(2).values
        gaps.append(float(best[0] - best[1]))
    return float(np.mean(gaps))
