"""Makes `raw_trees`, the small data sets of the data tests, importable, and serves files."""

import sys
from pathlib import Path

import pytest

sys.path[:0] = [str(Path(__file__).parents[1] / "data"), str(Path(__file__).parent)]


@pytest.fixture
def server():
    from file_server import serving

    with serving() as running:
        yield running


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch):
    monkeypatch.setattr("pipeline.sources.download._PAUSE", 0.01)


@pytest.fixture
def bring(tmp_path):
    """Run the stage; returns the receipts by name."""

    from pipeline.sources.receipts import read_receipt
    from pipeline.stages.fetch import fetch

    def call(*configs, **data):
        root = tmp_path / "data"
        fetch({"data": {"root": str(root), "workers": 1, **data}}, configs)
        return {config.name: read_receipt(root, config.name) for config in configs}

    return call


@pytest.fixture
def camvid(tmp_path):
    import raw_trees

    raw_trees.camvid(tmp_path / "mine", {"train": 3, "val": 2})
    return tmp_path / "mine"
