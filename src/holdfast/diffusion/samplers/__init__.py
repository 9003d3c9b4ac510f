"""Samplers: plain functions from a model and noise to samples, each named as in the literature."""

from holdfast.diffusion.samplers.ancestral import ddpm
from holdfast.diffusion.samplers.implicit import ddim, ddim_invert
from holdfast.diffusion.samplers.inpainting import inpaint
from holdfast.diffusion.samplers.karras import edm_heun, karras_sigmas
from holdfast.diffusion.samplers.ode import euler, heun
from holdfast.diffusion.samplers.sde import euler_maruyama
from holdfast.diffusion.samplers.time_grid import TimeGrid, prior, time_grid

__all__ = [
    "TimeGrid",
    "ddim",
    "ddim_invert",
    "ddpm",
    "edm_heun",
    "euler",
    "euler_maruyama",
    "heun",
    "inpaint",
    "karras_sigmas",
    "prior",
    "time_grid",
]
