"""Data sets, from raw layouts to training batches."""
