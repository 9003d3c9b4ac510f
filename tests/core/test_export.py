"""Laws of exported programs."""

from __future__ import annotations

import importlib.util

import pytest
import torch
from torch import nn

from holdfast.core.export import export


class Picture(nn.Module):
    """Convolution, batch norm and dropout: modules whose two modes differ."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5))
        self.head = nn.Linear(4, 5)
        self.register_buffer("mean", torch.rand(3))

    def forward(self, x):
        z = self.body(x.float() - self.mean[:, None, None])
        return self.head(z.mean((2, 3))).softmax(-1)


class Pair(nn.Module):
    """Several inputs, several outputs."""

    def forward(self, x, rest):
        values, mask = rest
        pooled = (values * mask[..., None]).sum(1) / mask.sum(1, keepdim=True).clamp_min(1)
        return {"sum": x + pooled, "score": x.square().sum(-1)}


def trained(module: nn.Module) -> nn.Module:
    """Move batch statistics away from their start, so that evaluation mode matters."""
    torch.manual_seed(100)
    with torch.no_grad():
        module.train()(torch.randn(16, 3, 6, 6))
    return module


@pytest.mark.parametrize("example_rows", [1, 2, 3])
def test_program_equals_module_for_every_batch_size(tmp_path, example_rows):
    module = trained(Picture())
    program = torch.export.load(export(module, (torch.zeros(example_rows, 3, 6, 6),), tmp_path / "m.pt2")).module()
    module.eval()
    for rows in (1, 2, 7, 64):
        x = torch.randn(rows, 3, 6, 6)
        torch.testing.assert_close(program(x), module(x), rtol=1e-6, atol=1e-6)


def test_nested_inputs_and_outputs(tmp_path):
    def inputs(n):
        return torch.randn(n, 4), (torch.randn(n, 3, 4), (torch.rand(n, 3) > 0.5).float())

    module = Pair()
    program = torch.export.load(export(module, inputs(2), tmp_path / "m.pt2")).module()
    for n in (1, 5):
        given = inputs(n)
        expected, got = module(*given), program(*given)
        for key in ("sum", "score"):
            torch.testing.assert_close(got[key], expected[key], rtol=1e-6, atol=1e-6)


def test_export_leaves_modes_weights_and_random_state_alone(tmp_path):
    module = trained(Picture())
    module.body.eval()
    weights = {k: v.clone() for k, v in module.state_dict().items()}
    state = torch.get_rng_state()
    export(module, (torch.zeros(2, 3, 6, 6),), tmp_path / "m")
    assert (module.training, module.body.training, module.head.training) == (True, False, True)
    assert all(torch.equal(v, weights[k]) for k, v in module.state_dict().items())
    assert torch.equal(state, torch.get_rng_state())
    assert [p.name for p in tmp_path.iterdir()] == ["m.pt2"]


def test_fixed_batch_refuses_other_sizes(tmp_path):
    module = nn.Linear(3, 2)
    where = export(module, (torch.zeros(4, 3),), tmp_path / "m", dynamic_batch=False)
    program = torch.export.load(where).module()
    x = torch.randn(4, 3)
    torch.testing.assert_close(program(x), module(x))
    with pytest.raises((RuntimeError, AssertionError)):
        program(torch.randn(5, 3))


def test_module_that_fixes_the_batch_size_is_refused(tmp_path):
    class Fixed(nn.Module):
        def forward(self, x):
            return x.reshape(4, 3) * 2

    with pytest.raises(ValueError, match="cannot be turned into a program"):
        export(Fixed(), (torch.zeros(4, 3),), tmp_path / "m")
    assert list(tmp_path.iterdir()) == []


def test_module_that_draws_numbers_is_refused(tmp_path):
    class Noisy(nn.Module):
        def forward(self, x):
            return x + torch.randn_like(x)

    with pytest.raises(ValueError, match="draw numbers"):
        export(Noisy(), (torch.zeros(4, 3),), tmp_path / "m")


@pytest.mark.parametrize(
    ("inputs", "error"),
    [
        (torch.zeros(2, 3), TypeError),
        ((), TypeError),
        ((torch.tensor(1.0),), ValueError),
        ((torch.zeros(0, 3),), ValueError),
        ((torch.zeros(2, 3), torch.zeros(3, 3)), ValueError),
        (("text",), ValueError),
    ],
)
def test_bad_examples_are_refused(tmp_path, inputs, error):
    with pytest.raises(error, match="input"):
        export(nn.Linear(3, 2), inputs, tmp_path / "m")


def test_unknown_format_is_refused(tmp_path):
    with pytest.raises(ValueError, match="format must be one of 'torch_export', 'onnx'"):
        export(nn.Linear(3, 2), (torch.zeros(2, 3),), tmp_path / "m", format="pickle")


def test_onnx_without_its_packages_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r'pip install "holdfast\[onnx\]"'):
        export(nn.Linear(3, 2), (torch.zeros(2, 3),), tmp_path / "m", format="onnx")


def test_onnx_program_equals_module_for_every_batch_size(tmp_path):
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    module = trained(Picture())
    where = export(module, (torch.zeros(2, 3, 6, 6),), tmp_path / "m", format="onnx")
    assert [p.name for p in tmp_path.iterdir()] == ["m.onnx"]
    session = runtime.InferenceSession(str(where), providers=["CPUExecutionProvider"])
    module.eval()
    for rows in (1, 2, 7):
        x = torch.randn(rows, 3, 6, 6)
        (got,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        torch.testing.assert_close(torch.from_numpy(got), module(x), rtol=1e-5, atol=1e-6)
