"""What two models must share before their embeddings may be compared or exchanged."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

__all__ = ["EmbeddingContract", "tensor_digest"]


def tensor_digest(*tensors: Tensor) -> str:
    """SHA-256 of shapes and values; floating-point tensors are hashed as float32, integers as int64.

    Casting first makes the digest independent of the device and of a later ``.double()``.

    Examples:
        >>> import torch
        >>> tensor_digest(torch.ones(2)) == tensor_digest(torch.ones(2, dtype=torch.float64))
        True
        >>> tensor_digest(torch.ones(2)) == tensor_digest(torch.ones(2, 1))
        False
    """
    h = hashlib.sha256()
    for t in tensors:
        t = t.detach().to("cpu", torch.float32 if t.is_floating_point() else torch.int64).contiguous()
        h.update(f"{t.dtype}{tuple(t.shape)}".encode())
        h.update(t.numpy().tobytes())
    return h.hexdigest()


@dataclass(frozen=True)
class EmbeddingContract:
    """Names the coordinate system of an embedding: two models are comparable only if their contracts are equal.

    Attributes:
        kind: what fixes the coordinates, e.g. ``"simplex"`` (a table of class prototypes) or ``"relative"``
            (a list of anchor samples).
        size: rows of that table or list.
        digest: SHA-256 of its content.

    Examples:
        >>> a = EmbeddingContract("simplex", 128, "00ff")
        >>> a.check(EmbeddingContract("simplex", 64, "11aa"))
        Traceback (most recent call last):
        ...
        ValueError: the first embedding and the second embedding cannot be used together: both are 'simplex',
        but of size 128 and 64
    """

    kind: str
    size: int
    digest: str

    def check(
        self, other: EmbeddingContract, *, names: tuple[str, str] = ("first embedding", "second embedding")
    ) -> None:
        """Raise ``ValueError`` with both sides spelled out unless the two contracts are equal."""
        if self == other:
            return
        start = f"the {names[0]} and the {names[1]} cannot be used together: "
        if self.kind != other.kind:
            raise ValueError(start + f"their kinds are {self.kind!r} and {other.kind!r}")
        both = f"both are {self.kind!r}, but "
        if self.size != other.size:
            raise ValueError(start + both + f"of size {self.size} and {other.size}")
        raise ValueError(start + both + f"their digests are {self.digest[:16]}… and {other.digest[:16]}…")

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary."""
        return asdict(self)

    @classmethod
    def from_dict(cls, d: dict[str, Any]) -> EmbeddingContract:
        """Rebuild from :meth:`to_dict`."""
        return cls(str(d["kind"]), int(d["size"]), str(d["digest"]))
