import shutil
from pathlib import Path

import pytest
import yaml

from pipeline.config.params import Params, load_params

ROOT = Path(__file__).parents[2]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty project folder, in which the test runs."""
    shutil.copy(ROOT / "params.yaml", tmp_path)
    (tmp_path / ".dvc/tmp").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def params(project: Path):
    """Parameters with fields changed: params(tracking__enabled=False)."""

    def make(**changes: object) -> Params:
        return load_params(
            [f"{k.replace('__', '.')}={yaml.safe_dump(v)}" for k, v in changes.items()]
        )

    return make
