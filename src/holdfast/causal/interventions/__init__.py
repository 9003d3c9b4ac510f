"""The effect of actions that were never tried: a code that actions move linearly, and a control function on it."""

from holdfast.causal.interventions.control_function import ControlFunctionRegressor, ShiftDiagnostics
from holdfast.causal.interventions.extrapolator import InterventionExtrapolator
from holdfast.causal.interventions.instrumental import LinearEffect, two_stage_least_squares
from holdfast.causal.interventions.invariant_autoencoder import (
    Autoencoder,
    InvariantAutoencoder,
    LambdaChoice,
    PlainAutoencoder,
    UnconditionalVAE,
    reconstruction_error,
    select_lambda,
    train_invariant_autoencoder,
)
from holdfast.causal.interventions.linear_invariance import LinearInvariancePenalty, MMRTest, mmr_test
from holdfast.causal.interventions.report import DoPrediction, IdentifiabilityReport

__all__ = [
    "Autoencoder",
    "ControlFunctionRegressor",
    "DoPrediction",
    "IdentifiabilityReport",
    "InterventionExtrapolator",
    "InvariantAutoencoder",
    "LambdaChoice",
    "LinearEffect",
    "LinearInvariancePenalty",
    "MMRTest",
    "PlainAutoencoder",
    "ShiftDiagnostics",
    "UnconditionalVAE",
    "mmr_test",
    "reconstruction_error",
    "select_lambda",
    "train_invariant_autoencoder",
    "two_stage_least_squares",
]
