"""Tables of other scores than mean IoU: Dice of volumes, one class alone, accuracy beside it."""

import json

import numpy as np
import pytest

from ecocseg.errors import DataError
from pipeline.report.grid_figure import _parts
from pipeline.report.page import findings
from pipeline.report.published import same_column
from pipeline.stages.aggregate import aggregate

STRUCTURES = ["right ventricle", "myocardium", "left ventricle"]
ACDC = {"score": "dice", "per": "folder", "classes": STRUCTURES}


def grid(make, results, table, protocol, classes, means, values, columns):
    """A grid of UniMatch in both encodings; `values`: encoding -> column -> seed -> matrices."""
    for order, encoding in enumerate(("one-hot", "ecoc")):
        for column in columns:
            for seed in (0, 1):
                run_id = f"{encoding}-{column[0]}-{seed}"
                row = make.plan_row(
                    run_id, f"{encoding}_{column[0]}", seed, experiment="other", order=order,
                    layout="grid", title="Other scores", column=column, means=means,
                    row={"label": "UniMatch", "method": "UniMatch", "encoding": encoding},
                    paper={"table": table, "where": {"method": "UniMatch", "encoding": encoding}},
                    reference=[{"label": "theirs", "table": table, "where": {
                        "method": {"table11_change_whu": "SemiCD"}.get(table, "CPS")}}],
                    selection="best.student",
                    deviation="another code" if encoding == "ecoc" else None,
                )  # fmt: skip
                made = make.record(
                    run_id, experiment="other", cell=f"{encoding}_{column[0]}", seed=seed,
                    classes=classes, matrix=values(encoding, column, seed),
                )  # fmt: skip
                made["protocol"] |= protocol
                results.add(row, made)


def volumes(encoding, column, seed):
    """Two volumes of four classes, their matrices full of different numbers."""
    draw = np.random.default_rng([len(encoding), len(column), seed])
    return draw.integers(1, 1000, (2, 4, 4)).tolist()


def dice(volume, place):
    """Of one class by its definition."""
    matrix = np.array(volume)
    predicted, true = matrix[:, place].sum(), matrix[place].sum()
    return 200 * matrix[place, place] / (predicted + true)


@pytest.fixture
def acdc(make, results):
    means = {"DSC": {"score": "dice", "classes": STRUCTURES}}
    classes = ["background", *STRUCTURES]
    grid(
        make, results, "table12_medical_acdc", ACDC, classes, means, volumes, ("1 case", "3 cases")
    )


def test_dice_of_volumes_stands_in_the_table(acdc, tables):
    (table,) = tables()
    assert [column.name for column in table.columns] == ["1 case", "3 cases"]
    measured = [row for row in table.rows if row.kind == "measured"]
    for row, encoding in zip(measured, ("one-hot", "ecoc"), strict=True):
        for entry, column in zip(row.entries, ("1 case", "3 cases"), strict=True):
            expected = np.mean(
                [
                    dice(volume, place)
                    for seed in (0, 1)
                    for volume in volumes(encoding, column, seed)
                    for place in (1, 2, 3)
                ]
            )
            assert entry.mean == pytest.approx(expected)
    paper = [row for row in table.rows if row.kind == "paper"]
    assert [[e.mean for e in row.entries] for row in paper] == [[85.4, 88.9], [86.7, 90.1]]
    (theirs,) = (row for row in table.rows if row.kind == "reference")
    assert [e.mean if e else None for e in theirs.entries] == [None, 60.3]
    notes = "\n".join(table.notes)
    assert "DSC: mean Dice coefficient (DSC) in percent, counted over each volume" in notes
    assert f"DSC is the mean over 3 classes: {', '.join(STRUCTURES)}." in notes
    assert "volume by volume; validation score: mean Dice of 3 classes" in notes
    assert "checkpoint with the student's best validation score, student" in notes
    # All columns of a row deviate alike: the row is named, not each of its cells.
    assert "* Not paper-exact: UniMatch (ECOC): another code." in notes


def test_figures_and_metrics_say_dice(acdc, results, tmp_path):
    aggregate(results.plan, results.records, tmp_path / "out")
    metrics = json.loads((tmp_path / "out/metrics.json").read_text())["other"]
    assert {"mdice_mean", "mdice_std", "n", "best_mdice_mean"} == set(metrics["ecoc_1"])
    page = (tmp_path / "out/report.html").read_text()
    assert "Validation mean Dice of 3 classes of the student over training" in page
    assert "Dice of each class" in page
    assert "IoU" not in page.partition('<section class="experiment"')[2].partition("</section>")[0]


