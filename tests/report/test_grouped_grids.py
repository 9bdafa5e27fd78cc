"""Grids whose rows hold several encodings, in the form of the paper's Tables 3, 4, 5, 7 and 14."""

import csv
import io

import matplotlib.figure
import numpy as np
import pytest
from PIL import Image

from ecocseg.errors import ConfigError
from pipeline.report.diagnosed import compared
from pipeline.report.figures import draw_figures
from pipeline.report.formats import csv_text
from pipeline.report.lines import cell_means
from pipeline.report.page import findings
from pipeline.report.published import published_table
from pipeline.report.runs import load_experiments
from pipeline.report.threshold_figure import draw_thresholds

THRESHOLDS = "table04_threshold_ablation"
SETTINGS = "table14_loss_hyperparameters"


def add(
    results, make, cell, *, order, encoding="ecoc", quality=0.5, seeds=(0,), spec=None, **report
):
    """A cell of a grid; `spec` are the options of its encoding."""
    ranked, group = report.pop("ranked", True), report.pop("group", None)
    label = report.pop("label", "DAFormer")
    for seed in seeds:
        run_id = f"grid-{cell}-s{seed}"
        row = make.plan_row(
            run_id, cell, seed, experiment="grid", order=order, layout="grid", title="Grid",
            row={"label": label, "method": label, "encoding": encoding, "ranked": ranked,
                 "group": group},
            deviation=None, **report,
        )  # fmt: skip
        options = {"threshold": 0.95, "labels": "hybrid", "codebook": "text"} | (spec or {})
        made = make.record(
            run_id, experiment="grid", cell=cell, seed=seed, quality=quality,
            spec={"cell": cell, "seed": seed, "encoding": options if encoding == "ecoc" else {}},
        )  # fmt: skip
        results.add(row, made)


def add_thresholds(results, make, seeds=(0, 1)) -> None:
    """The paper's Table 4: codebooks in rows, thresholds in columns, baseline in both rows."""
    papers = {book: {"table": THRESHOLDS, "where": {"codebook": book}} for book in ("mmd", "text")}
    add(results, make, "baseline", order=0, encoding="one-hot", quality=0.45, group="mmd",
        column="baseline", paper=papers["mmd"], seeds=seeds,
        also=[{"group": "text", "paper": papers["text"]}])  # fmt: skip
    order = 1
    for book in papers:
        for i, (column, spec) in enumerate(
            {"code": {"labels": "code"}, "bit": {"labels": "bit"}, "0.9": {"threshold": 0.9},
             "0.95": {}, "0.99": {"threshold": 0.99}}.items()
        ):  # fmt: skip
            add(results, make, f"{book}_{column}", order=order, group=book, column=column,
                quality=0.5 + (0, 1, 2, 5, 3)[i] / 100 + (book == "text") / 200, paper=papers[book],
                spec=spec | {"codebook": book}, seeds=seeds)  # fmt: skip
            order += 1
        add(results, make, f"{book}_oracle", order=order, group=book, column="oracle", ranked=False,
            quality=0.7, paper=papers[book], spec={"codebook": book}, seeds=seeds,
            label="Oracle")  # fmt: skip
        order += 1


def add_settings(results, make) -> None:
    """The paper's Table 14: the default setting is one cell that stands in three rows."""

    def paper(parameter, value):
        where = {"parameter": parameter, "value": value}
        return {"table": SETTINGS, "where": where, "column": "miou"}

    default = {"lambda1": "5", "lambda2": "2", "tau": "0.5"}
    first, *others = default.items()
    add(results, make, "default", order=0, group=first[0], column=first[1], paper=paper(*first),
        also=[{"group": name, "column": value, "paper": paper(name, value)}
              for name, value in others])  # fmt: skip
    for order, printed in enumerate(published_table(SETTINGS), start=1):
        name, value = printed["parameter"], printed["value"]
        if default[name] != value:
            add(results, make, f"{name}_{value}", order=order, group=name, column=value,
                quality=0.3 + order / 100, paper=paper(name, value))  # fmt: skip


def test_a_row_holds_several_encodings_and_competes_along(results, make, tables) -> None:
    add_thresholds(results, make)
    (table,) = tables()
    names = ["baseline", "code", "bit", "0.9", "0.95", "0.99", "oracle"]
    assert [column.name for column in table.columns] == names
    measured = [row for row in table.rows if row.kind == "measured"]
    assert [(row.label, row.encoding) for row in measured] == [
        ("mmd", "one-hot, ecoc"), ("text", "one-hot, ecoc"),
    ]  # fmt: skip
    assert [row.seeds for row in measured] == ["2", "2"]
    for row in measured:
        # The oracle is the highest and not ranked, the baseline the lowest.
        means = [entry.mean for entry in row.entries]
        assert means.index(max(means)) == 6
        order = sorted(range(6), key=lambda i: -means[i])
        assert [row.ranks[i] for i in order] == [1, 2, 0, 0, 0, 0]
        assert row.ranks[6] == 0
    assert measured[0].entries[0] == measured[1].entries[0]
    paper = [row for row in table.rows if row.kind == "paper"]
    assert [entry.mean for entry in paper[0].entries] == [68.3, 69.0, 69.6, 69.4, 69.9, 70.2, 77.7]
    assert [entry.mean for entry in paper[1].entries] == [68.3, 69.7, 69.4, 70.0, 70.5, 69.8, 78.1]
    assert any("ranked along each row" in note for note in table.notes)
    assert "Not ranked: oracle." in table.notes


