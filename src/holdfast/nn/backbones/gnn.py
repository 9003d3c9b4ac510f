"""Backbones for graphs, on ``torch_geometric``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from holdfast.core.checks import check_choice, check_number
from holdfast.nn.standardize import Standardize

__all__ = ["GraphNet"]


class GraphNet(nn.Module):
    r"""Message passing, then a readout that joins every layer: ``(mean, max, log(1 + n))`` over a graph's nodes.

    GIN: ``h_v <- MLP((1 + eps) h_v + sum_{u ~ v} h_u)`` with a learned ``eps``; GCN: the symmetrically normalised
    neighbourhood mean. Layer normalisation acts on each node alone. The input is a ``torch_geometric`` batch with
    ``x`` and ``edge_index``; edge features are not used.

    Args:
        features: node features.
        width: channels, and ``out_dim``.
        depth: rounds of message passing.
        convolution: ``"gin"`` or ``"gcn"``.
        mean, std: per node feature.

    Raises:
        ImportError: where ``torch_geometric`` is not installed.

    Source: Xu et al., "How powerful are graph neural networks?", ICLR 2019, equations 4.1 and 4.2; Kipf and
    Welling, "Semi-supervised classification with graph convolutional networks", ICLR 2017, equation 2.

    Examples:
        >>> import pytest
        >>> pyg = pytest.importorskip("torch_geometric.data")
        >>> graph = pyg.Data(x=torch.ones(3, 2), edge_index=torch.tensor([[0, 1], [1, 2]]))
        >>> GraphNet(2, width=8, depth=2)(pyg.Batch.from_data_list([graph, graph])).shape
        torch.Size([2, 8])
    """

    def __init__(
        self,
        features: int,
        *,
        width: int,
        depth: int,
        convolution: Literal["gin", "gcn"] = "gin",
        mean: Sequence[float] = (),
        std: Sequence[float] = (),
    ) -> None:
        super().__init__()
        check_choice("convolution", convolution, ["gin", "gcn"])
        check_number("depth", depth, low=1, integer=True)
        try:
            from torch_geometric.nn import GCNConv, GINConv
        except ImportError as error:
            raise ImportError("a graph backbone needs the extra `graph`: pip install 'holdfast[graph]'") from error
        self.out_dim = width
        self.standardize = Standardize(features, mean, std)
        self.embed = nn.Linear(features, width)
        self.convolutions = nn.ModuleList()
        for _ in range(depth):
            if convolution == "gcn":
                self.convolutions.append(GCNConv(width, width))
            else:
                update = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))
                self.convolutions.append(GINConv(update, train_eps=True))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(depth))
        self.readout = nn.Sequential(nn.Linear(2 * width * (depth + 1) + 1, width), nn.ReLU())

    def forward(self, x: Any) -> Float[Tensor, "batch out"]:
        """Return one row per graph."""
        h = torch.relu(self.embed(self.standardize(x.x)))
        index = x.batch if x.batch is not None else torch.zeros(h.shape[0], dtype=torch.long, device=h.device)
        graphs = int(getattr(x, "num_graphs", 1) or 1)
        states = [h]
        for convolution, norm in zip(self.convolutions, self.norms):
            h = torch.relu(norm(convolution(h, x.edge_index)))
            states.append(h)
        nodes = torch.cat(states, dim=1)
        where = index[:, None].expand_as(nodes)
        zero = nodes.new_zeros(graphs, nodes.shape[1])
        count = nodes.new_zeros(graphs).index_add(0, index, torch.ones_like(index, dtype=nodes.dtype))[:, None]
        mean = zero.index_add(0, index, nodes) / count.clamp_min(1.0)
        top = zero.scatter_reduce(0, where, nodes, reduce="amax")
        return self.readout(torch.cat([mean, top, torch.log1p(count)], dim=1))
