"""Tables of features, computed once and kept on disk."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import safetensors.torch
import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError
from torch import Tensor, nn

from holdfast.core.arrays import as_tensor
from holdfast.core.checkpoint import atomic_write
from holdfast.core.checks import check_number
from holdfast.core.progress import ProgressBar

if TYPE_CHECKING:
    from holdfast.diffusion.features import DiffusionFeatures, Key

__all__ = ["FeatureTable", "extract", "model_hash"]


@dataclass(frozen=True)
class FeatureTable:
    """Feature maps of one data set, by (time, block).

    Examples:
        >>> table = FeatureTable({(90.0, 4): torch.zeros(5, 8, 2, 2)})
        >>> len(table), table.flat(90, 4).shape
        (5, torch.Size([5, 32]))
    """

    maps: Mapping[Key, Float[Tensor, "rows channels d d"]]

    def __len__(self) -> int:
        return len(next(iter(self.maps.values())))

    def __getitem__(self, key: Key) -> Float[Tensor, "rows channels d d"]:
        """Return the maps of a time and a block."""
        t, block = key
        if (float(t), int(block)) not in self.maps:
            raise KeyError(f"no features of time {t} and block {block}; the table has {list(self.maps)}")
        return self.maps[float(t), int(block)]

    def flat(self, t: float, block: int) -> Float[Tensor, "rows features"]:
        """Return one vector per row: the map, channel by channel."""
        return self[t, block].flatten(1)

    def keys(self) -> Iterator[Key]:
        """Return the times and blocks of the table."""
        return iter(self.maps)

    def rows(self, index: Int[Tensor, " n"]) -> FeatureTable:
        """Return the table of some rows."""
        return FeatureTable({k: h[index] for k, h in self.maps.items()})


def _update(digest: Any, *tensors: Tensor) -> None:
    for x in tensors:
        x = x.detach().cpu().contiguous()
        digest.update(f"{x.dtype} {tuple(x.shape)}".encode())
        digest.update(x.reshape(-1).view(torch.uint8).numpy().tobytes())


def model_hash(model: nn.Module) -> str:
    """Return a hash of everything a model's features depend on: classes, settings, weights and the path's numbers.

    Examples:
        >>> a, b = nn.Linear(2, 2), nn.Linear(2, 2)
        >>> model_hash(a) == model_hash(b), model_hash(a) == model_hash(a)
        (False, True)
    """
    digest = hashlib.sha256()
    for name, module in model.named_modules():
        plain = {k: v for k, v in vars(module).items() if isinstance(v, (int, float, str, tuple)) and k != "training"}
        digest.update(f"{name} {type(module).__qualname__} {sorted(plain.items(), key=lambda kv: kv[0])}".encode())
    for name, x in model.state_dict().items():
        digest.update(name.encode())
        _update(digest, x)
    path = getattr(model, "path", None)
    if path is not None:
        digest.update(type(path).__qualname__.encode())
        for name, value in sorted(vars(path).items()):
            digest.update(name.encode())
            if isinstance(value, Tensor):
                _update(digest, value)
            else:
                digest.update(repr(value).encode())
    return digest.hexdigest()


def extract(
    features: DiffusionFeatures,
    images: Any,
    y: Any = None,
    *,
    batch_size: int = 256,
    cache: str | Path | None = None,
    generator: torch.Generator | None = None,
    progress: bool = False,
) -> FeatureTable:
    """Return the features of every image, on the CPU.

    With ``cache``, a folder, each time's maps are kept in a file that is named by a hash of the model, the data, the
    labels and the settings, and only what is missing is computed: a sweep that was stopped goes on.

    Args:
        features: what is computed.
        images: (n, ...) tensor or array.
        y: labels (n,) of a class-conditional network, or one number for all.
        batch_size: images per pass.
        cache: folder of the tables; created where it is missing.
        generator: of fresh noise.
        progress: show a bar.

    Raises:
        ValueError: for no images, labels of another length, or fresh noise with a cache.
    """
    x = as_tensor(images)
    check_number("batch_size", batch_size, low=1, integer=True)
    if len(x) == 0:
        raise ValueError("images holds no samples")
    if y is not None and not isinstance(y, int):
        y = as_tensor(y)
        if len(y) != len(x):
            raise ValueError(f"lengths differ: images has {len(x)}, y has {len(y)}")
    if cache is not None and features.noise == "fresh":
        raise ValueError('fresh noise differs at every call and cannot be kept; use noise="fixed" with a cache')
    names: dict[float, Path] = {}
    if cache is not None:
        folder = Path(cache)
        folder.mkdir(parents=True, exist_ok=True)
        names = {t: folder / f"{_name(features, x, y, t)}.safetensors" for t in features.times}
    found: dict[Key, Tensor] = {}
    missing = []
    for t in features.times:
        kept = _read(names.get(t))
        if all(str(b) in kept for b in features.blocks):
            found |= {(t, b): kept[str(b)] for b in features.blocks}
        else:
            missing.append(t)
    with ProgressBar("features", total=len(x) * len(missing), enabled=progress, measure=None) as bar:
        for i, t in enumerate(missing):
            maps = _pass(features, x, y, t, batch_size, generator, lambda n, i=i: bar.tick(i * len(x) + n))
            found |= {(t, b): h for b, h in maps.items()}
            if t in names:
                kept = _read(names[t]) | {str(b): h for b, h in maps.items()}
                blob = safetensors.torch.save({k: h.contiguous() for k, h in kept.items()})
                atomic_write(names[t], lambda f, blob=blob: f.write(blob))
    return FeatureTable({key: found[key] for key in features.keys})


def _pass(
    features: DiffusionFeatures,
    x: Tensor,
    y: Any,
    t: float,
    batch_size: int,
    generator: torch.Generator | None,
    done: Callable[[int], None],
) -> dict[int, Tensor]:
    """Return the maps of all rows at one time."""
    device = next((p.device for p in features.model.parameters()), torch.device("cpu"))
    parts: list[dict[int, Tensor]] = []
    for rows in torch.arange(len(x)).split(batch_size):
        labels = y if y is None or isinstance(y, int) else y[rows]
        h = features.at(x[rows].to(device), t, labels, rows=rows.to(device), generator=generator)
        parts.append({b: v.cpu() for b, v in h.items()})
        done(int(rows[-1]) + 1)
    return {b: torch.cat([p[b] for p in parts]) for b in features.blocks}


def _name(features: DiffusionFeatures, x: Tensor, y: Any, t: float) -> str:
    """Return the name of the file that holds what ``features`` makes of this data at this time."""
    digest = hashlib.sha256(model_hash(features.model).encode())
    if features.feedback is not None:
        digest.update(f"{model_hash(features.feedback)} {features.feedback.sources}".encode())
    settings = (features.pool, features.noise, features.draws, features.seed, t, y if isinstance(y, int) else None)
    digest.update(repr(settings).encode())
    _update(digest, x, *([y] if isinstance(y, Tensor) else []))
    return digest.hexdigest()[:32]


def _read(path: Path | None) -> dict[str, Tensor]:
    """Return the maps in a file by block; a file that is not there, or not whole, holds none."""
    if path is None or not path.is_file():
        return {}
    try:
        return safetensors.torch.load_file(path)
    except SafetensorError:
        return {}
