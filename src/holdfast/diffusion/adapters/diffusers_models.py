"""Networks of the diffusers library as networks of this package."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from os import PathLike
from types import ModuleType
from typing import Any, Literal

from jaxtyping import Float, Int
from torch import Tensor, nn

from holdfast.core.checks import check_number
from holdfast.diffusion.adapters.tapped import run_tapped
from holdfast.diffusion.backbones.unet import BlockInfo
from holdfast.diffusion.denoiser import Output

__all__ = ["DiTAdapter", "UNetAdapter", "import_diffusers"]


def import_diffusers() -> ModuleType:
    """Return the diffusers library, or raise ``ImportError`` naming the extra that brings it."""
    try:
        import diffusers
    except ImportError as error:
        raise ImportError("models of diffusers need the extra `images`: pip install 'holdfast[images]'") from error
    return diffusers


class UNetAdapter(nn.Module):
    """A ``diffusers.UNet2DModel`` with the call of this package's networks, numbered blocks, taps and early exit.

    Numbered as :class:`holdfast.diffusion.backbones.unet.UNet`: block 1 is the first convolution; a residual block
    with the attention behind it is a block; so is what halves a map; the middle is one; what doubles a map belongs to
    the block before it.

    Args:
        model: the network.
        null_class: label that stands for none, if the network was trained with one.
        class_dropout: share of labels that training replaces by ``null_class``.
        size: side of the images, where the network's configuration does not say.
        time_scale: factor on times; 1 where the network was trained on times in steps.

    Raises:
        TypeError: for a network of another kind.
        ValueError: for an unknown size, or a null class that is no class.

    Examples:
        >>> net = UNetAdapter.from_pretrained("google/ddpm-cifar10-32")  # doctest: +SKIP
        >>> net(torch.randn(2, 3, 32, 32), torch.tensor([10.0, 500.0]), taps=(5,)).taps[5].shape  # doctest: +SKIP
        torch.Size([2, 256, 16, 16])
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        null_class: int | None = None,
        class_dropout: float = 0.1,
        size: int | None = None,
        time_scale: float = 1.0,
    ) -> None:
        super().__init__()
        _check_kind(model, "UNet2DModel", ("conv_in", "down_blocks", "up_blocks", "class_embedding"))
        config: Any = model.config
        check_number("class_dropout", class_dropout, low=0, high=1)
        check_number("time_scale", time_scale, low=0, open_low=True)
        sample = config.sample_size if size is None else size
        if sample is None:
            raise ValueError("the network's configuration has no sample_size: give size, the side of the images")
        self.size = int(sample if isinstance(sample, int) else sample[0])
        self.model, self.time_scale = model, time_scale
        self.in_channels: int = config.in_channels
        self.learn_sigma: bool = config.out_channels == 2 * config.in_channels
        self.num_classes: int = config.num_class_embeds or 0
        if null_class is not None:
            if not self.num_classes:
                raise ValueError("null_class needs a network with class labels, and this one has none")
            check_number("null_class", null_class, low=0, high=self.num_classes - 1, integer=True)
        self.null_class = null_class
        self.class_dropout = class_dropout if null_class is not None else 0.0
        table = list(_unet_blocks(model, self.size))
        self.blocks = [BlockInfo(i, stage, width, side) for i, (_, stage, width, side) in enumerate(table, 1)]
        self._outputs = [part for part, *_ in table]

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | PathLike[str],
        *,
        subfolder: str | None = None,
        revision: str | None = None,
        local_files_only: bool = False,
        null_class: int | None = None,
        class_dropout: float = 0.1,
    ) -> UNetAdapter:
        """Load a ``UNet2DModel`` from a folder or the Hugging Face hub."""
        model = _load("UNet2DModel", name_or_path, subfolder, revision, local_files_only)
        return cls(model, null_class=null_class, class_dropout=class_dropout)

    @property
    def depth(self) -> int:
        """Number of blocks."""
        return len(self.blocks)

    def table(self) -> str:
        """Return the block table as text."""
        rows = [f"{b.index:5}  {b.stage:6}  {b.channels:8}  {b.resolution:10}" for b in self.blocks]
        return "\n".join(["block  stage   channels  resolution", *rows])

    def forward(
        self,
        x: Float[Tensor, "batch channels height width"],
        t: Float[Tensor, " batch"],
        y: Int[Tensor, " batch"] | None = None,
        *,
        taps: Sequence[int] = (),
        stop_at: int | None = None,
    ) -> Output:
        """Return the prediction, ``None`` after an early exit, and the maps of the blocks in ``taps``."""
        model: Any = self.model
        if x.ndim != 4 or x.shape[1] != self.in_channels:
            raise ValueError(f"x must have shape (n, {self.in_channels}, height, width), got {tuple(x.shape)}")
        _check_labels(y, model.class_embedding is not None, self.num_classes)
        times = t * self.time_scale
        if model.config.time_embedding_type == "learned":
            times = times.round().long()
        seen = x.to(model.dtype)
        out, found = run_tapped(
            lambda: model(seen, times, class_labels=y, return_dict=False)[0], self._outputs, taps=taps, stop_at=stop_at
        )
        return Output(None if out is None else out.to(x.dtype), found)


