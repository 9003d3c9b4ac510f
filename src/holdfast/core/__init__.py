"""The ground floor: estimators, the training loop, random state, input checks, saving."""
