"""scikit-learn's own checks, and what every learner of the library promises."""

from __future__ import annotations

import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

from holdfast.shift import CORAL, DANN, ERM, IRM, ERMRegressor, GroupDRO, Mixup, VREx

OPTIONS = {"epochs": 40, "lr": 1e-2, "size": "tiny", "random_state": 0}
LEARNERS = [ERM, GroupDRO, CORAL, IRM, VREx, Mixup, DANN, ERMRegressor]


@pytest.mark.filterwarnings("ignore:.*compares environments:UserWarning")
@parametrize_with_checks([cls(**OPTIONS) for cls in LEARNERS])
def test_scikit_learn_conventions(estimator, check):
    check(estimator)
