import numpy as np
import pytest

from holdfast.data import log_counts


def test_log_counts_are_shares_on_a_log_scale():
    counts = np.array([[1, 3], [0, 2]])
    np.testing.assert_allclose(np.expm1(log_counts(counts)).sum(1), 1e4)
    np.testing.assert_allclose(np.expm1(log_counts(counts, [8, 4])), 1e4 * counts / [[8], [4]])
    with pytest.raises(ValueError, match="cell 1 has no counts"):
        log_counts([[1, 1], [0, 0]])
    with pytest.raises(ValueError, match="counts must be non-negative, got -1"):
        log_counts([[1, -1]])
