"""Point sets that the tests of distances share."""

import torch


def sets(n=7, m=5, d=3, batch=2, seed=100, dtype=torch.float64):
    rng = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, n, d, generator=rng, dtype=torch.float64)
    y = 0.7 * torch.randn(batch, m, d, generator=rng, dtype=torch.float64) + 0.5
    return x.to(dtype), y.to(dtype)


def weights(n, batch=2, seed=101):
    w = torch.rand(batch, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 0.1
    return w / w.sum(1, keepdim=True)


def covariances(d=3, batch=4, rank=None, seed=100):
    a = torch.randn(batch, d, rank or d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return a @ a.mT
