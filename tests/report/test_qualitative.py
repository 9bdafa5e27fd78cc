"""The figure of predictions: which runs and images it takes, and that its colours are right."""

import json

import numpy as np
import pytest
from PIL import Image

from pipeline.report.panels import cell_panels
from pipeline.report.provenance import all_runs, summary
from pipeline.report.qualitative import draw_qualitative
from pipeline.report.runs import load_experiments
from pipeline.stages.aggregate import aggregate

PALETTE = np.zeros((256, 3), dtype=np.uint8)
PALETTE[:19] = np.random.default_rng(0).integers(60, 255, (19, 3))
IGNORE = 255
WIDTH, GAP, BAND, HEIGHT = 276, 4, 24, 138


def save(folder, name, classes):
    folder.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(np.asarray(classes, dtype=np.uint8))
    picture.putpalette(PALETTE.tobytes())
    picture.save(folder / name)


def quarters(a, b, c, d):
    """Label of 8x16 with a class in each quarter."""
    return np.kron([[a, b], [c, d]], np.ones((4, 8), dtype=int))


LABEL = quarters(0, 1, 2, IGNORE)
ONE_HOT = quarters(0, 5, 2, 3)
ECOC = quarters(0, 1, 6, 3)


def add_pictures(results, cell, prediction, seed=0, keys=("a", "b"), experiment="streets_uda"):
    folder = results.root / "runs" / f"{experiment}-{cell}-s{seed}" / "pictures"
    for key in keys:
        save(folder, f"label_{key}.png", LABEL)
        save(folder, f"prediction_{key}.png", prediction)
        Image.new("RGB", (16, 8), "teal").save(folder / f"image_{key}.jpg")


@pytest.fixture
def pair(results, make):
    make.add_uda(results)
    add_pictures(results, "dacs_one-hot", ONE_HOT, keys=("a", "b", "c"))
    add_pictures(results, "dacs_ecoc", ECOC)
    return results


def middle(picture, row, column, quarter):
    y = BAND + row * (HEIGHT + GAP) + HEIGHT * (1 + 2 * (quarter // 2)) // 4
    return tuple(picture[y, column * (WIDTH + GAP) + WIDTH * (1 + 2 * (quarter % 2)) // 4])


def test_columns_are_image_truth_one_hot_ecoc_and_who_is_right(pair, tmp_path) -> None:
    (experiment,) = load_experiments(pair.plan, pair.records)
    (drawn,) = draw_qualitative(experiment, pair.root / "runs", tmp_path)
    assert drawn.path.name == "streets_uda_qualitative.png"
    with Image.open(drawn.path) as opened:
        picture = np.asarray(opened)
    # Two images that both runs have, and at least two lines of legend.
    assert picture.shape[1] == 5 * (WIDTH + GAP) - GAP
    assert picture.shape[0] > BAND + 2 * (HEIGHT + GAP) + 40
    for row in (0, 1):
        for column, classes in ((1, LABEL), (2, ONE_HOT), (3, ECOC)):
            for quarter in range(4):
                expected = PALETTE[classes[4 * (quarter // 2), 8 * (quarter % 2)]]
                assert middle(picture, row, column, quarter) == tuple(expected)
        verdicts = [middle(picture, row, 4, quarter) for quarter in range(4)]
        # Both right, ECOC alone (blue), one-hot alone (orange), no label.
        assert verdicts == [(228, 232, 238), (0, 114, 178), (230, 159, 0), (255, 255, 255)]
    assert "ECOC on 33.3 % of the labelled pixels and one-hot on 33.3 %" in drawn.caption
    assert "DACS (one-hot) and DACS (ECOC), students after the last step, seed 0" in drawn.caption


def test_runs_are_of_the_lowest_common_seed(results, make, tmp_path) -> None:
    make.add_uda(results, unfinished=["streets_uda-dacs_ecoc-s0"])
    for seed in (0, 1):
        add_pictures(results, "dacs_one-hot", ONE_HOT, seed)
    add_pictures(results, "dacs_ecoc", ECOC, 1)
    (experiment,) = load_experiments(results.plan, results.records)
    (drawn,) = draw_qualitative(experiment, results.root / "runs", tmp_path)
    assert "seed 1" in drawn.caption


def test_a_run_that_shares_anothers_record_shares_its_pictures(results, make, tmp_path) -> None:
    """And its time counts once."""
    make.add_uda(results, seeds=(0,))
    for cell in ("dacs_one-hot", "dacs_ecoc"):
        path = results.records / f"streets_uda-{cell}-s0.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"same_as": f"first-{cell}-s0"}))
    add_pictures(results, "dacs_one-hot", ONE_HOT, experiment="first")
    add_pictures(results, "dacs_ecoc", ECOC, experiment="first")
    make.add_uda(results, seeds=(0,), experiment="first")
    twin, first = load_experiments(results.plan, results.records)
    (drawn,) = draw_qualitative(twin, results.root / "runs", tmp_path)
    assert drawn.path.name == "streets_uda_qualitative.png"
    # 8 records, 2 of them copies, of 41.5 s each.
    assert dict(summary([twin, first]))["Runs"].startswith("6, together 4 min 9 s")
    told = [run.run_id for run in all_runs([twin])]
    assert told[2] == "streets_uda-dacs_ecoc-s0 (same as first-dacs_ecoc-s0)"


def test_old_folders_and_single_runs_have_no_such_figure(results, make, tmp_path) -> None:
    make.add_uda(results)
    (experiment,) = load_experiments(results.plan, results.records)
    assert draw_qualitative(experiment, results.root / "runs", tmp_path) == []
    add_pictures(results, "dacs_ecoc", ECOC)
    assert draw_qualitative(experiment, results.root / "runs", tmp_path) == []
    assert list(tmp_path.glob("*_qualitative*")) == []


def test_panels_stay_what_they_were_beside_single_pictures(pair) -> None:
    folder = pair.root / "runs" / "streets_uda-dacs_ecoc-s0" / "pictures"
    for name in ("panel.png", "pseudo_labels.png"):
        Image.new("RGB", (30, 10)).save(folder / name)
    (experiment,) = load_experiments(pair.plan, pair.records)
    panels = cell_panels(experiment, pair.root / "runs")
    assert [panel.path.name for panel in panels] == ["panel.png"]


def test_the_report_shows_it(pair) -> None:
    aggregate(pair.plan, pair.records, pair.root)
    assert (pair.root / "figures" / "streets_uda_qualitative.png").is_file()
    text = (pair.root / "report.html").read_text(encoding="utf-8")
    assert text.count("<figcaption>What the encodings predict (the paper&#x27;s Figures 9") == 1
