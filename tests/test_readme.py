"""What the README tells people to type works as it stands there."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import pipeline.config.compose
from pipeline.cli import main
from pipeline.store.record import read_records

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
IDS = (10, 20, 30, 40, 50)


def block(start: str) -> str:
    return next(b for b in re.findall(r"```\w*\n(.*?)```", README, re.DOTALL) if start in b)


@pytest.fixture
def rooms(tmp_path, monkeypatch):
    """The README's data set: pairs of photographs and masks, and its YAML among the others."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "my rooms"
    for split, count in (("train", 8), ("val", 2)):
        for kind in ("photos", "masks"):
            (folder / kind / split).mkdir(parents=True)
        for i in range(count):
            image = rng.integers(0, 255, (120, 160, 3), dtype=np.uint8)
            label = np.repeat(rng.choice(IDS, (12, 16)), 10, 0).repeat(10, 1).astype(np.uint8)
            label[:5] = 0
            Image.fromarray(image).save(folder / "photos" / split / f"{i}.jpg")
            Image.fromarray(label).save(folder / "masks" / split / f"{i}_mask.png")
    conf = tmp_path / "conf"
    shutil.copytree(pipeline.config.compose.CONF, conf)
    text = block("name: rooms").replace("/my/rooms", str(folder))
    (conf / "dataset" / "rooms.yaml").write_text(text)
    monkeypatch.setattr(pipeline.config.compose, "CONF", conf)
    shutil.copy(ROOT / "params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    return folder


def test_a_data_set_of_ones_own(rooms, single_thread, capsys):
    before = sorted(path.stat().st_mtime_ns for path in rooms.rglob("*"))
    short = ["schedule.steps=2", "schedule.log_every=2", "schedule.checkpoint_every=2"]
    for line in block("ecocseg fetch dataset=rooms").strip().splitlines():
        program, *arguments = line.split()
        assert program == "ecocseg"
        extra = [*short, "tracking.enabled=false"] if arguments[0] == "train" else []
        assert main([*arguments, *extra]) == 0, capsys.readouterr().err
    assert Path("data/processed/rooms/overlay_train.png").is_file()
    (record,) = read_records(Path("results/records"))
    assert record["classes"] == ["floor", "wall", "door", "window", "furniture"]
    assert record["spec"]["encoding"]["codebook"] == "mmd"
    assert sorted(path.stat().st_mtime_ns for path in rooms.rglob("*")) == before


def test_the_notebook_example():
    scope: dict = {}
    exec(block("mine_reliable_bits(logits"), scope)
    assert scope["logits"].grad.isfinite().all()
    assert scope["classes"].shape == (2, 64, 64)


def test_every_command_and_target_it_names_exists():
    from pipeline.cli import _COMMANDS

    named = set(
        re.findall(r"ecocseg ([a-z]+)\b", "\n".join(re.findall(r"```\n.*?```", README, re.DOTALL)))
    )
    assert named <= set(_COMMANDS)
    targets = set(re.findall(r"^([a-z-]+):.*##", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"make ([a-z-]+)", README)) - {"alone"} <= targets
