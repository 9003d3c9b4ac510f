"""Samplers: plain functions from a model and noise to samples, each named as in the literature."""

from holdfast.diffusion.samplers.ancestral import ddpm
from holdfast.diffusion.samplers.implicit import ddim, ddim_invert
from holdfast.diffusion.samplers.ode import euler, heun
from holdfast.diffusion.samplers.sde import euler_maruyama
from holdfast.diffusion.samplers.time_grid import TimeGrid, prior, time_grid

__all__ = ["TimeGrid", "ddim", "ddim_invert", "ddpm", "euler", "euler_maruyama", "heun", "prior", "time_grid"]
