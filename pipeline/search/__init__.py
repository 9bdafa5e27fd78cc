"""The hyperparameter search, on Ray Tune."""
