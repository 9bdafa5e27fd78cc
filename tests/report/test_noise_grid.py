"""Grids along a scale, with several ECOC rows: the label noise experiments in the report."""

import json
from statistics import mean

import matplotlib.figure
import pytest

from ecocseg.codes.codebook import Codebook
from ecocseg.data.classes import CAMVID_11, CITYSCAPES_19
from pipeline.config.experiment import load_experiment, report_of
from pipeline.config.run_spec import RunSpec
from pipeline.planning.plan import compose_cell
from pipeline.report.class_figures import draw_classes
from pipeline.report.grid_figure import draw_grid
from pipeline.report.lines import cell_means
from pipeline.report.page import findings
from pipeline.report.runs import load_experiments

BOOKS = ("text", "mmd", "optimised")
RATES = ("0", "10", "20", "40")
ENCODINGS = {"one-hot": 0.5, "text": 0.42, "mmd": 0.48, "optimised": 0.52}


@pytest.fixture
def experiment(results, make):
    """Runs of `camvid_noise` that are the worse the more labels are wrong."""
    described = load_experiment("camvid_noise")
    for order, (name, entry) in enumerate(described["cells"].items()):
        kind, encoding, rate = name.split("_")
        config = {"encoding": {"name": "one-hot" if encoding == "one-hot" else "ecoc"}}
        quality = ENCODINGS[encoding] - int(rate) / (200 if kind == "uniform" else 150)
        for seed in (0, 1, 2):
            row = make.plan_row(f"noise-{name}-s{seed}", name, seed, experiment="camvid_noise")
            row["report"] = report_of(described, entry, config, order, [])
            made = make.record(
                row["run_id"], experiment="camvid_noise", cell=name, seed=seed, quality=quality,
                classes=make.CITYSCAPES[:11],
            )  # fmt: skip
            made["results"]["last"]["student"]["confusion"][0][1] += 1000 * order * (seed + 1)
            results.rows.append(row)
            (results.records / f"{row['run_id']}.json").parent.mkdir(parents=True, exist_ok=True)
            (results.records / f"{row['run_id']}.json").write_text(json.dumps(made))
    results.plan.write_text("".join(json.dumps(row) + "\n" for row in results.rows))
    (found,) = load_experiments(results.plan, results.records)
    return found


def test_each_codebook_is_compared_with_one_hot_at_each_rate(experiment, tables) -> None:
    (table,) = tables()
    assert [column.name for column in table.columns] == list(RATES)
    assert "Columns: % of labels wrong." in table.notes
    cells = {cell.name: cell for cell in experiment.cells}
    for kind, section in (("uniform", "Uniform noise"), ("confusable", "Confusable noise")):
        rows = [row for row in table.rows if row.section == section]
        assert [row.label for row in rows] == [
            "Supervised (one-hot)",
            "Supervised (ECOC, text, d_min 14)",
            "Supervised (ECOC, mmd, d_min 17)",
            "Supervised (ECOC, optimised, d_min 21)",
            "Supervised: ECOC, text, d_min 14 minus one-hot",
            "Supervised: ECOC, mmd, d_min 17 minus one-hot",
            "Supervised: ECOC, optimised, d_min 21 minus one-hot",
        ]
        for book, row in zip(BOOKS, rows[4:], strict=True):
            assert row.kind == "difference"
            for rate, entry in zip(RATES, row.entries, strict=True):
                ours, base = (
                    cell_means(cells[f"{kind}_{name}_{rate}"]) for name in (book, "one-hot")
                )
                points = [ours[seed] - base[seed] for seed in (0, 1, 2)]
                assert entry.mean == pytest.approx(mean(points))
                # Student's t of two degrees of freedom, 97.5 %.
                spread = (sum((p - mean(points)) ** 2 for p in points) / 2) ** 0.5
                assert entry.high - entry.mean == pytest.approx(4.302653 * spread / 3**0.5)
    told = findings(table)
    assert len(told) == 6
    assert told[0].startswith("Uniform noise, Supervised: ECOC, text, d_min 14 minus one-hot: ")
    assert all(" points (40 % of labels wrong), 95 % interval " in text for text in told)


