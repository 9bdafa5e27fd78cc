"""Stages of the pipeline: what `dvc repro` runs, one module each."""
