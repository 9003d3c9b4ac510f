"""Causal representations: codes on which interventions extrapolate."""
