"""Composable Bayesian inference: programs, and transformations that keep what they mean."""

from holdfast.inference.ancestors import ancestors
from holdfast.inference.distributions import Bernoulli, Categorical, Distribution, Normal, TorchDistribution, Uniform
from holdfast.inference.effects import Effect, Program, Sample, Score, observe, score
from holdfast.inference.enumeration import enumerate_measure, enumerate_paths
from holdfast.inference.green import Kernel, green_kernel
from holdfast.inference.log_weights import effective_sample_size, log_mean_exp, log_total
from holdfast.inference.mh import MHResult, Proposal, Proposals, mh, mh_move, mh_propose, mh_step, moved
from holdfast.inference.pmmh import pmmh, with_parameters
from holdfast.inference.population import Population, collapse, flatten, population, push_evidence, resample, spawn
from holdfast.inference.preserves import Report, check_preserves, total_variation
from holdfast.inference.programs import Weighted, auxiliary, bind, run, unit
from holdfast.inference.resample_move import rejuvenation, resample_move
from holdfast.inference.resampling import RESAMPLERS, resample_indices
from holdfast.inference.smc import smc, stepwise_smc
from holdfast.inference.smc2 import smc2
from holdfast.inference.state_space import FilterResult, smc_state_space
from holdfast.inference.suspended import Suspended, suspend
from holdfast.inference.traces import Address, Choice, Trace, check_replayable, draw_trace, freeze, marginal, trace
from holdfast.inference.weighted import WeightedSamples, importance, unweighted, weighted

__all__ = [
    "RESAMPLERS",
    "Address",
    "Bernoulli",
    "Categorical",
    "Choice",
    "Distribution",
    "Effect",
    "FilterResult",
    "Kernel",
    "MHResult",
    "Normal",
    "Population",
    "Program",
    "Proposal",
    "Proposals",
    "Report",
    "Sample",
    "Score",
    "Suspended",
    "TorchDistribution",
    "Trace",
    "Uniform",
    "Weighted",
    "WeightedSamples",
    "ancestors",
    "auxiliary",
    "bind",
    "check_preserves",
    "check_replayable",
    "collapse",
    "draw_trace",
    "effective_sample_size",
    "enumerate_measure",
    "enumerate_paths",
    "flatten",
    "freeze",
    "green_kernel",
    "importance",
    "log_mean_exp",
    "log_total",
    "marginal",
    "mh",
    "mh_move",
    "mh_propose",
    "mh_step",
    "moved",
    "observe",
    "pmmh",
    "population",
    "push_evidence",
    "rejuvenation",
    "resample",
    "resample_indices",
    "resample_move",
    "run",
    "score",
    "smc",
    "smc2",
    "smc_state_space",
    "spawn",
    "stepwise_smc",
    "suspend",
    "total_variation",
    "trace",
    "unit",
    "unweighted",
    "weighted",
    "with_parameters",
]
