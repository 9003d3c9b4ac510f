"""Diffusion models: processes, targets, networks and samplers as four different things."""
