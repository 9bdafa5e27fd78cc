import json

import numpy as np
import pytest

from ecocseg.errors import ConfigError, DataError, UserError
from pipeline.report.protocols import protocol_text

TWO = ["road", "car"]


def matrix(first: int, second: int) -> list[list[int]]:
    """Two classes of 100 pixels, so many right."""
    return [[first, 100 - first], [100 - second, second]]


def add(results, make, cell: str, seed: int, confusion, *, run_id: str = "", **report) -> None:
    run_id = run_id or f"{cell}-{seed}"
    made = None
    if confusion is not None:
        made = make.record(run_id, cell=cell, seed=seed, classes=TWO, matrix=confusion)
    results.add(make.plan_row(run_id, cell, seed, **report), made)


def row_of(cell: str, encoding: str = "one-hot", **more) -> dict:
    return {"row": {"label": cell, "method": "dacs", "encoding": encoding, **more}}


def test_values_are_means_over_seeds_of_set_level_iou(results, make, tables) -> None:
    add(results, make, "a", 0, matrix(80, 60))
    add(results, make, "a", 1, matrix(90, 70))
    (table,) = tables()
    assert [column.name for column in table.columns] == ["road", "car", "mIoU"]
    road, car, mean = table.rows[0].entries
    assert road.mean == pytest.approx((100 * 80 / 140 + 100 * 90 / 130) / 2)
    assert car.mean == pytest.approx((100 * 60 / 120 + 100 * 70 / 110) / 2)
    per_seed = [np.mean([80 / 140, 60 / 120]), np.mean([90 / 130, 70 / 110])]
    assert mean.mean == pytest.approx(100 * np.mean(per_seed))
    assert mean.std == pytest.approx(100 * np.std(per_seed, ddof=1))
    assert table.rows[0].seeds == "2"


def test_rows_stand_in_the_order_of_the_plan_not_of_the_file(results, make, tables) -> None:
    add(results, make, "late", 0, matrix(80, 60), order=5)
    add(results, make, "early", 0, matrix(80, 60), order=1)
    (table,) = tables()
    assert [row.label for row in table.rows] == ["early", "late"]


def test_best_and_second_skip_rows_that_are_not_ranked(results, make, tables) -> None:
    add(results, make, "low", 0, matrix(50, 50), order=0)
    add(results, make, "high", 0, matrix(70, 70), order=1)
    add(results, make, "oracle", 0, matrix(99, 99), order=2, **row_of("oracle", ranked=False))
    (table,) = tables()
    assert [row.ranks[-1] for row in table.rows] == [2, 1, 0]
    assert any("Not ranked: oracle" in note for note in table.notes)


def test_a_class_that_nobody_has_is_absent_not_zero(results, make, tables) -> None:
    add(results, make, "a", 0, [[100, 0], [0, 0]])
    (table,) = tables()
    road, car, mean = table.rows[0].entries
    assert (road.mean, car, mean.mean) == (100.0, None, 100.0)
    assert any("No labelled pixel" in note and "car" in note for note in table.notes)


def test_unfinished_runs_are_counted_and_shown_as_absent(results, make, tables) -> None:
    add(results, make, "a", 0, matrix(80, 60))
    add(results, make, "a", 1, None)
    add(results, make, "b", 0, None)
    (table,) = tables()
    assert table.notes[0] == "1 of 3 runs finished."
    assert [row.seeds for row in table.rows] == ["1 of 2", "0 of 1"]
    assert table.rows[1].entries == (None, None, None)


def test_without_any_record_there_is_still_a_table(results, make, tables) -> None:
    add(results, make, "a", 0, None)
    (table,) = tables()
    assert [column.name for column in table.columns] == ["mIoU"]
    assert table.rows[0].entries == (None,)


def test_difference_is_ecoc_minus_one_hot_of_the_same_method(results, make, tables) -> None:
    for seed, (ours, base) in enumerate([(80, 70), (84, 72)]):
        add(results, make, "base", seed, matrix(base, 50), order=0,
            row={"label": "DACS", "method": "dacs", "encoding": "one-hot"})  # fmt: skip
        add(results, make, "ours", seed, matrix(ours, 50), order=1,
            row={"label": "DACS", "method": "dacs", "encoding": "ecoc"})  # fmt: skip
        add(results, make, "other", seed, matrix(10, 10), order=2,
            row={"label": "Other", "method": "fixmatch", "encoding": "one-hot"})  # fmt: skip
    (table,) = tables()
    labels = [row.label for row in table.rows]
    assert labels == ["DACS (one-hot)", "DACS (ECOC)", "Other", "DACS: ECOC minus one-hot"]
    base, ours, _, difference = (row.entries[0] for row in table.rows)
    assert difference.mean == pytest.approx(ours.mean - base.mean)
    assert difference.low < difference.mean < difference.high


