"""Neural subset selection: which elements of a ground set belong together, in view of the whole set."""

from holdfast.distribution.subsets.baselines import (
    DeepSetScorer,
    ProbabilisticGreedy,
    RandomSubset,
    SetTransformerScorer,
)
from holdfast.distribution.subsets.copula import CopulaBernoulli
from holdfast.distribution.subsets.dataset import SubsetBatch, SubsetDataset, sample_negatives
from holdfast.distribution.subsets.enumeration import all_subsets, exact_gains, exact_lower_bound, subset_law
from holdfast.distribution.subsets.jaccard import jaccard
from holdfast.distribution.subsets.mean_field import MeanFieldSubsetModel
from holdfast.distribution.subsets.model import SubsetModel, membership_loss
from holdfast.distribution.subsets.recognition import RecognitionNetwork
from holdfast.distribution.subsets.selector import SubsetSelector
from holdfast.distribution.subsets.size_rules import SizeRule, choose_subset, expected_jaccard, take_top
from holdfast.distribution.subsets.training import subset_jaccard, train_subsets
from holdfast.distribution.subsets.utility import BACKGROUNDS, Background, SubsetUtility, make_subset_utility
from holdfast.distribution.subsets.worlds import (
    make_anomaly_sets,
    make_class_sets,
    make_gaussian_sets,
    make_relative_utility_sets,
    make_two_moons_sets,
)

__all__ = [
    "BACKGROUNDS",
    "Background",
    "CopulaBernoulli",
    "DeepSetScorer",
    "MeanFieldSubsetModel",
    "ProbabilisticGreedy",
    "RandomSubset",
    "RecognitionNetwork",
    "SetTransformerScorer",
    "SizeRule",
    "SubsetBatch",
    "SubsetDataset",
    "SubsetModel",
    "SubsetSelector",
    "SubsetUtility",
    "all_subsets",
    "choose_subset",
    "exact_gains",
    "exact_lower_bound",
    "expected_jaccard",
    "jaccard",
    "make_anomaly_sets",
    "make_class_sets",
    "make_gaussian_sets",
    "make_relative_utility_sets",
    "make_subset_utility",
    "make_two_moons_sets",
    "membership_loss",
    "sample_negatives",
    "subset_jaccard",
    "subset_law",
    "take_top",
    "train_subsets",
]