@pytest.fixture
def drawn(monkeypatch):
    """Axes of the figures by what they are saved as, as far as they were drawn."""
    made = []
    original = matplotlib.figure.Figure.subplots

    def kept(figure, *arguments, **options):
        axes = original(figure, *arguments, **options)
        made.append(list(axes.flat))
        return axes

    monkeypatch.setattr(matplotlib.figure.Figure, "subplots", kept)
    return made


def test_the_figure_has_a_panel_for_each_kind_and_rates_to_scale(
    experiment, tmp_path, drawn
) -> None:
    draw_grid(experiment, tmp_path / "grid.png")
    (panels,) = drawn
    assert [axis.get_title(loc="left") for axis in panels] == ["Uniform noise", "Confusable noise"]
    assert panels[0].get_ylabel() == "mIoU (%)"
    cells = {cell.name: cell for cell in experiment.cells}
    for kind, axis in zip(("uniform", "confusable"), panels, strict=True):
        assert axis.get_xlabel() == "% of labels wrong"
        assert axis.get_xticks().tolist() == [0, 10, 20, 40]
        assert [label.get_text() for label in axis.get_xticklabels()] == list(RATES)
        lines = [container.lines[0] for container in axis.containers]
        assert len(lines) == 4
        for encoding, line in zip(ENCODINGS, lines, strict=True):
            assert line.get_xdata() == pytest.approx([0, 10, 20, 40], abs=1)
            wanted = [mean(cell_means(cells[f"{kind}_{encoding}_{r}"]).values()) for r in RATES]
            assert line.get_ydata() == pytest.approx(wanted)
        # Lines that meet in a point keep their bars apart.
        assert len({round(float(line.get_xdata()[0]), 6) for line in lines}) == 4


def test_classes_are_shown_at_the_far_end_for_the_best_codebook(
    experiment, tmp_path, drawn
) -> None:
    draw_classes(experiment, tmp_path / "classes.png")
    (panels,) = drawn
    assert [axis.get_title(loc="left") for axis in panels] == [
        "Uniform noise, Supervised, 40 % of labels wrong",
        "Confusable noise, Supervised, 40 % of labels wrong",
    ]
    for axis in panels:
        legend = [text.get_text() for text in axis.get_legend().get_texts()]
        assert legend == ["Supervised (one-hot)", "Supervised (ECOC, optimised, d_min 21)"]
        figure = axis.get_figure()
        title = axis._left_title.get_window_extent()
        assert not title.overlaps(axis.get_legend().get_window_extent())
        assert title.x1 < figure.bbox.width


@pytest.mark.parametrize("name", ["camvid_noise", "streets_noise"])
def test_both_kinds_share_the_runs_without_noise(name) -> None:
    described = load_experiment(name)
    digests = {}
    for cell, entry in described["cells"].items():
        config, components = compose_cell(described, cell, [])
        noise = components.benchmark.labelled.noise
        kind, encoding, rate = cell.split("_")
        assert noise.rate == int(rate) / 100 == int(entry["column"]) / 100
        assert rate == "0" or noise.kind == kind
        assert noise.unit == "segment"
        assert getattr(components.encoding, "codebook", "one-hot") == encoding
        spec = RunSpec(experiment=name, cell=cell, seed=0, config=config, data={})
        digests.setdefault(spec.digest, []).append(cell)
    assert len(digests) == 28
    assert [cells for cells in digests.values() if len(cells) > 1] == [
        [f"uniform_{encoding}_0", f"confusable_{encoding}_0"] for encoding in ENCODINGS
    ]


@pytest.mark.parametrize("book", BOOKS)
@pytest.mark.parametrize(
    ("name", "names"),
    [("camvid_noise", CAMVID_11.names), ("streets_noise", CITYSCAPES_19.names)],
)
def test_the_distances_that_the_rows_tell_are_those_of_the_codebooks(name, names, book) -> None:
    words = Codebook.build(book, class_names=names, length=40).bits.tolist()
    least = min(
        sum(a != b for a, b in zip(words[i], words[j], strict=True))
        for i in range(len(words))
        for j in range(i)
    )
    entry = load_experiment(name)["cells"][f"uniform_{book}_40"]
    assert entry["variant"] == f"{book}, d_min {least}"
