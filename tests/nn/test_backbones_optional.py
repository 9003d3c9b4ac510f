"""Backbones that need an extra: graphs and transformers."""

from __future__ import annotations

import pytest
import torch

from holdfast.core.random import isolated_rng
from holdfast.core.signature import InputSignature
from holdfast.nn import make_backbone


def graphs(n: int, seed: int = 100):
    data = pytest.importorskip("torch_geometric.data")
    g = torch.Generator().manual_seed(seed)
    out = []
    for _ in range(n):
        nodes = int(torch.randint(2, 8, (), generator=g))
        edges = torch.randint(nodes, (2, 2 * nodes), generator=g)
        out.append(data.Data(x=torch.randn(nodes, 3, generator=g), edge_index=edges))
    return data.Batch, out


@pytest.mark.parametrize("name", ["gin", "gcn"])
@pytest.mark.parametrize("size", ["tiny", "small"])
def test_graph_features_do_not_depend_on_the_batch(name, size):
    batch, g = graphs(5)
    with isolated_rng(100):
        net = make_backbone(InputSignature("graphs", (3,), mean=(0.0,) * 3, std=(1.0, 1.0, 0.0)), size, name)
    whole = net(batch.from_data_list(g))
    alone = torch.cat([net(batch.from_data_list([one])) for one in g])
    assert whole.shape == (5, net.out_dim)
    torch.testing.assert_close(whole, alone, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["gin", "gcn"])
def test_graph_features_ignore_the_numbering_of_nodes(name):
    batch, (g, *_) = graphs(1)
    with isolated_rng(100):
        net = make_backbone(InputSignature("graphs", (3,)), "small", name)
    order = torch.randperm(g.num_nodes, generator=torch.Generator().manual_seed(101))
    renumbered = g.clone()
    renumbered.x = g.x[order]
    renumbered.edge_index = torch.argsort(order)[g.edge_index]
    torch.testing.assert_close(
        net(batch.from_data_list([renumbered])), net(batch.from_data_list([g])), atol=1e-5, rtol=1e-4
    )


def test_gin_tells_apart_what_mean_aggregation_cannot():
    # A star's centre sees 2 or 4 equal leaves: the neighbourhood mean is the same, the sum is not.
    data = pytest.importorskip("torch_geometric.data")
    with isolated_rng(100):
        net = make_backbone(InputSignature("graphs", (1,)), "small", "gin")

    def star(leaves: int):
        edges = torch.tensor([list(range(1, leaves + 1)), [0] * leaves])
        return data.Data(x=torch.ones(5, 1), edge_index=edges)

    two, four = net(data.Batch.from_data_list([star(2), star(4)]))
    assert not torch.allclose(two, four, atol=1e-4)


@pytest.fixture(scope="module")
def tiny_bert(tmp_path_factory):
    transformers = pytest.importorskip("transformers")
    path = tmp_path_factory.mktemp("bert")
    config = transformers.BertConfig(
        vocab_size=50, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32
    )
    transformers.BertModel(config).save_pretrained(path)
    return str(path)


def test_transformer_from_a_folder_ignores_padding(tiny_bert):
    net = make_backbone(InputSignature("tokens", (50,), model=tiny_bert)).eval()
    ids = torch.randint(50, (2, 6), generator=torch.Generator().manual_seed(100))
    mask = torch.ones_like(ids)
    padded = torch.cat([ids, torch.zeros(2, 3, dtype=torch.long)], dim=1)
    wide = torch.cat([mask, torch.zeros(2, 3, dtype=torch.long)], dim=1)
    assert net.out_dim == 16
    torch.testing.assert_close(net((padded, wide)), net((ids, mask)), atol=1e-5, rtol=1e-4)


def test_transformer_loads_the_weights_it_is_given(tiny_bert):
    a, b = (make_backbone(InputSignature("tokens", (50,), model=tiny_bert)).eval() for _ in range(2))
    x = torch.arange(6).view(1, 6), torch.ones(1, 6, dtype=torch.long)
    assert torch.equal(a(x), b(x))


def test_transformer_that_is_not_there_is_refused(tmp_path):
    pytest.importorskip("transformers")
    with pytest.raises(ValueError, match="on this machine or on the hub"):
        make_backbone(InputSignature("tokens", (50,), model=str(tmp_path / "absent")))
