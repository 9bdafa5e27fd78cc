"""The rendered data set: deterministic, complete in its classes, exact in its file layouts."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ecocseg.data.classes import CITYSCAPES_19
from ecocseg.data.layouts import cityscapes, gta
from ecocseg.data.streets import Domain, dataset, render_scene, write_dataset
from ecocseg.errors import ConfigError, DataError

H, W = 48, 96
SCENES = 60
DOMAINS: tuple[Domain, ...] = ("game", "camera")
# Label ids as Cityscapes' own table has them, written out once more.
NAMED = {"road": 7, "building": 11, "sky": 23, "rail track": 10, "ego vehicle": 1, "static": 4}
TRAINED = [7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33]


def digests(root: Path) -> dict[str, str]:
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module", params=DOMAINS)
def shares(request: pytest.FixtureRequest) -> tuple[str, np.ndarray]:
    """Pixel counts [SCENES, 256] of label ids."""
    scenes = [render_scene(seed, request.param, H, W) for seed in range(SCENES)]
    counts = [np.bincount(scene.label_ids.ravel(), minlength=256) for scene in scenes]
    return request.param, np.stack(counts)


def test_every_class_is_common_enough_to_be_learnt_and_scored(
    shares: tuple[str, np.ndarray],
) -> None:
    _, counts = shares
    # More than a speck: as much as 40 pixels of the default's 96x192.
    seen = (counts[:, TRAINED] >= 10).mean(axis=0)
    assert seen.min() >= 0.12, dict(zip(CITYSCAPES_19.names, seen.round(2), strict=True))


def test_frequencies_are_those_of_a_street(shares: tuple[str, np.ndarray]) -> None:
    domain, counts = shares
    share = dict(zip(CITYSCAPES_19.names, counts[:, TRAINED].sum(0) / counts.sum(), strict=True))
    assert share["road"] + share["building"] > 0.35
    assert min(share["road"], share["building"]) > 5 * share["person"]
    assert share["car"] > max(share["truck"], share["bus"], share["train"])
    assert share["person"] > share["rider"] / 2
    assert max(share["motorcycle"], share["bicycle"], share["traffic light"]) < 0.02
    assert (counts[:, NAMED["ego vehicle"]].sum() > 0) == (domain == "camera")


def test_only_known_label_ids(shares: tuple[str, np.ndarray]) -> None:
    _, counts = shares
    drawn = set(np.flatnonzero(counts.sum(axis=0)).tolist())
    assert drawn <= {*TRAINED, NAMED["rail track"], NAMED["ego vehicle"], NAMED["static"]}


@pytest.mark.parametrize("domain", DOMAINS)
def test_sky_is_above_and_road_below(domain: Domain) -> None:
    rows = np.arange(H)[:, None] * np.ones((1, W))
    for seed in range(10):
        ids = render_scene(seed, domain, H, W).label_ids
        road = rows[ids == NAMED["road"]]
        assert road.mean() > H / 2
        sky = rows[ids == NAMED["sky"]]
        assert sky.size == 0 or sky.max() < road.max()
        assert sky.size == 0 or sky.mean() < H / 2


@settings(max_examples=12, deadline=None)
@given(
    seed=st.integers(0, 2**64),
    domain=st.sampled_from(DOMAINS),
    height=st.integers(32, 80),
    width=st.integers(32, 160),
)
def test_any_seed_and_size(seed: int, domain: Domain, height: int, width: int) -> None:
    scene = render_scene(seed, domain, height, width)
    again = render_scene(seed, domain, height, width)
    assert scene.image.shape == (height, width, 3)
    assert scene.labels.shape == (height, width)
    assert scene.image.dtype == scene.labels.dtype == np.uint8
    assert set(np.unique(scene.labels)) <= {*range(19), 255}
    np.testing.assert_array_equal(scene.image, again.image)
    np.testing.assert_array_equal(scene.label_ids, again.label_ids)
    expected = CITYSCAPES_19.lookup[scene.label_ids.astype(int)]
    np.testing.assert_array_equal(scene.labels, expected)


@pytest.mark.parametrize("domain", DOMAINS)
def test_a_larger_size_shows_the_same_street(domain: Domain) -> None:
    for seed in range(6):
        small = render_scene(seed, domain, 64, 128).label_ids
        large = render_scene(seed, domain, 128, 256).label_ids[::2, ::2]
        assert (small == large).mean() > 0.9


def test_scenes_and_domains_differ() -> None:
    images = [render_scene(seed, domain, H, W).image for domain in DOMAINS for seed in range(5)]
    assert len({image.tobytes() for image in images}) == len(images)


def test_domains_look_different() -> None:
    def saturation(domain: Domain) -> float:
        images = np.stack([render_scene(s, domain, H, W).image for s in range(20)]).astype(float)
        return float((images.max(-1) - images.min(-1)).mean())

    def grain(domain: Domain) -> float:
        images = np.stack([render_scene(s, domain, H, W).image for s in range(20)]).astype(float)
        return float(np.median(np.abs(np.diff(images, axis=2))))

    assert saturation("game") > 1.3 * saturation("camera")
    assert grain("camera") > 1.5 * grain("game")


def test_game_is_written_as_gtav(tmp_path: Path) -> None:
    write_dataset(tmp_path, "game", {"train": 3}, H, W, 5)
    assert set(digests(tmp_path)) == {
        *(f"images/0000{i}.png" for i in (1, 2, 3)),
        *(f"labels/0000{i}.png" for i in (1, 2, 3)),
        "streets.json",
    }
    with Image.open(tmp_path / "labels/00001.png") as label:
        assert label.mode == "P"
        values, colours = np.asarray(label), np.asarray(label.convert("RGB"))
    assert NAMED["road"] in values
    assert (colours[values == NAMED["road"]] == (128, 64, 128)).all()
    assert (colours[values == NAMED["building"]] == (70, 70, 70)).all()
    with Image.open(tmp_path / "images/00001.png") as image:
        assert (image.mode, image.size) == ("RGB", (W, H))
    found = gta.listing(tmp_path, "train", {})
    assert not found.faults
    assert len(found.items) == 3


def test_camera_is_written_as_cityscapes(tmp_path: Path) -> None:
    write_dataset(tmp_path, "camera", {"train": 4, "val": 3}, H, W, 5)
    for split, count in (("train", 4), ("val", 3)):
        found = cityscapes.listing(tmp_path, split, {})
        assert not found.faults
        assert len(found.items) == count
        for path in (tmp_path / "gtFine" / split).rglob("*.png"):
            city = path.parent.name
            assert path.name.startswith(f"{city}_0000")
            assert path.name.endswith("_000019_gtFine_labelIds.png")
            with Image.open(path) as label:
                assert label.mode == "L"
                assert NAMED["road"] in np.asarray(label)
    train, val = (
        {path.name for path in (tmp_path / "gtFine" / s).iterdir()} for s in ("train", "val")
    )
    assert not train & val


def test_files_do_not_depend_on_workers_or_counts(tmp_path: Path) -> None:
    write_dataset(tmp_path / "one", "camera", {"train": 9, "val": 2}, H, W, 3, workers=1)
    write_dataset(tmp_path / "two", "camera", {"train": 9, "val": 2}, H, W, 3, workers=2)
    write_dataset(tmp_path / "few", "camera", {"val": 1, "train": 5}, H, W, 3, workers=1)
    one, two, few = (digests(tmp_path / name) for name in ("one", "two", "few"))
    assert one == two
    assert few.keys() < one.keys()
    del few["streets.json"]
    assert few.items() <= one.items()
    write_dataset(tmp_path / "few", "camera", {"train": 5, "val": 1}, H, W, 4, workers=1)
    other = digests(tmp_path / "few")
    assert all(other[name] != digest for name, digest in few.items())


def test_an_interrupted_call_goes_on(tmp_path: Path) -> None:
    class Stop(Exception):
        pass

    calls: list[tuple[int, int]] = []

    def stop(done: int, total: int) -> None:
        calls.append((done, total))
        if done == 2:
            raise Stop

    with pytest.raises(Stop):
        write_dataset(tmp_path, "game", {"train": 5}, H, W, 1, progress=stop)
    assert calls == [(0, 5), (1, 5), (2, 5)]
    kept = tmp_path / "images/00001.png"
    before = kept.stat().st_mtime_ns
    (tmp_path / "images/.00003.999.tmp.png").write_bytes(b"half")  # as a killed process leaves it
    seen: list[tuple[int, int]] = []
    write_dataset(
        tmp_path, "game", {"train": 5}, H, W, 1, progress=lambda *counts: seen.append(counts)
    )
    assert seen == [(2, 5), (3, 5), (4, 5), (5, 5)]
    assert kept.stat().st_mtime_ns == before
    write_dataset(tmp_path / "fresh", "game", {"train": 5}, H, W, 1)
    fresh = digests(tmp_path / "fresh")
    again = {name: d for name, d in digests(tmp_path).items() if not name.startswith("fresh/")}
    assert again == fresh


def test_other_settings_replace_the_files(tmp_path: Path) -> None:
    write_dataset(tmp_path, "game", {"train": 4}, H, W, 1)
    (tmp_path / "notes.txt").write_text("mine")
    first = digests(tmp_path)
    write_dataset(tmp_path, "game", {"train": 2}, H, W, 1)
    fewer = digests(tmp_path)
    assert {name for name in fewer if name.startswith("images/")} == {
        "images/00001.png",
        "images/00002.png",
    }
    assert fewer["images/00001.png"] == first["images/00001.png"]
    write_dataset(tmp_path, "game", {"train": 2}, H, W + 32, 1)
    with Image.open(tmp_path / "images/00002.png") as image:
        assert image.size == (W + 32, H)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_files_of_somebody_else_are_left_alone(tmp_path: Path) -> None:
    theirs = tmp_path / "images/00001.png"
    theirs.parent.mkdir()
    theirs.write_bytes(b"a photograph")
    with pytest.raises(DataError, match=r"00001\.png.*another folder"):
        write_dataset(tmp_path, "game", {"train": 1}, H, W, 1)
    assert digests(tmp_path).keys() == {"images/00001.png"}
    marker = tmp_path / dataset.MARKER
    for text in ("{", "[]", json.dumps({"counts": {"train": "x"}})):
        marker.write_text(text)
        with pytest.raises(DataError, match="not a marker file"):
            write_dataset(tmp_path, "game", {"train": 1}, H, W, 1)
    assert theirs.read_bytes() == b"a photograph"


@pytest.mark.parametrize(
    "change, message",
    [
        ({"domain": "dream"}, "domain: got 'dream'"),
        ({"counts": {"val": 1}}, "counts: got split 'val'"),
        ({"counts": {"train": -1}}, r"counts\.train: got -1"),
        ({"height": 8}, "height, width: got 8"),
        ({"seed": -1}, "seed: got -1"),
        ({"workers": 0}, "workers: got 0"),
    ],
)
def test_wrong_settings_are_named(tmp_path: Path, change: dict, message: str) -> None:
    good = {"domain": "game", "counts": {"train": 1}, "height": H, "width": W, "seed": 0}
    with pytest.raises(ConfigError, match=message):
        write_dataset(tmp_path / "new", **{**good, **change})
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("domain, seed, size", [("dream", 0, 64), ("game", -1, 64), ("game", 0, 8)])
def test_wrong_scenes_are_refused(domain: Domain, seed: int, size: int) -> None:
    with pytest.raises(ValueError, match="allowed"):
        render_scene(seed, domain, size, size)


def test_rendering_needs_no_torch() -> None:
    code = "import sys, ecocseg.data.streets; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