class DiTAdapter(nn.Module):
    """A ``diffusers.DiTTransformer2DModel`` with the call of this package's networks, taps and early exit.

    Taps are the outputs of its transformer blocks, one vector per token. Dropping labels is left to the training
    objective: the library's own, which a network in training mode adds, is switched off. A network with twice as many
    output channels has a learned variance, see :func:`holdfast.diffusion.samplers.ddpm`.

    Args:
        model: the network.
        time_scale: factor on times; 1 where the network was trained on times in steps.

    Raises:
        TypeError: for a network of another kind.

    Examples:
        >>> net = DiTAdapter.from_pretrained("facebook/DiT-XL-2-256", subfolder="transformer")  # doctest: +SKIP
        >>> net.depth, net.null_class  # doctest: +SKIP
        (28, 1000)
    """

    def __init__(self, model: nn.Module, *, time_scale: float = 1.0) -> None:
        super().__init__()
        _check_kind(model, "DiTTransformer2DModel", ("pos_embed", "transformer_blocks", "proj_out_2"))
        config: Any = model.config
        check_number("time_scale", time_scale, low=0, open_low=True)
        self.model, self.time_scale = model, time_scale
        self.in_channels: int = config.in_channels
        out_channels = config.in_channels if config.out_channels is None else config.out_channels
        self.learn_sigma: bool = out_channels == 2 * config.in_channels
        self.size = (config.sample_size, config.sample_size)
        self.patch: int = config.patch_size
        self.grid = (config.sample_size // config.patch_size,) * 2
        self.width: int = config.num_attention_heads * config.attention_head_dim
        self.heads: int = config.num_attention_heads
        self.num_classes: int = config.num_embeds_ada_norm
        self.class_dropout = 0.0
        for part in model.modules():
            if type(part).__name__ == "LabelEmbedding":
                self.class_dropout = max(self.class_dropout, float(part.dropout_prob))  # pyright: ignore
                part.dropout_prob = 0.0  # pyright: ignore[reportArgumentType]

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | PathLike[str],
        *,
        subfolder: str | None = None,
        revision: str | None = None,
        local_files_only: bool = False,
    ) -> DiTAdapter:
        """Load a ``DiTTransformer2DModel`` from a folder or the Hugging Face hub."""
        return cls(_load("DiTTransformer2DModel", name_or_path, subfolder, revision, local_files_only))

    @property
    def depth(self) -> int:
        """Number of blocks."""
        return len(self.model.transformer_blocks)  # pyright: ignore[reportArgumentType]

    @property
    def null_class(self) -> int:
        """The label that stands for no class."""
        return self.num_classes

    def forward(
        self,
        x: Float[Tensor, "batch channels height width"],
        t: Float[Tensor, " batch"],
        y: Int[Tensor, " batch"] | None = None,
        *,
        taps: Sequence[int] = (),
        stop_at: int | None = None,
    ) -> Output:
        """Return the prediction, ``None`` after an early exit, and the tokens of the blocks in ``taps``."""
        model: Any = self.model
        if x.ndim != 4 or tuple(x.shape[1:]) != (self.in_channels, *self.size):
            want = f"(n, {self.in_channels}, {self.size[0]}, {self.size[1]})"
            raise ValueError(f"x must have shape {want}, got {tuple(x.shape)}")
        _check_labels(y, True, self.num_classes + (1 if self.class_dropout > 0 else 0))
        seen, times = x.to(model.dtype), t * self.time_scale
        out, found = run_tapped(
            lambda: model(seen, times, class_labels=y, return_dict=False)[0],
            list(model.transformer_blocks),
            taps=taps,
            stop_at=stop_at,
        )
        return Output(None if out is None else out.to(x.dtype), found)


