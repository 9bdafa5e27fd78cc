"""Data sets as they stand in pipeline/conf/dataset."""

from ecocseg.data.config import DatasetConfig
from pipeline.config.compose import load_yaml


def load_dataset(name: str) -> DatasetConfig:
    """The data set described by pipeline/conf/dataset/<name>.yaml."""
    return DatasetConfig.from_mapping(load_yaml("dataset", name))
