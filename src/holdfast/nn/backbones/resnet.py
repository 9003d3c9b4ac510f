"""A residual network for images of any size."""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.nn import functional as F

from holdfast.nn.backbones.convnet import conv_norm, image_stem
from holdfast.nn.standardize import Standardize

__all__ = ["BasicBlock", "ResNet"]


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions around a residual connection; the branch starts at zero.

    Source: He et al., "Deep residual learning for image recognition", CVPR 2016, figure 5 (left).

    Examples:
        >>> import torch
        >>> BasicBlock(8, 16, stride=2)(torch.zeros(1, 8, 4, 4)).shape
        torch.Size([1, 16, 2, 2])
    """

    def __init__(self, inputs: int, outputs: int, *, stride: int = 1) -> None:
        super().__init__()
        self.first = conv_norm(inputs, outputs, stride=stride)
        self.second = conv_norm(outputs, outputs)
        # Zero gain at the end of the branch: the block starts as the identity (Goyal et al., 2017, section 5.1).
        nn.init.zeros_(self.second.get_parameter("1.weight"))
        same = inputs == outputs and stride == 1
        self.shortcut = nn.Identity() if same else conv_norm(inputs, outputs, kernel=1, stride=stride)

    def forward(self, x: Float[Tensor, "batch inputs height width"]) -> Float[Tensor, "batch outputs height2 width2"]:
        """Return ``relu(shortcut(x) + branch(x))``."""
        return F.relu(self.shortcut(x) + self.second(F.relu(self.first(x))))


class ResNet(nn.Module):
    """Residual network with group normalisation in place of batch normalisation.

    Group normalisation keeps a sample's features apart from the batch it came in: no running statistics that go
    stale under a shift, no failure on a batch of one.

    Args:
        shape: (C, H, W) of the images; any size, any number of channels.
        widths: channels of every stage; the last is ``out_dim``. Every stage but the first halves the map.
        blocks: residual blocks of every stage.
        resolution: short side of the map of the first stage.
        mean, std: per channel.

    Source: He et al., "Deep residual learning for image recognition", CVPR 2016; Wu and He, "Group
    normalization", ECCV 2018.

    Examples:
        >>> import torch
        >>> ResNet((3, 16, 16), widths=(8, 16), blocks=(1, 1), resolution=8)(torch.zeros(2, 3, 16, 16)).shape
        torch.Size([2, 16])
    """

    def __init__(
        self,
        shape: Sequence[int],
        *,
        widths: Sequence[int],
        blocks: Sequence[int],
        resolution: int,
        mean: Sequence[float] = (),
        std: Sequence[float] = (),
    ) -> None:
        super().__init__()
        if len(widths) != len(blocks):
            raise ValueError(f"widths and blocks must be equally long, got {len(widths)} and {len(blocks)}")
        self.out_dim = widths[-1]
        self.standardize = Standardize(shape[0], mean, std, dim=1)
        self.stem = image_stem(shape, widths[0], resolution)
        layers = []
        inputs = widths[0]
        for i, (width, count) in enumerate(zip(widths, blocks)):
            for j in range(count):
                layers.append(BasicBlock(inputs, width, stride=2 if i > 0 and j == 0 else 1))
                inputs = width
        self.stages = nn.Sequential(*layers)

    def feature_map(self, x: Shaped[Tensor, "batch channels height width"]) -> Float[Tensor, "batch out rows columns"]:
        """Return the last map."""
        return self.stages(self.stem(self.standardize(x)))

    def forward(self, x: Shaped[Tensor, "batch channels height width"]) -> Float[Tensor, "batch out"]:
        """Return the spatial mean of the last map."""
        return self.feature_map(x).mean(dim=(2, 3))