def _unet_blocks(model: Any, size: int) -> Iterator[tuple[nn.Module, Literal["down", "middle", "up"], int, int]]:
    """Yield for every numbered block: the module whose output is the block's, its stage, channels and resolution."""
    side = size
    yield model.conv_in, "down", model.conv_in.out_channels, side
    for block in model.down_blocks:
        for part, channels in _residual_outputs(block):
            yield part, "down", channels, side
        smaller = getattr(block, "resnet_down", None) or (getattr(block, "downsamplers", None) or [None])[-1]
        if smaller is not None:
            side //= 2
            yield smaller, "down", block.resnets[-1].out_channels, side
    if model.mid_block is not None:
        yield model.mid_block, "middle", model.mid_block.resnets[-1].out_channels, side
    for block in model.up_blocks:
        *first, (last, channels) = _residual_outputs(block)
        for part, width in first:
            yield part, "up", width, side
        # Blocks with a skip of pixels have an up-sampler for that skip; their features grow in resnet_up.
        larger = getattr(block, "resnet_up", None) or (getattr(block, "upsamplers", None) or [None])[-1]
        if larger is not None:
            side *= 2
        yield last if larger is None else larger, "up", channels, side


def _residual_outputs(block: Any) -> list[tuple[nn.Module, int]]:
    attentions = list(getattr(block, "attentions", None) or [])
    outputs = list(block.resnets)
    if attentions:  # one behind each residual block, or one behind the last
        outputs[len(outputs) - len(attentions) :] = attentions
    return [(part, resnet.out_channels) for part, resnet in zip(outputs, block.resnets)]


def _check_kind(model: nn.Module, name: str, parts: Sequence[str]) -> None:
    if not isinstance(model, nn.Module) or not all(hasattr(model, p) for p in (*parts, "config")):
        raise TypeError(f"expected a diffusers {name}, got {type(model).__name__}")


def _check_labels(y: Tensor | None, conditional: bool, rows: int) -> None:
    if y is None and conditional:
        raise ValueError("this model needs labels: one per sample")
    if y is not None and not conditional:
        raise ValueError("this model takes no labels: it was made without classes")
    if y is None or y.is_floating_point() or not rows or y.device.type != "cpu" or not y.numel():
        return
    if not 0 <= int(y.min()) <= int(y.max()) < rows:
        raise ValueError(f"labels must lie in [0, {rows}), got {int(y.min())} to {int(y.max())}")


def _load(kind: str, name: str | PathLike[str], subfolder: str | None, revision: str | None, local: bool) -> nn.Module:
    loader: Any = getattr(import_diffusers(), kind)
    options = {"revision": revision, "local_files_only": local}
    if subfolder is not None:
        options["subfolder"] = subfolder
    return loader.from_pretrained(name, **options).eval()
