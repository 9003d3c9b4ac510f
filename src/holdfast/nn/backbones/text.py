"""Backbones for text: hashed n-grams, and any transformer of the ``transformers`` package."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from holdfast.core.checks import check_number

__all__ = ["HashedText", "TransformerText"]


class HashedText(nn.Module):
    """Mean of the embeddings of a document's hashed n-grams, then hidden layers.

    A document without any n-gram has the zero vector as its mean. The input is ``(ids, offsets)``: the n-grams of
    all documents in one row, and where each document starts.

    Args:
        n_buckets: number of hash buckets.
        width: width of the embedding.
        hidden: units of the hidden layers, and ``out_dim``.
        depth: number of hidden layers.

    Source: Joulin et al., "Bag of tricks for efficient text classification", EACL 2017; Weinberger et al.,
    "Feature hashing for large scale multitask learning", ICML 2009.

    Examples:
        >>> net = HashedText(100, width=8, hidden=16, depth=1)
        >>> net((torch.tensor([3, 7, 7]), torch.tensor([0, 1]))).shape
        torch.Size([2, 16])
    """

    def __init__(self, n_buckets: int, *, width: int, hidden: int, depth: int) -> None:
        super().__init__()
        check_number("n_buckets", n_buckets, low=1, integer=True)
        self.out_dim = hidden
        self.embedding = nn.EmbeddingBag(n_buckets, width, mode="mean")
        nn.init.normal_(self.embedding.weight, std=width**-0.5)
        layers: list[nn.Module] = [nn.LayerNorm(width)]
        for i in range(depth):
            layers += [nn.Linear(width if i == 0 else hidden, hidden), nn.ReLU()]
        self.layers = nn.Sequential(*layers)

    def forward(self, x: tuple[Int[Tensor, " tokens"], Int[Tensor, " batch"]]) -> Float[Tensor, "batch out"]:
        """Return one row per document."""
        ids, offsets = x
        return self.layers(self.embedding(ids, offsets))


class TransformerText(nn.Module):
    """Mean of the last hidden states of a transformer over the tokens that are not padding.

    Takes any encoder or decoder that ``transformers.AutoModel`` loads, by its name on the hub or by the path of
    a local folder; code that comes with a model is never run. The input is ``(input_ids, attention_mask)``.

    Args:
        model: name or path.
        pretrained: load the weights; otherwise only the configuration, with weights drawn at random.

    Raises:
        ImportError: where ``transformers`` is not installed.
        ValueError: where the model cannot be found.

    Source: Reimers and Gurevych, "Sentence-BERT", EMNLP 2019 (mean pooling).

    Examples:
        >>> TransformerText("")
        Traceback (most recent call last):
        ...
        ValueError: model must be the name or the path of a transformer, got ''
    """

    def __init__(self, model: str, *, pretrained: bool = True) -> None:
        super().__init__()
        if not model:
            raise ValueError(f"model must be the name or the path of a transformer, got {model!r}")
        try:
            from transformers import AutoConfig, AutoModel
        except ImportError as error:
            raise ImportError("a transformer backbone needs the extra `text`: pip install 'holdfast[text]'") from error
        try:
            if pretrained:
                self.model = AutoModel.from_pretrained(model, trust_remote_code=False, dtype=torch.float32)
            else:
                config = AutoConfig.from_pretrained(model, trust_remote_code=False)
                self.model = AutoModel.from_config(config, trust_remote_code=False)
        except (OSError, ValueError) as error:
            raise ValueError(
                f"model must be a transformer that is on this machine or on the hub, got {model!r}: {error}"
            ) from error
        if self.model.config.is_encoder_decoder:
            self.model = self.model.get_encoder()
        self.out_dim = int(self.model.config.hidden_size)

    def forward(self, x: tuple[Int[Tensor, "batch tokens"], Int[Tensor, "batch tokens"]]) -> Float[Tensor, "batch out"]:
        """Return one row per text."""
        ids, mask = x
        states = self.model(input_ids=ids, attention_mask=mask).last_hidden_state
        weight = mask.unsqueeze(-1).to(states.dtype)
        return (states * weight).sum(dim=1) / weight.sum(dim=1).clamp_min(1.0)
