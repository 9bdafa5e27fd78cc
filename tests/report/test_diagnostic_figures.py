"""The figures of the diagnostics: which are drawn of what, and that they draw what was counted."""

import re
from html import unescape
from pathlib import Path

import matplotlib.figure
import numpy as np
import pytest
from PIL import Image

from pipeline.report.diagnosed import compared
from pipeline.report.diagnostics import draw_diagnostics, label_picture
from pipeline.report.runs import load_experiments
from pipeline.report.threshold_figure import draw_thresholds
from pipeline.stages.aggregate import aggregate

THRESHOLDS = [0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0]
KINDS = ("codebooks", "thresholds", "nearest", "reliability")


def table(rows, accuracy, low):
    """1000 decisions a row in the bins from `low` on, their confidences in the middle."""
    count = np.zeros((rows, 10), dtype=int)
    count[:, low:] = 1000 // (10 - low)
    middle = (np.arange(10) + 0.5) / 10
    return {
        "count": count.tolist(),
        "confidence": (count * middle).tolist(),
        "correct": (count * accuracy).round().astype(int).tolist(),
    }


def network(classes, length, ecoc, seed=0):
    rank = 1000 // 2 ** np.arange(1, classes + 1) + seed
    labels = {}
    if ecoc:
        labels = {
            "candidates": rank.tolist(),
            "bits": 10_000,
            "difference": 900,
            "correction": 100,
            "right_correction": 60,
            "sweep_right": [8000 + 10 * i + seed for i in range(8)],
            "sweep_mask": [10_000 - 1400 * i for i in range(8)],
        }
    return {
        "pixels": int(rank.sum()),
        "rank": rank.tolist(),
        "bits": table(length, 0.9, 5),
        "classes": table(classes, 0.7, 5 if ecoc else 2),
        "labels": labels,
    }


def diagnostics(ecoc, seed=0, classes=19, teacher=True, book=0):
    found = {"images": 4, "student": network(classes, 24 if ecoc else classes, ecoc, seed)}
    found["teacher"] = found["student"] if teacher else None
    if ecoc:
        draw = np.random.default_rng(book)
        rows = draw.integers(0, 2, (classes, 24))
        found |= {"codebook": ["".join(map(str, row)) for row in rows], "thresholds": THRESHOLDS}
    return found


def add(make, results, cells, seeds=(0, 1), experiment="codes", **of_all):
    """Cells {name: (label, encoding, spec's encoding, diagnostics by seed or None)}."""
    for order, (cell, (label, encoding, options, found)) in enumerate(cells.items()):
        for seed in seeds:
            run_id = f"{experiment}-{cell}-s{seed}"
            row = make.plan_row(
                run_id, cell, seed, experiment=experiment, order=order,
                row={"label": label, "method": label, "encoding": encoding},
            )  # fmt: skip
            row["report"] |= of_all
            made = make.record(
                run_id, experiment=experiment, cell=cell, seed=seed, quality=0.4 + order / 50,
                spec={"cell": cell, "seed": seed, "encoding": options},
            )  # fmt: skip
            if found is not None:
                made["diagnostics"] = found(seed)
            results.add(row, made)
    return load_experiments(results.plan, results.records)[-1]


ECOC = {"codebook": "text", "codebook_path": None, "threshold": 0.95}
PAIR = {
    "one-hot": ("DACS", "one-hot", {}, lambda seed: diagnostics(False, seed)),
    "ecoc": ("DACS", "ecoc", ECOC, lambda seed: diagnostics(True, seed)),
    "oracle": ("Oracle", "one-hot", {}, lambda seed: diagnostics(False, seed, teacher=False)),
}


class Axes(list):
    """All axes of the figures that are drawn while it is patched in."""


@pytest.fixture
def drawn_axes(monkeypatch):
    """The axes of every figure drawn in a test, in order."""
    found = Axes()
    made = matplotlib.figure.Figure.subplots

    def subplots(self, *args, **kwargs):
        grid = made(self, *args, **kwargs)
        found.extend(grid.flat)
        return grid

    monkeypatch.setattr(matplotlib.figure.Figure, "subplots", subplots)
    return found


def named(axes, title):
    (axis,) = [axis for axis in axes if axis.get_title(loc="left").startswith(title)]
    return axis


