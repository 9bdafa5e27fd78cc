"""Experiments of many cells: figures show what can be told apart, and reading stays short."""

import threading

import numpy as np
import pytest

from pipeline.report import figures, parallel, reading
from pipeline.report.lines import cell_means, foremost
from pipeline.report.reading import diagnostics_of, training_of
from pipeline.report.runs import load_experiments
from pipeline.stages import aggregate as aggregate_module
from pipeline.stages.aggregate import aggregate


@pytest.fixture
def many(results, make):
    """Twelve settings, of which those in the middle end highest."""
    for number in range(12):
        cell = f"dacs_{number}"
        quality = 0.3 + 0.02 * (6 - abs(number - 6)) + 0.004 * number
        row = make.plan_row(f"e-{cell}-s0", cell, experiment="many", order=number)
        made = make.record(
            row["run_id"],
            experiment="many",
            cell=cell,
            quality=quality,
            classes=make.CITYSCAPES[:4],
        )
        results.add(row, made)
    (experiment,) = load_experiments(results.plan, results.records)
    return experiment


def test_of_too_many_lines_the_highest_are_drawn(many, tmp_path, monkeypatch):
    scores = {cell.name: cell_means(cell)[0] for cell in many.cells}
    best = sorted(scores, key=scores.__getitem__)[-8:]
    assert {cell.name for cell in foremost(many.cells, 8)} == set(best)
    assert [cell.name for cell in foremost(many.cells, 8)] == [n for n in scores if n in best]
    assert foremost(many.cells, 12) == list(many.cells)

    drawn = {}
    monkeypatch.setattr(
        figures, "_band", lambda axis, points, label, position: drawn.update({label: position})
    )
    curves = figures._learning_curves(many, tmp_path / "curves.png")
    assert curves.caption.endswith("Of more than 8 lines in a panel those that end highest.")
    assert drawn == {name: i for i, name in enumerate(n for n in scores if n in best)}


def test_no_more_panels_than_a_page_holds(results, make, tmp_path):
    for number in range(14):
        row = make.plan_row(
            f"g-{number}-s0", f"c{number}", experiment="g", layout="grid", column=f"{number}",
            row={"label": "DACS", "method": "dacs", "encoding": "ecoc"}, order=number,
        )  # fmt: skip
        made = make.record(row["run_id"], experiment="g", cell=f"c{number}", classes=["a", "b"])
        results.add(row, made)
    (experiment,) = load_experiments(results.plan, results.records)
    curves = figures._learning_curves(experiment, tmp_path / "curves.png")
    assert curves.caption.endswith("The first 12 of 14 panels.")


def test_what_is_left_in_the_file_is_got_when_asked_for(many, results, make):
    cell = many.cells[0]
    record = cell.records[0]
    assert "train" not in record["curves"]
    assert "diagnostics" not in record
    expected = make.record("x", quality=0.3, cell=cell.name)["curves"]["train"]
    assert training_of(record, 99) == expected
    assert diagnostics_of(record) is None
    matrix = record["results"]["last"]["student"]["confusion"]
    assert isinstance(matrix, np.ndarray)
    assert (matrix.dtype, matrix.shape) == (np.int64, (4, 4))
    # Equal for all runs: held once.
    assert record["protocol"] is many.cells[1].records[0]["protocol"]


def test_processes_read_and_draw_what_one_does(many, results, tmp_path, monkeypatch):
    monkeypatch.setattr(threading, "active_count", lambda: 1)
    monkeypatch.setattr(parallel, "available_cores", lambda: 2)
    alone, together = tmp_path / "alone", tmp_path / "together"
    aggregate(results.plan, results.records, alone)
    used = []
    monkeypatch.setattr(
        reading, "forked", lambda tasks: used.append(tasks) or parallel.forked(tasks)
    )
    monkeypatch.setattr(reading, "MANY", 4)
    monkeypatch.setattr(aggregate_module, "MANY", 4)
    aggregate(results.plan, results.records, together)
    assert [len(tasks) for tasks in used] == [6]
    files = sorted(path.relative_to(alone) for path in alone.rglob("*") if path.is_file())
    assert len(files) > 6
    for file in files:
        assert (together / file).read_bytes() == (alone / file).read_bytes()