def test_a_volume_is_not_mixed_with_a_set(acdc, results, tables):
    path = next(results.records.glob("*.json"))
    record = json.loads(path.read_text())
    del record["protocol"]["per"]
    for result in record["results"].values():
        for who in ("student", "teacher"):
            result[who]["confusion"] = result[who]["confusion"][0]
    path.write_text(json.dumps(record))
    with pytest.raises(DataError, match="per = "):
        tables()


def test_other_classes_of_the_score_are_another_protocol(acdc, results, tables):
    path = next(results.records.glob("*.json"))
    record = json.loads(path.read_text())
    record["protocol"]["classes"] = STRUCTURES[:2]
    path.write_text(json.dumps(record))
    with pytest.raises(DataError, match="classes of the score = "):
        tables()


def changes(encoding, column, seed):
    """Pixels of two classes; ECOC finds more of what changed."""
    hits = 60 + 10 * (encoding == "ecoc") + seed + int(column[0])
    return [[900, 100 - hits], [100 - hits, hits]]


def test_a_second_mean_has_columns_of_its_own(make, results, tables):
    means = {
        "changed IoU": {"score": "iou", "classes": ["changed"]},
        "accuracy": {"score": "accuracy"},
    }
    grid(make, results, "table11_change_whu", {"classes": ["changed"]}, ["unchanged", "changed"],
         means, changes, ("5%", "10%"))  # fmt: skip
    (table,) = tables()
    assert [c.name for c in table.columns] == ["5%", "10%", "5%, accuracy", "10%, accuracy"]
    assert [c.further for c in table.columns] == [False, False, True, True]
    one_hot, ecoc = (row for row in table.rows if row.kind == "measured")
    for row, encoding in ((one_hot, "one-hot"), (ecoc, "ecoc")):
        for place, column in enumerate(("5%", "10%")):
            matrices = [np.array(changes(encoding, column, seed)) for seed in (0, 1)]
            iou = [100 * m[1, 1] / (m.sum() - m[0, 0]) for m in matrices]
            right = [100 * (m[0, 0] + m[1, 1]) / m.sum() for m in matrices]
            assert row.entries[place].mean == pytest.approx(np.mean(iou))
            assert row.entries[2 + place].mean == pytest.approx(np.mean(right))
    assert ecoc.ranks == (1, 1, 1, 1)
    assert one_hot.ranks == (2, 2, 2, 2)
    # The paper has no accuracy; its row and the other methods' are empty there.
    for row in table.rows:
        if row.kind in ("paper", "to_paper", "reference"):
            assert row.entries[0] is not None
            assert row.entries[2:] == (None, None)
    (difference,) = (row for row in table.rows if row.kind == "difference")
    assert all(entry.mean > 0 for entry in difference.entries)
    # What the page says first is of the first mean.
    assert ["(10%)" in text for text in findings(table)] == [True]
    notes = "\n".join(table.notes)
    assert "changed IoU: IoU in percent, counted over the whole" in notes
    assert "accuracy: share of all labelled pixels that are right, in percent" in notes
    assert "changed IoU is of the class changed alone." in notes
    assert "validation score: IoU of changed" in notes


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ("ResNet-50 1/16", "resnet50_1/16", True),
        ("ResNet-50 1/16", "resnet101_1/16", False),
        ("pixel threshold (Eq. 48)", "pixel_threshold (Eq. 48)", True),
        ("1/16", "1/16 (92)", False),
    ],
)
def test_columns_are_the_same_but_for_their_spelling(first, second, same):
    assert same_column(first, second) is same


@pytest.mark.parametrize(
    ("columns", "parts"),
    [
        (["ResNet-50 1/8", "ResNet-50 1/4", "ResNet-101 1/8", "ResNet-101 1/4"], [[0, 1], [2, 3]]),
        (["1/16", "1/8"], [[0, 1]]),
        (["1 case", "3 cases", "7 cases"], [[0, 1, 2]]),
    ],
)
def test_lines_stop_where_the_network_changes(columns, parts):
    assert _parts(columns) == parts