def test_a_pair_is_compared_in_four_figures(make, results, tmp_path: Path) -> None:
    experiment = add(make, results, PAIR)
    assert [cell.name for cell in compared(experiment.cells, experiment)] == ["one-hot", "ecoc"]
    drawn = draw_diagnostics(experiment, tmp_path)
    assert [one.path.name for one in drawn] == [f"codes_{kind}.png" for kind in KINDS]
    for one, number in zip(drawn, (5, 6, 7, 8), strict=True):
        assert f"the paper's Figure {number}" in one.caption
        with Image.open(one.path) as picture:
            assert np.asarray(picture.convert("RGB")).std() > 10
    for one in drawn[1:]:
        assert "of each of 4 evenly spaced images of streets_camera, split val" in one.caption
        assert "seeds 0, 1" in one.caption
    assert "by the teacher after the last step" in drawn[1].caption


def test_the_nearest_classes_are_those_that_were_counted(
    make, results, tmp_path, drawn_axes
) -> None:
    experiment = add(make, results, PAIR)
    draw_diagnostics(experiment, tmp_path)
    axis = named(drawn_axes, "True class")
    shares = []
    for seed in (0, 1):
        rank = np.array(network(19, 24, True, seed)["rank"])
        shares.append(100 * rank / rank.sum())
    expected = np.mean(shares, axis=0)[:6]
    bars = [patch.get_height() for patch in axis.patches]
    assert bars == pytest.approx([*expected, *expected])
    lines = [line for line in axis.lines if len(line.get_xdata()) == 6]
    for line in lines:
        assert line.get_ydata() == pytest.approx(np.cumsum(expected))
    assert len(lines) == 2


def test_the_reliability_diagram_names_its_errors(make, results, tmp_path, drawn_axes) -> None:
    experiment = add(make, results, PAIR)
    caption = draw_diagnostics(experiment, tmp_path)[-1].caption
    bits = named(drawn_axes, "Bits; ECE")
    # Confidences 55 to 95 with accuracy 90 throughout: mean gap of 35, 25, 15, 5 and 5.
    texts = [text.get_text() for text in bits.get_legend().get_texts()]
    assert texts == ["DACS (one-hot): 17.0 ± 0.0", "DACS (ECOC): 17.0 ± 0.0"]
    diagonal, one_hot, ecoc = bits.lines
    assert list(diagonal.get_xdata()) == list(diagonal.get_ydata())
    for line in (one_hot, ecoc):
        assert line.get_xdata() == pytest.approx([55, 65, 75, 85, 95])
        assert line.get_ydata() == pytest.approx([90] * 5)
    assert "each bit by itself: DACS (one-hot) 17.0 to 17.0, DACS (ECOC) 17.0 to 17.0" in caption
    classes = named(drawn_axes, "Classes, by their probability; ECE")
    assert len(classes.lines[1].get_xdata()) == 8


def test_thresholds_are_compared_within_each_run(make, results, tmp_path, drawn_axes) -> None:
    experiment = add(make, results, PAIR)
    drawn = draw_thresholds(experiment.cells, experiment, tmp_path / "t.png")
    left, right = drawn_axes
    # Seeds differ by one bit everywhere, and thresholds by ten from one to the next.
    assert left.lines[0].get_ydata() == pytest.approx([(i - 7) / 10 for i in range(8)])
    assert "bit-wise 80.7 %" in left.get_legend_handles_labels()[1][0]
    assert right.lines[0].get_ydata() == pytest.approx([100 - 14 * i for i in range(8)])
    assert "takes the codeword" in drawn.caption


def trained(threshold):
    """A cell trained with that T."""
    label = f"T = {threshold}"
    return (label, "ecoc", ECOC | {"threshold": threshold}, lambda seed: diagnostics(True, seed))


def test_runs_that_differ_in_the_threshold_alone_show_their_scores(
    make, results, tmp_path, drawn_axes
) -> None:
    cells = {f"t{i}": trained(t) for i, t in enumerate((0.9, 0.5, 1.0))}
    experiment = add(make, results, cells)
    drawn = draw_thresholds(experiment.cells, experiment, tmp_path / "t.png")
    axis = drawn_axes[1]
    assert axis.get_title(loc="left") == "Trained with this T"
    assert list(axis.lines[0].get_xdata()) == [0, 4, 7]
    scores = axis.lines[0].get_ydata()
    # The quality of the made-up records rises with the order of the cells: 0.9, 0.5, 1.
    assert scores[1] < scores[0] < scores[2]
    assert "differ in T alone" in drawn.caption


