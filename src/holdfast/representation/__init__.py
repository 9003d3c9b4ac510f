"""Representations made to last, and what reads them."""

from holdfast.representation.probe import LinearProbe
from holdfast.representation.probe_head import ProbeHead

__all__ = ["LinearProbe", "ProbeHead"]