def test_paper_stands_beneath_its_row_with_the_difference(results, make, tables) -> None:
    add(results, make, "a", 0, matrix(80, 60), order=0, paper=make.PAPER["dacs", "ecoc"],
        means={"mIoU": None, "road only": ["road"]})  # fmt: skip
    (table,) = tables()
    assert [row.kind for row in table.rows] == ["measured", "paper", "to_paper"]
    ours, paper, difference = (row.entries for row in table.rows)
    assert [entry.mean for entry in paper] == [95.6, 91.2, pytest.approx(93.4), 95.6]
    assert difference[3].mean == pytest.approx(ours[3].mean - 95.6)


def test_means_that_a_printed_table_does_not_support_are_noted(results, make, tables) -> None:
    add(results, make, "a", 0, matrix(80, 60), paper=make.PAPER["dacs", "one-hot"])
    (table,) = tables()
    assert (
        "Table 1 prints mIoU 52.1 for DACS one-hot; its printed classes average 52.64."
        in table.notes
    )


def test_grid_puts_columns_of_the_plan_beside_each_other(results, make, tables) -> None:
    make.add_grid(results, seeds=(0,))
    (table,) = tables()
    assert [column.name for column in table.columns] == ["1/16", "1/8", "1/4"]
    measured = [row for row in table.rows if row.kind == "measured"]
    assert [row.label for row in measured] == ["Sup-only", "FixMatch (one-hot)", "FixMatch (ECOC)"]
    paper = [row for row in table.rows if row.kind == "paper"]
    assert [entry.mean for entry in paper[2].entries] == [76.0, 77.8, 78.2]
    (difference,) = [row for row in table.rows if row.kind == "difference"]
    for place in range(3):
        expected = measured[2].entries[place].mean - measured[1].entries[place].mean
        assert difference.entries[place].mean == pytest.approx(expected)


@pytest.mark.parametrize(
    ("field", "value"), [("image_size", [48, 96]), ("mode", "slide"), ("fingerprint", "other")]
)
def test_protocols_are_never_mixed(results, make, tables, field, value) -> None:
    add(results, make, "a", 0, matrix(80, 60))
    other = make.record("b-0", cell="b", classes=TWO, matrix=matrix(80, 60))
    other["protocol"][field] = value
    results.add(make.plan_row("b-0", "b"), other)
    with pytest.raises(UserError, match=f"with {field} = .*, run b-0 with .*never mixes protocols"):
        tables()


def test_class_lists_are_never_mixed(results, make, tables) -> None:
    add(results, make, "a", 0, matrix(80, 60))
    made = make.record("b-0", cell="b", classes=["road", "bus"], matrix=matrix(8, 6))
    results.add(make.plan_row("b-0", "b"), made)
    with pytest.raises(DataError, match="classes"):
        tables()


def test_records_that_the_plan_does_not_name_do_not_count(results, make, tables) -> None:
    add(results, make, "a", 0, matrix(80, 60))
    add(results, make, "a", 1, matrix(10, 10))
    results.rows.pop()
    results.plan.write_text(json.dumps(results.rows[0]) + "\n")
    (table,) = tables()
    assert table.rows[0].seeds == "1"


def test_wrong_plans_say_what_is_wrong(results, make, tables) -> None:
    with pytest.raises(DataError, match=r"there is no plan; run `ecocseg plan`"):
        tables()
    add(results, make, "a", 0, None, layout="spiral")
    with pytest.raises(ConfigError, match=r"layout: got 'spiral', allowed per_class, grid"):
        tables()
    results.plan.write_text('{"run_id": "a"}\n')
    with pytest.raises(DataError, match=r"line 1: no field 'cell'"):
        tables()
    results.plan.write_text("{\n")
    with pytest.raises(DataError, match=r"line 1: not a JSON object"):
        tables()


def test_selection_is_followed_and_named(results, make, tables) -> None:
    made = make.record("a-0", cell="a", classes=TWO, matrix=matrix(80, 60))
    made["results"]["best"]["teacher"] = {"confusion": [[1, 0], [0, 1]]}
    results.add(make.plan_row("a-0", "a", selection="best.teacher"), made)
    (table,) = tables()
    assert table.rows[0].entries[-1].mean == 100.0
    assert any(note.startswith("Selection: ") and "EMA teacher" in note for note in table.notes)


def test_protocols_are_told_as_sentences(make) -> None:
    protocol = make.record("a")["protocol"]
    assert "60 images, whole image at 96 x 192, scored at the label's own" in protocol_text(
        protocol
    )
    sliding = protocol | {"mode": "slide", "window": [801, 801], "stride": 534}
    text = protocol_text(sliding | {"image_size": "original"})
    assert "sliding window 801 x 801, stride 534, at its own size, scored" in text
    text = protocol_text(sliding | {"border": "clip"})
    assert "stride 534, cut off at the border, at 96 x 192, scored" in text
    text = protocol_text(protocol | {"multiple": 14})
    assert "whole image resized to multiples of 14 pixels, at 96 x 192, scored" in text