def test_differences_of_a_row_are_to_its_own_baseline(results, make, tables) -> None:
    add_thresholds(results, make)
    (table,) = tables()
    measured = [row for row in table.rows if row.kind == "measured"]
    differences = [row for row in table.rows if row.kind == "difference"]
    assert [row.label for row in differences] == [
        "mmd: ECOC minus one-hot", "text: ECOC minus one-hot",
    ]  # fmt: skip
    for row, ours in zip(differences, measured, strict=True):
        assert (row.entries[0], row.entries[6]) == (None, None)
        for place in range(1, 6):
            expected = ours.entries[place].mean - ours.entries[0].mean
            assert row.entries[place].mean == pytest.approx(expected)
            assert row.entries[place].n == 2
    told = findings(table)
    assert len(told) == 2
    assert told[1].startswith("text: ECOC minus one-hot, in points: +")
    assert told[1].count("(") == 5


def test_a_shared_run_counts_once(results, make, tables) -> None:
    add_thresholds(results, make, seeds=(0,))
    (experiment,) = load_experiments(results.plan, results.records)
    assert experiment.status == "13 of 13 runs finished"
    (table,) = tables()
    rows = list(csv.DictReader(io.StringIO(csv_text(table))))
    assert rows[0]["baseline"] == rows[3]["baseline"] != ""


def test_one_setting_stands_in_three_rows_of_sorted_columns(results, make, tables) -> None:
    add_settings(results, make)
    (table,) = tables()
    values = ["0.1", "0.2", "0.5", "1", "2", "5", "10", "20", "50"]
    assert [column.name for column in table.columns] == values
    printed = {}
    for row in (row for row in table.rows if row.kind == "paper"):
        there = [c for c, e in zip(values, row.entries, strict=True) if e is not None]
        printed[len(printed)] = {c: row.entries[values.index(c)].mean for c in there}
    for i, name in enumerate(("lambda1", "lambda2", "tau")):
        assert printed[i] == {
            row["value"]: float(row["miou"])
            for row in published_table(SETTINGS)
            if row["parameter"] == name
        }
    measured = [row for row in table.rows if row.kind == "measured"]
    shared = [
        row.entries[values.index(v)].mean
        for row, v in zip(measured, ["5", "2", "0.5"], strict=True)
    ]
    assert len(set(shared)) == 1
    assert not any(row.kind == "difference" for row in table.rows)


def test_a_grid_of_one_column_shows_losses_in_rows(results, make, tables) -> None:
    """The paper's Table 3: labels say the losses, the column is the mean."""
    for order, printed in enumerate(published_table("table03_loss_ablation")):
        losses = [n for n in ("l_ce", "l_bce", "l_pcd", "l_pcc") if printed[n] == "1"]
        where = {name: printed[name] for name in ("codebook", "l_pcd", "l_pcc")}
        add(results, make, f"c{order}", order=order, label=f"{printed['codebook']}: {losses}",
            encoding="one-hot" if order == 0 else "ecoc", quality=0.4 + order / 50,
            paper={"table": "table03_loss_ablation", "where": where, "column": "miou"})  # fmt: skip
    (table,) = tables()
    assert [column.name for column in table.columns] == ["mIoU"]
    paper = [row.entries[0].mean for row in table.rows if row.kind == "paper"]
    assert paper == [77.6, 76.3, 77.9, 77.8, 78.1, 77.7]
    measured = [row.ranks[0] for row in table.rows if row.kind == "measured"]
    assert measured == [0, 0, 0, 0, 2, 1]


def test_blocks_of_one_row_each_have_their_classes_and_no_heading(results, make, tables) -> None:
    """The paper's Table 5: each source has its own classes in the mean."""
    few = [name for name in make.CITYSCAPES if name not in ("terrain", "truck", "train")]
    order = 0
    for source, classes in (("gta", None), ("synthia", few)):
        for column in ("baseline", "mmd", "text"):
            add(results, make, f"{source}_{column}", order=order, group=source.upper(),
                column=column, encoding="one-hot" if column == "baseline" else "ecoc",
                section={"key": source, "title": source.upper(), "classes": classes},
                means={"mIoU": classes},
                paper={"table": "table05_codebook_uda", "where": {"source": source}})  # fmt: skip
            order += 1
    (table,) = tables()
    assert {row.section for row in table.rows} == {""}
    assert [row.label for row in table.rows if row.kind == "measured"] == ["GTA", "SYNTHIA"]
    paper = [[e.mean for e in row.entries] for row in table.rows if row.kind == "paper"]
    assert paper == [[68.3, 70.2, 70.5], [60.9, 63.1, 63.3]]
    # Equal confusion matrices, but the means are over other classes.
    gta, synthia = (row.entries[0].mean for row in table.rows if row.kind == "measured")
    assert gta != synthia