def test_other_differences_are_no_series_of_thresholds(make, results, tmp_path, drawn_axes) -> None:
    other = list(trained(0.5))
    other[2] = other[2] | {"codebook": "mmd"}
    experiment = add(make, results, {"a": trained(0.9), "b": tuple(other)})
    draw_thresholds(experiment.cells, experiment, tmp_path / "t.png")
    assert drawn_axes[1].get_title(loc="left") == "Bits that are reliable (mask M)"


def test_each_codebook_is_drawn_once(make, results, tmp_path, drawn_axes) -> None:
    cells = {
        name: (name, "ecoc", ECOC | {"codebook": name, "codebook_path": path},
               lambda seed, book=book: diagnostics(True, seed, book=book))
        for name, path, book in (("text", None, 0), ("again", None, 0), ("mmd", "a/b/mine.json", 1))
    }  # fmt: skip
    experiment = add(make, results, cells)
    draw_diagnostics(experiment, tmp_path)
    titles = {axis.get_title(loc="left") for axis in drawn_axes}
    assert {"text, K = 24", "mine, K = 24"} <= titles
    assert not any(title.startswith("again, K") for title in titles)


def test_records_without_diagnostics_have_no_such_figure(make, results, tmp_path: Path) -> None:
    experiment = add(make, results, {name: (*cell[:3], None) for name, cell in PAIR.items()})
    assert draw_diagnostics(experiment, tmp_path) == []
    assert label_picture(experiment, tmp_path) is None
    assert list(tmp_path.glob("*.png")) == []


def test_old_and_new_records_together_show_the_new_ones(make, results, tmp_path, drawn_axes):
    cells = dict(PAIR)
    cells["one-hot"] = (*PAIR["one-hot"][:3], None)
    experiment = add(make, results, cells)
    drawn = draw_diagnostics(experiment, tmp_path)
    assert len(drawn) == 4
    bits = named(drawn_axes, "Bits; ECE")
    texts = [text.get_text() for text in bits.get_legend().get_texts()]
    assert texts == ["DACS (ECOC): 17.0 ± 0.0", "Oracle: 17.0 ± 0.0"]


def test_one_hot_alone_has_neither_codebook_nor_threshold(make, results, tmp_path: Path) -> None:
    experiment = add(make, results, {"oracle": PAIR["oracle"]}, seeds=(3,))
    drawn = draw_diagnostics(experiment, tmp_path)
    assert [one.path.name for one in drawn] == ["codes_nearest.png", "codes_reliability.png"]
    assert "seed 3" in drawn[0].caption


def test_the_report_shows_them_and_one_picture_of_pseudo_labels(make, results, tmp_path) -> None:
    add(make, results, PAIR, title="Codes")
    for row in results.rows:
        folder = results.root / "runs" / row["run_id"] / "pictures"
        folder.mkdir(parents=True)
        for name, width in (("panel", 300), ("pseudo_labels", 500)):
            Image.new("RGB", (width, 100), "red").save(folder / f"{name}.png")
    (experiment,) = load_experiments(results.plan, results.records)
    picture = label_picture(experiment, results.root / "runs")
    assert picture.path.parts[-3:] == ("codes-ecoc-s0", "pictures", "pseudo_labels.png")
    assert "teacher of DACS (ECOC), seed 0" in picture.caption
    assert "candidates" in picture.caption
    aggregate(results.plan, results.records, results.root)
    text = (results.root / "report.html").read_text(encoding="utf-8")
    captions = [unescape(c) for c in re.findall("<figcaption>(.*?)</figcaption>", text)]
    assert captions.count(picture.caption) == 1
    assert sum("Figure 4b" in caption for caption in captions) == 1
    assert {"DACS (one-hot)", "DACS (ECOC)", "Oracle"} <= set(captions)
    assert not any(caption.endswith("pseudo labels") for caption in captions)
    for number in "5678":
        assert sum(f"the paper's Figure {number}" in caption for caption in captions) == 1
    picture.path.unlink()
    assert label_picture(experiment, results.root / "runs") is None
