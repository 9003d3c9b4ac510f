"""Loaders of single-cell data sets."""

from __future__ import annotations

from typing import Literal

import numpy as np

from holdfast.core.checks import check_choice
from holdfast.data.counts import log_counts
from holdfast.data.environments import Environments
from holdfast.data.named.files import Get
from holdfast.data.readers.npz import stored_csr

__all__ = ["MARKERS", "cell_lines", "kang_pbmc", "pbmc68k"]

MARKERS = {
    "B": ("MS4A1", "CD79A", "CD79B"),
    "monocyte": ("CD14", "LYZ", "FCGR3A", "S100A8", "S100A9"),
    "NK": ("GNLY", "NKG7", "KLRD1"),
    "T": ("CD3D", "CD3E", "CD3G", "CD2", "IL7R"),
}


def cell_lines(get: Get) -> Environments:
    """Jurkat and 293T cells in three batches: two hold one type each, the third both."""
    with np.load(get("cell_lines_pcs.npz")) as a:
        names = tuple(a["batch_names"].tolist())
        facts = {k: a[k] for k in ("n_genes", "percent_mito")}
        return Environments.from_arrays(a["pcs"], a["cell_type_names"][a["cell_type"]], a["batch"], facts, names=names)


def pbmc68k(get: Get, *, environment: Literal["phase"] | None = None) -> Environments:
    """Blood cells of ten types, scaled log-expression; ``environment`` "phase" splits by cell-cycle phase."""
    check_choice("environment", environment, (None, "phase"))
    with np.load(get("pbmc68k_reduced.npz")) as a:
        facts = {k: a[k] for k in ("louvain", "n_counts", "percent_mito")} | {"phase": a["phase_names"][a["phase"]]}
        where = None if environment is None else facts.pop("phase")
        x = a["scaled"].astype(np.float32)
        return Environments.from_arrays(x, a["cell_type_names"][a["cell_type"]], where, facts)


def kang_pbmc(get: Get, *, label: Literal["markers", "condition"] = "markers") -> Environments:
    """Blood cells with and without interferon-beta, as two environments; x is :func:`~holdfast.data.log_counts`.

    The source names no cell types. ``label`` "markers" gives each cell the type (B, monocyte, NK, T) whose
    marker genes, :data:`MARKERS`, have the highest mean log-expression; these genes are then no features.
    ``label`` "condition" labels the condition itself. Attribute ``gene_total`` is the UMI count of the cell.
    """
    check_choice("label", label, ("markers", "condition"))
    names = ("control", "stimulated")
    with np.load(get("kang_pbmc_ifnb_2000genes.npz")) as a:
        counts = stored_csr(a)
        total, genes, where = a["total_umi_all_genes"], a["genes"], a["stimulated"].astype(np.int64)
    x = log_counts(counts, total).astype(np.float32)
    y = np.array(names)[where]
    if label == "markers":
        types = sorted(MARKERS)
        score = np.stack([x[:, np.isin(genes, MARKERS[t])].mean(1) for t in types], 1)
        y = np.array(types)[score.argmax(1)]
        x = x[:, ~np.isin(genes, [g for t in types for g in MARKERS[t]])]
    return Environments.from_arrays(x, y, where, {"gene_total": total}, names=names)
