"""A copy of the project with tiny data, in which commands run as a user types them."""

import shutil
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]


def copy_project(folder: Path) -> None:
    """What commands need of the project, in `folder`; streets of a few images of 48x96."""
    ignore = shutil.ignore_patterns("__pycache__", "tmp", "cache")
    for name in ("ecocseg", "pipeline", ".dvc"):
        shutil.copytree(ROOT / name, folder / name, ignore=ignore)
    for name in ("dvc.yaml", "params.yaml", ".gitignore", ".dvcignore"):
        shutil.copy(ROOT / name, folder)
    for name, counts in (("game", {"train": 8}), ("camera", {"train": 16, "val": 4})):
        path = folder / f"pipeline/conf/dataset/streets_{name}.yaml"
        dataset = yaml.safe_load(path.read_text())
        dataset["raw"] |= {"counts": counts, "height": 48, "width": 96}
        path.write_text(yaml.safe_dump(dataset))
