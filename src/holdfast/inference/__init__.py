"""Composable Bayesian inference: programs, and transformations that keep what they mean."""
