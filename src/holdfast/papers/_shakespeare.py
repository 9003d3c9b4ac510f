"""Tiny Shakespeare as characters."""

from __future__ import annotations

import gzip

import torch
from jaxtyping import Int
from torch import Tensor

from holdfast.data.named.files import NamedSet, SourceFile, locate

__all__ = ["characters"]

_ADDRESS = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"


def _nothing(*_: object) -> None:
    raise NotImplementedError("read as characters, not as environments")


_SET = NamedSet(
    "text-corpora",
    "plays of Shakespeare, one file of characters",
    _nothing,  # pyright: ignore[reportArgumentType]
    kind="text",
    environments="one",
    labels="none",
    files=(
        SourceFile(
            "tinyshakespeare.txt.gz",
            "bed00f18e91cda6838950656f0a95e07e0f4dbe8649a4b959f7602a7e53fbc6e",
            url=_ADDRESS,
            url_sha256="86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
        ),
    ),
    origin="karpathy/char-rnn",
    licence="public domain",
)


def characters(length: int) -> tuple[Int[Tensor, "train length"], Int[Tensor, "test length"], list[str]]:
    """Return the first nine tenths and the rest as rows of ``length`` characters, and the alphabet.

    Raises:
        holdfast.data.DataError: when the file is in no local folder and cannot be fetched.
    """
    path = locate(_SET, "tinyshakespeare.txt.gz")
    raw = path.read_bytes()
    text = (gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw).decode("utf-8")
    alphabet = sorted(set(text))
    number = {c: i for i, c in enumerate(alphabet)}
    ids = torch.tensor([number[c] for c in text])
    rows = ids[: len(ids) // length * length].view(-1, length)
    cut = len(rows) * 9 // 10
    return rows[:cut], rows[cut:], alphabet
