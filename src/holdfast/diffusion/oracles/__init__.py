"""Exact denoisers of known laws: samplers are tested against them with no training."""
