"""Training, evaluation, checkpoints and seeds."""
