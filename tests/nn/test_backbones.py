"""Laws every backbone keeps: shapes, independence of samples, seeds, compilation, export, refusals."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from holdfast.core.random import isolated_rng
from holdfast.core.signature import InputSignature
from holdfast.nn import AUTO, BACKBONES, SIZES, list_backbones, make_backbone

IMAGE = InputSignature("image", (3, 28, 20), mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.0))
VECTOR = InputSignature("vector", (5,), mean=(0.0,) * 5, std=(1.0, 2.0, 0.0, 1.0, 3.0))
TABLE = InputSignature(
    "table", (4,), n_numeric=2, cardinalities=(5, 3), mean=(1.0, 2.0), std=(1.0, 0.0), median=(0.5, 2.0), missing=(0, 1)
)
TEXT = InputSignature("text", (64,))
SETS = InputSignature("sets", (3,), mean=(0.0, 1.0, 2.0), std=(1.0, 1.0, 0.0))


def draw(signature: InputSignature, n: int, seed: int = 100):
    g = torch.Generator().manual_seed(seed)
    if signature.kind in ("vector", "image"):
        return torch.rand(n, *signature.shape, generator=g)
    if signature.kind == "table":
        codes = [torch.randint(c, (n, 1), generator=g).float() for c in signature.cardinalities]
        numeric = torch.randn(n, signature.n_numeric, generator=g)
        numeric[0, 0] = float("nan")
        return torch.cat([numeric, *codes], dim=1)
    if signature.kind == "text":
        return torch.randint(64, (7 * n,), generator=g), 7 * torch.arange(n)
    sizes = torch.randint(1, 7, (n, 1), generator=g)
    return torch.randn(n, 6, *signature.shape, generator=g), torch.arange(6) < sizes


def rows(x, index):
    if not isinstance(x, tuple):
        return x[index]
    if x[0].ndim == 1:
        ids = x[0].view(len(x[1]), -1)[index]
        return ids.flatten(), ids.shape[1] * torch.arange(len(ids))
    return x[0][index], x[1][index]


CASES = [
    pytest.param(s, name, id=f"{s.kind}-{name}")
    for s in (VECTOR, TABLE, IMAGE, TEXT, SETS)
    for name in list_backbones(s.kind)
]


def build(signature: InputSignature, name: str, size: str = "tiny", seed: int = 100) -> nn.Module:
    with isolated_rng(seed):
        return make_backbone(signature, size=size, name=name)


@pytest.mark.parametrize(("signature", "name"), CASES)
@pytest.mark.parametrize("size", ["tiny", "small"])
def test_output_is_one_row_of_out_dim_features_per_sample(signature, name, size):
    net = build(signature, name, size)
    out = net(draw(signature, 4))
    assert out.shape == (4, net.out_dim)
    assert torch.isfinite(out).all()


@pytest.mark.parametrize(("signature", "name"), CASES)
def test_a_samples_features_do_not_depend_on_its_batch_even_in_training_mode(signature, name):
    net = build(signature, name).train()
    x = draw(signature, 6)
    whole = net(x)
    alone = torch.cat([net(rows(x, torch.tensor([i]))) for i in range(6)])
    torch.testing.assert_close(whole, alone, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("signature", "name"), CASES)
def test_every_parameter_gets_a_gradient(signature, name):
    net = build(signature, name)
    # Two steps: the zero-gain branches of a residual network pass a gradient only after the first.
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1) if list(net.parameters()) else None
    for _ in range(2 if optimizer else 0):
        optimizer.zero_grad()
        net(draw(signature, 16)).square().mean().backward()
        optimizer.step()
    assert all(p.grad is not None and bool((p.grad != 0).any()) for p in net.parameters())


@pytest.mark.parametrize(("signature", "name"), CASES)
def test_weights_are_a_function_of_the_global_seed(signature, name):
    a, b, c = (build(signature, name, seed=s) for s in (100, 100, 101))
    x = draw(signature, 3)
    assert torch.equal(a(x), b(x))
    if list(a.parameters()):
        assert not torch.equal(a(x), c(x))


@pytest.mark.parametrize(("signature", "name"), CASES)
def test_traces_without_graph_breaks(signature, name):
    net = build(signature, name).eval()
    x = draw(signature, 4)
    torch._dynamo.reset()
    compiled = torch.compile(net, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), net(x))


@pytest.mark.parametrize(
    ("signature", "name"), [c for c in CASES if c.values[0].kind in ("vector", "table", "image", "sets")]
)
def test_exports_with_a_free_batch_size(signature, name):
    net = build(signature, name).eval()
    batch = torch.export.Dim("batch", min=1, max=1024)
    shape = ({0: batch},) if signature.kind != "sets" else (({0: batch}, {0: batch}),)
    program = torch.export.export(net, (draw(signature, 3),), dynamic_shapes=shape)
    x = draw(signature, 7, seed=101)
    torch.testing.assert_close(program.module()(x), net(x), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["convnet", "resnet", "vit", "mlp"])
@pytest.mark.parametrize("shape", [(1, 8, 8), (2, 9, 31), (3, 33, 16), (4, 3, 5), (3, 130, 97)])
def test_images_of_any_size_and_channels(name, shape):
    net = build(InputSignature("image", shape), name, "small")
    x = draw(InputSignature("image", shape), 2)
    out = net(x)
    assert out.shape == (2, net.out_dim)
    assert not torch.allclose(out[0], out[1])


@pytest.mark.parametrize("name", ["convnet", "resnet", "vit", "mlp"])
def test_bytes_and_unit_floats_are_the_same_image(name):
    net = build(IMAGE, name)
    bytes_ = torch.randint(256, (2, *IMAGE.shape), dtype=torch.uint8)
    torch.testing.assert_close(net(bytes_), net(bytes_.float() / 255))


@pytest.mark.parametrize("name", ["convnet", "resnet", "vit"])
def test_size_at_test_time_may_differ_from_training(name):
    net = build(IMAGE, name)
    assert net(torch.rand(2, 3, 35, 29)).shape == (2, net.out_dim)


@pytest.mark.parametrize("name", [n for n in BACKBONES if n not in ("identity", "transformer", "gin", "gcn")])
def test_sizes_grow(name):
    signature = next(s for s in (VECTOR, IMAGE, TEXT, SETS) if s.kind in BACKBONES[name].kinds)
    counts = [sum(p.numel() for p in build(signature, name, size).parameters()) for size in SIZES]
    assert counts == sorted(counts)
    assert len(set(counts)) == 4


def test_auto_takes_the_usual_backbone_of_the_kind():
    for signature in (VECTOR, TABLE, IMAGE, TEXT, SETS):
        auto, named = build(signature, "auto"), build(signature, AUTO[signature.kind])
        assert type(auto) is type(named)


def test_unknown_names_and_wrong_kinds_list_what_fits():
    with pytest.raises(ValueError, match=r"unknown backbone 'resnext'; for image: auto, mlp, .*convnet, resnet, vit"):
        make_backbone(IMAGE, name="resnext")
    with pytest.raises(ValueError, match="'gin' takes graphs, not sets; for sets: auto, deepsets, set_attention"):
        make_backbone(SETS, name="gin")
    with pytest.raises(ValueError, match="size must be one of 'tiny', 'small', 'base', 'large'; got 'huge'"):
        make_backbone(VECTOR, size="huge")


def test_missing_value_reads_as_the_median_plus_an_indicator():
    front = build(TABLE, "identity")
    given = torch.tensor([[0.5, 2.0, 3.0, 1.0]])
    missing = torch.tensor([[float("nan"), 2.0, 3.0, 1.0]])
    difference = (front(missing) - front(given))[0]
    assert difference.nonzero().flatten().tolist() == [2]
    assert difference[2] == 1.0


def test_unknown_category_reads_as_unseen_and_nan_as_missing():
    front = build(TABLE, "identity")
    table = torch.tensor([[0.0, 0.0, c, 1.0] for c in (0.0, 9.0, -1.0, 1.0, float("nan"))])
    out = front(table)
    assert torch.equal(out[0], out[1])
    assert torch.equal(out[0], out[2])
    assert torch.equal(out[3], out[4])
    assert not torch.equal(out[0], out[3])


@pytest.mark.parametrize("name", ["deepsets", "set_attention"])
def test_sets_ignore_order_and_padding(name):
    net = build(SETS, name, "small")
    values, mask = draw(SETS, 4)
    padded = torch.cat([values, torch.full((4, 3, 3), 1e6)], dim=1)
    wide = torch.cat([mask, torch.zeros(4, 3, dtype=torch.bool)], dim=1)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(100))
    torch.testing.assert_close(net((padded[:, order], wide[:, order])), net((values, mask)), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["deepsets", "set_attention"])
def test_empty_set_is_finite_with_finite_gradients(name):
    net = build(SETS, name)
    values, mask = draw(SETS, 2)
    mask[0] = False
    out = net((values, mask))
    out.sum().backward()
    assert torch.isfinite(out).all()
    assert all(torch.isfinite(p.grad).all() for p in net.parameters())


def test_a_text_without_n_grams_gives_the_features_of_the_zero_vector():
    net = build(TEXT, "embedding_bag")
    out = net((torch.tensor([1, 2]), torch.tensor([0, 2])))
    torch.testing.assert_close(out[1], net.layers(torch.zeros(1, net.embedding.embedding_dim))[0])


def test_a_text_is_the_mean_of_its_n_grams_whatever_their_order():
    net = build(TEXT, "embedding_bag")
    a = net((torch.tensor([1, 2, 9]), torch.tensor([0])))
    b = net((torch.tensor([9, 1, 2, 1, 2, 9]), torch.tensor([0])))
    torch.testing.assert_close(a, b)
