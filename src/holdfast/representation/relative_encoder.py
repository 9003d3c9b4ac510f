"""An encoder that speaks in similarities to its own embeddings of fixed anchor samples."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from holdfast.core.checks import check_choice
from holdfast.nn.contract import EmbeddingContract, tensor_digest
from holdfast.representation.anchors import AnchorSet
from holdfast.representation.relative import Similarity, relative_projection

__all__ = ["RelativeEncoder"]

Normalization = Literal["layernorm", "l2", "none"]
_GRAPH_FIELDS = ("x", "edge_index", "batch")


def _to_parts(inputs: Any) -> tuple[str, tuple[Tensor, ...]]:
    """Split model input into tensors: one, several, or nodes, edges and graph numbers of a graph batch."""
    if isinstance(inputs, Tensor):
        return "tensor", (inputs,)
    if isinstance(inputs, tuple) and all(isinstance(t, Tensor) for t in inputs):
        return "tuple", inputs
    if hasattr(inputs, "edge_index"):
        return "graphs", tuple(getattr(inputs, f) for f in _GRAPH_FIELDS)
    raise TypeError(f"anchor_inputs must be a tensor, a tuple of tensors or a graph batch, got {type(inputs).__name__}")


def _from_parts(kind: str, parts: tuple[Tensor, ...]) -> Any:
    if kind == "tensor":
        return parts[0]
    if kind == "tuple":
        return parts
    from torch_geometric.data import Batch

    return Batch(**dict(zip(_GRAPH_FIELDS, parts)))


class _L2(nn.Module):
    def forward(self, r: Tensor) -> Tensor:
        return F.normalize(r, dim=-1)


@contextmanager
def _evaluation_mode(module: nn.Module) -> Iterator[None]:
    training = [m for m in module.modules() if m.training]
    for m in training:
        m.training = False
    try:
        yield
    finally:
        for m in training:
            m.training = True


class RelativeEncoder(nn.Module):
    r"""Wraps an encoder :math:`E` so that it returns normalised similarities to K anchors.

    .. math:: r_x = \mathrm{norm}\bigl(s(E(x), E(a_1)), \dots, s(E(x), E(a_K))\bigr)

    The anchors are embedded by the encoder as it is now: at every forward pass while training, and in evaluation
    mode once, until a weight changes (the cache is dropped on ``.train()``, on loading a state dict, on device or
    dtype moves, and when any parameter or buffer of the encoder was written to). They are always embedded in
    evaluation mode, so that they neither disturb batch statistics nor pass through dropout.

    Args:
        encoder: any module that maps model input to (B, d).
        anchor_inputs: model input of the anchors: a tensor, a tuple of tensors (as texts and sets have), a
            ``torch_geometric`` batch, or an :class:`AnchorSet` that holds its inputs.
        anchor_grad: let gradients flow through the anchors' embeddings too.
        normalization: ``"layernorm"`` (trainable, over the K entries), ``"l2"`` or ``"none"``.
        refresh: ``"eval_cached"`` as described, or ``"step"`` to embed the anchors at every forward pass.
        similarity, center, eps: see :func:`relative_projection`.
        n_anchors: where it cannot be read off the inputs, which are then placeholders for a state dict.
        contract: what another model must share; by default the digest of the anchors' inputs.

    Raises:
        TypeError: for inputs of another kind.
        ValueError: for an :class:`AnchorSet` without inputs, or no anchors.

    Source: Moschella et al., "Relative representations enable zero-shot latent space communication", ICLR 2023,
    Section 3 and Appendix A.

    Examples:
        >>> _ = torch.manual_seed(0)
        >>> encoder = RelativeEncoder(nn.Linear(3, 2), torch.randn(5, 3))
        >>> encoder(torch.randn(4, 3)).shape
        torch.Size([4, 5])
    """

    anchor_code: Tensor

    def __init__(
        self,
        encoder: nn.Module,
        anchor_inputs: Any,
        *,
        anchor_grad: bool = False,
        normalization: Normalization = "layernorm",
        refresh: Literal["step", "eval_cached"] = "eval_cached",
        similarity: Similarity = "cosine",
        center: bool = False,
        eps: float | None = 1e-8,
        n_anchors: int | None = None,
        contract: EmbeddingContract | None = None,
    ) -> None:
        super().__init__()
        check_choice("normalization", normalization, ["layernorm", "l2", "none"])
        self.refresh = check_choice("refresh", refresh, ["step", "eval_cached"])
        if isinstance(anchor_inputs, AnchorSet):
            if anchor_inputs.inputs is None:
                raise ValueError("the anchor set holds no inputs; take them from the data with anchors.of(x)")
            contract = contract or anchor_inputs.contract
            anchor_inputs = anchor_inputs.inputs
        self.encoder = encoder
        self.similarity: Similarity = similarity
        self.anchor_grad, self.center, self.eps = anchor_grad, center, eps
        self._kind, parts = _to_parts(anchor_inputs)
        self._n_parts = len(parts)
        for i, part in enumerate(parts):
            self.register_buffer(f"anchor_inputs_{i}", part.detach().clone())
        if n_anchors is None:
            # Texts come as (ids, offsets) of different lengths: there the last part has one entry per anchor.
            n_anchors = int(parts[-1].max()) + 1 if self._kind == "graphs" else len(parts[-1])
        self.out_dim = n_anchors
        if self.out_dim == 0:
            raise ValueError("there must be at least one anchor, got none")
        digest = contract.digest if contract is not None else tensor_digest(*parts)
        # A buffer of bytes, so that the contract travels with the weights.
        code = torch.frombuffer(bytearray(bytes.fromhex(digest)), dtype=torch.uint8).clone()
        self.register_buffer("anchor_code", code)
        layers: Mapping[str, nn.Module] = {"l2": _L2(), "none": nn.Identity()}
        self.normalize = nn.LayerNorm(self.out_dim) if normalization == "layernorm" else layers[normalization]
        self._cached: Tensor | None = None
        self._cached_at: tuple[int, ...] = ()

    @property
    def anchor_inputs(self) -> Any:
        """The anchors as model input."""
        return _from_parts(self._kind, tuple(getattr(self, f"anchor_inputs_{i}") for i in range(self._n_parts)))

    def input_layout(self) -> dict[str, Any]:
        """Return what :meth:`placeholder` needs to know of the anchors' inputs, JSON-ready."""
        parts = [getattr(self, f"anchor_inputs_{i}") for i in range(self._n_parts)]
        return {
            "kind": self._kind,
            "n_anchors": self.out_dim,
            "parts": [[list(t.shape), str(t.dtype).removeprefix("torch.")] for t in parts],
        }

    @staticmethod
    def placeholder(layout: Mapping[str, Any]) -> Any:
        """Return empty model input of the layout, to build an encoder whose state dict is loaded afterwards."""
        parts = tuple(torch.zeros(shape, dtype=getattr(torch, dtype)) for shape, dtype in layout["parts"])
        return _from_parts(layout["kind"], parts)

    @property
    def contract(self) -> EmbeddingContract:
        """What another model must share: the number of anchors and the hash of what they are."""
        return EmbeddingContract("relative", self.out_dim, bytes(self.anchor_code.tolist()).hex())

    def _embed_anchors(self) -> Float[Tensor, "k d"]:
        with _evaluation_mode(self.encoder):
            if self.anchor_grad:
                return self.encoder(self.anchor_inputs)
            with torch.no_grad():
                return self.encoder(self.anchor_inputs)

    def _state_versions(self) -> tuple[int, ...]:
        tensors = [*self.encoder.parameters(), *self.encoder.buffers(), *self.buffers(recurse=False)]
        return tuple(-1 if t.is_inference() else t._version for t in tensors)

    def anchor_embeddings(self) -> Float[Tensor, "k d"]:
        """The encoder's embeddings of the anchors, from the cache where that is current."""
        wants_grad = self.anchor_grad and torch.is_grad_enabled()
        if self.training or self.refresh == "step" or wants_grad or torch.compiler.is_compiling():
            return self._embed_anchors()
        versions = self._state_versions()
        if self._cached is None or versions != self._cached_at:
            with torch.inference_mode(False), torch.no_grad():
                self._cached = self._embed_anchors()
            self._cached_at = versions
        return self._cached

    def relative(self, x: Any) -> Float[Tensor, "batch k"]:
        """Similarities to the anchors, before normalisation."""
        z, anchors = self.encoder(x), self.anchor_embeddings()
        return relative_projection(z, anchors, self.similarity, center=self.center, eps=self.eps)

    def forward(self, x: Any) -> Float[Tensor, "batch k"]:
        return self.normalize(self.relative(x))

    def train(self, mode: bool = True) -> RelativeEncoder:
        """Set the mode; training drops the cached anchors."""
        if mode:
            self._cached = None
        return super().train(mode)

    def _apply(self, fn: Any, recurse: bool = True) -> RelativeEncoder:
        self._cached = None
        return super()._apply(fn, recurse)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self._cached = None
        super()._load_from_state_dict(*args, **kwargs)

    def extra_repr(self) -> str:
        return f"n_anchors={self.out_dim}, similarity={self.similarity!r}, refresh={self.refresh!r}"