def test_rows_without_a_group_are_ranked_down_beside_rows_with_one(results, make, tables) -> None:
    for order, (label, group, quality) in enumerate(
        (("a", None, 0.3), ("b", None, 0.5), ("c", "row", 0.6), ("d", None, 0.4))
    ):
        for column, gain in (("1", 0.0), ("2", 0.02)):
            add(results, make, label + column, order=order, label=label, group=group,
                column=column, quality=quality + gain)  # fmt: skip
    (table,) = tables()
    assert [row.ranks for row in table.rows] == [(0, 0), (1, 1), (2, 1), (2, 2)]


def test_groups_are_for_grids_alone(results, make, tables) -> None:
    for order, encoding in enumerate(("one-hot", "ecoc")):
        row = make.plan_row(
            f"{encoding}-0", encoding, order=order, also=[{"group": "other"}],
            row={"label": "DACS", "method": "DACS", "encoding": encoding, "group": f"g{order}"},
        )  # fmt: skip
        results.add(row, make.record(f"{encoding}-0", cell=encoding))
    (table,) = tables()
    assert [row.label for row in table.rows] == [
        "DACS (one-hot)", "DACS (ECOC)", "DACS: ECOC minus one-hot",
    ]  # fmt: skip


def test_two_cells_in_one_place_are_refused(results, make, tables) -> None:
    for order, cell in enumerate(("a", "b")):
        add(results, make, cell, order=order, group="row", column="1")
    with pytest.raises(ConfigError, match=r"cells a and b both stand in row 'row', column '1'"):
        tables()


def test_unknown_fields_of_a_further_place_are_refused(results, make, tables) -> None:
    add(results, make, "a", order=0, group="row", also=[{"row": "other"}])
    with pytest.raises(ConfigError, match=r"cell a, also: got 'row', allowed group, column, paper"):
        tables()


def test_figures_show_contests_along_the_rows(results, make, tmp_path) -> None:
    add_thresholds(results, make, seeds=(0,))
    (experiment,) = load_experiments(results.plan, results.records)
    assert list(experiment.contests) == ["mmd", "text"]
    assert [cell.contender for cell in experiment.contests["text"]][:2] == ["baseline", "code"]
    drawn = draw_figures(experiment, tmp_path)
    names = [one.path.name for one in drawn]
    assert {"grid_curves.png", "grid_grid.png", "grid_classes.png"} <= set(names)
    for one in drawn:
        with Image.open(one.path) as picture:
            assert picture.width == 1258
    # The best of all against the baseline of its row.
    base, best = compared(list(experiment.cells), experiment)
    assert (base.full_name, best.full_name) == ("text, baseline", "text, 0.95")


def test_figure_6_has_a_line_for_each_codebook(results, make, tmp_path, monkeypatch) -> None:
    """Code-wise labels are T = 0.5, bit-wise ones T = 1; the oracle of another spec is none."""
    add_thresholds(results, make)
    (experiment,) = load_experiments(results.plan, results.records)
    sweep = {
        "bits": 100, "sweep_right": [80] * 8, "sweep_mask": [50] * 8,
    }  # fmt: skip
    values = [0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0]
    for cell in experiment.cells:
        for record in cell.records.values():
            network = {"labels": sweep, "pixels": 10}
            record["spec"]["method"] = "supervised" if "oracle" in cell.name else "daformer"
            record["diagnostics"] = {
                "images": 1, "thresholds": values, "student": network, "teacher": None,
            }  # fmt: skip
    drawn_axes = []
    made = matplotlib.figure.Figure.subplots

    def subplots(self, *args, **kwargs):
        grid = made(self, *args, **kwargs)
        drawn_axes.extend(grid.flat)
        return grid

    monkeypatch.setattr(matplotlib.figure.Figure, "subplots", subplots)
    cells = [cell for cell in experiment.cells if cell.name == "text_0.95"]
    drawn = draw_thresholds(cells, experiment, tmp_path / "t.png")
    bars, labels = drawn_axes[1].get_legend_handles_labels()
    assert labels == ["mmd", "text"]
    for container, book in zip(bars, labels, strict=True):
        line = container.lines[0]
        assert list(line.get_xdata()) == [0, 4, 5, 6, 7]
        names = [f"{book}_{column}" for column in ("code", "0.9", "0.95", "0.99", "bit")]
        by_name = {cell.name: cell for cell in experiment.cells}
        means = [np.mean(list(cell_means(by_name[name]).values())) for name in names]
        assert line.get_ydata() == pytest.approx(means)
    assert "code-wise labels at 0.5" in drawn.caption
