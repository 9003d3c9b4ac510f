"""Shifts: what moves between environments, on arrays and images, seeded and vectorised."""

from holdfast.data.shifts.correlated import (
    spurious_background_environments,
    spurious_colour_environments,
    spurious_feature_environments,
)
from holdfast.data.shifts.corruptions import CORRUPTIONS, corrupt
from holdfast.data.shifts.geometry import rotate, rotate_vectors, scale, translate
from holdfast.data.shifts.label_noise import (
    instance_dependent_label_noise,
    next_class_noise,
    pairwise_label_noise,
    uniform_label_noise,
)
from holdfast.data.shifts.moved import (
    corruption_environments,
    rotation_environments,
    scale_environments,
    translation_environments,
)
from holdfast.data.shifts.resampled import (
    covariate_shift_environments,
    label_noise_environments,
    label_prior_environments,
    long_tail_environments,
)
from holdfast.data.shifts.sampling import (
    covariate_environments,
    label_prior_subsample,
    long_tail_subsample,
    tilted_priors,
)
from holdfast.data.shifts.spurious import append_feature, paint_background, palette, spurious_attribute, tint
from holdfast.data.shifts.table import SHIFTS, apply_shift, shift_parameters

__all__ = [
    "CORRUPTIONS",
    "SHIFTS",
    "append_feature",
    "apply_shift",
    "corrupt",
    "corruption_environments",
    "covariate_environments",
    "covariate_shift_environments",
    "instance_dependent_label_noise",
    "label_noise_environments",
    "label_prior_environments",
    "label_prior_subsample",
    "long_tail_environments",
    "long_tail_subsample",
    "next_class_noise",
    "paint_background",
    "pairwise_label_noise",
    "palette",
    "rotate",
    "rotate_vectors",
    "rotation_environments",
    "scale",
    "scale_environments",
    "shift_parameters",
    "spurious_attribute",
    "spurious_background_environments",
    "spurious_colour_environments",
    "spurious_feature_environments",
    "tilted_priors",
    "tint",
    "translate",
    "translation_environments",
    "uniform_label_noise",
]
