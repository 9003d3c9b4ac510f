"""A classifier that reads samples by their similarities to anchors of the training data."""

from __future__ import annotations

import copy
from typing import Any, Literal, Self

import numpy as np
import torch
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn

from holdfast.core.checks import check_choice, check_number
from holdfast.core.inputs import Encoded
from holdfast.nn import FitContext, NeuralClassifier, learner
from holdfast.nn.contract import EmbeddingContract
from holdfast.nn.network import Network
from holdfast.representation.anchors import AnchorSet
from holdfast.representation.relative import Similarity
from holdfast.representation.relative_encoder import Normalization, RelativeEncoder
from holdfast.representation.stitching import stitch

__all__ = ["RelativeClassifier"]

_DEFAULT_ANCHORS = 100


@learner
class RelativeClassifier(NeuralClassifier):
    r"""A network on relative representations, whose encoder and head can be exchanged with those of its siblings.

    .. math:: \hat y = h\bigl(\mathrm{LayerNorm}(\cos(E(x), E(a_1)), \dots, \cos(E(x), E(a_K)))\bigr)

    Anchors are drawn from the training data by ``anchor_seed`` alone, so that fits with different ``random_state``
    share them; :meth:`stitched` then joins the encoder of one fit to the head of another without training.
    ``transform`` returns the K normalised similarities.

    Source: Moschella et al., "Relative representations enable zero-shot latent space communication", ICLR 2023.

    Examples:
        >>> import numpy as np
        >>> x = np.random.default_rng(0).normal(size=(60, 3)).astype("float32")
        >>> y = x[:, 0] > 0
        >>> model = RelativeClassifier(n_anchors=10, epochs=2, size="tiny", random_state=0).fit(x, y)
        >>> model.transform(x).shape
        (60, 10)
    """

    n_anchors: int | None = None
    """K; ``None`` means 100, or fewer where the training data hold fewer."""
    anchor_method: Literal["uniform", "stratified", "first"] = "uniform"
    anchor_seed: int = 0
    anchor_grad: bool = False
    similarity: Similarity = "cosine"
    center: bool = False
    normalization: Normalization = "layernorm"
    hidden: int = 256
    """Width of the head's hidden layer."""

    def _prepare(self, encoded: Encoded, targets: Tensor, groups: Tensor, context: FitContext, seed: int) -> None:
        check_choice("anchor_method", self.anchor_method, ["uniform", "stratified", "first"])
        check_number("hidden", self.hidden, low=1, integer=True)
        anchors = AnchorSet.sample(
            len(encoded),
            self._count(context),
            self.anchor_method,
            labels=targets,
            generator=torch.Generator().manual_seed(self.anchor_seed),
        )
        self.anchor_indices_ = anchors.indices.numpy()
        self._anchor_inputs = encoded[anchors.indices]

    def _count(self, context: FitContext) -> int:
        if self.n_anchors is not None:
            return int(check_number("n_anchors", self.n_anchors, low=1, integer=True))
        if self.anchor_method == "stratified":
            n_classes = len(context.class_counts)
            return n_classes * max(1, min(_DEFAULT_ANCHORS // n_classes, *context.class_counts))
        return min(_DEFAULT_ANCHORS, context.n_samples)

    def _make_network(self, encoder: nn.Module, context: FitContext) -> Network:
        relative = RelativeEncoder(
            encoder,
            self._anchor_inputs,
            anchor_grad=self.anchor_grad,
            normalization=self.normalization,
            similarity=self.similarity,
            center=self.center,
            n_anchors=len(self.anchor_indices_),
        )
        head = nn.Sequential(
            nn.Linear(relative.out_dim, self.hidden), nn.ReLU(), nn.Linear(self.hidden, context.n_outputs)
        )
        return Network(relative, head)

    def _after_fit(self, encoded: Encoded, targets: Tensor, groups: Tensor, seed: int) -> None:
        del self._anchor_inputs

    @property
    def contract_(self) -> EmbeddingContract:
        """Number and hash of the anchors, which two fits must share to be joined."""
        check_is_fitted(self, "network_")
        return self._relative.contract

    @property
    def _relative(self) -> RelativeEncoder:
        encoder: Any = self.network_.encoder
        return encoder

    def stitched(self, head: RelativeClassifier) -> Self:
        """Return this model's encoder under the head of another fit, as a classifier of its own.

        Raises:
            ValueError: when the anchors differ; both hashes (or numbers) are named.

        Examples:
            >>> import numpy as np
            >>> x = np.random.default_rng(0).normal(size=(60, 3)).astype("float32")
            >>> options = {"n_anchors": 10, "epochs": 2, "size": "tiny"}
            >>> a, b = (RelativeClassifier(random_state=s, **options).fit(x, x[:, 0] > 0) for s in (0, 1))
            >>> a.stitched(b).predict(x).shape
            (60,)
        """
        check_is_fitted(self, "network_")
        check_is_fitted(head, "network_")
        stitch(self.network_, head.network_)
        joined = copy.deepcopy(self)
        joined.network_.encoder.normalize = copy.deepcopy(head.network_.encoder.normalize)
        joined.network_.head = copy.deepcopy(head.network_.head)
        joined.classes_ = head.classes_.copy()
        joined.context_ = copy.deepcopy(head.context_)
        joined.hidden, joined.normalization = head.hidden, head.normalization
        return joined

    def _extra_state(self) -> dict[str, Any]:
        return {"anchors": self.anchor_indices_.tolist(), "layout": self._relative.input_layout()}

    def _set_extra_state(self, extra: dict[str, Any]) -> None:
        self.anchor_indices_ = np.array(extra["anchors"], dtype=np.int64)
        self._anchor_inputs = RelativeEncoder.placeholder(extra["layout"])
