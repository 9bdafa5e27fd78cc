import csv
import hashlib
import json
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ecocseg.errors import UserError
from pipeline.report.panels import cell_panels, inline_picture
from pipeline.report.runs import load_experiments
from pipeline.stages.aggregate import aggregate, show


def contents(folder: Path) -> dict[str, str]:
    """Every file below `folder` with a digest."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


class Page(HTMLParser):
    """What a browser would load, the open tags, and the texts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.open: list[str] = []
        self.ids: set[str] = set()
        self.anchors: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        assert tag not in {"script", "link", "iframe"}
        self.loads += [named["src"] or ""] if "src" in named else []
        self.anchors += [named["href"] or ""] if "href" in named else []
        self.ids |= {named["id"] or ""} if "id" in named else set()
        if tag not in {"meta", "img"}:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def whole(make, tmp_path_factory) -> Path:
    """A results folder with everything in it, aggregated once."""
    root = tmp_path_factory.mktemp("whole")
    results = make.Results(root / "results")
    make.add_uda(results, unfinished=["streets_uda-oracle-s1"], paper=True)
    make.add_grid(results, seeds=(0,))
    make.add_pictures(results, root / "processed")
    aggregate(results.plan, results.records, results.root, root / "processed")
    return results.root


def test_everything_is_written(whole: Path) -> None:
    names = set(contents(whole))
    for experiment in ("streets_uda", "ssl_grid"):
        expected = {f"tables/{experiment}.{ending}" for ending in ("md", "tex", "csv", "html")}
        expected |= {f"figures/{experiment}_{kind}.png"
                     for kind in ("curves", "classes", "confusion", "pseudo_labels")}  # fmt: skip
        expected |= {f"plots/{experiment}.csv"}
        assert expected <= names
    assert {"figures/ssl_grid_grid.png", "figures/search_slices.png", "report.html"} <= names


def test_figures_are_drawn_and_small(whole: Path) -> None:
    for path in (whole / "figures").glob("*.png"):
        with Image.open(path) as picture:
            pixels = np.asarray(picture.convert("RGB")).reshape(-1, 3)
            assert picture.width >= 1200
        saturated = (pixels.max(axis=1) - pixels.min(axis=1) > 60).mean()
        assert saturated > 0.001, path.name
        assert path.stat().st_size < 250_000


def test_the_report_loads_nothing_and_is_well_formed(whole: Path) -> None:
    page = Page((whole / "report.html").read_text(encoding="utf-8"))
    assert page.open == []
    assert page.loads
    assert all(source.startswith("data:image/") for source in page.loads)
    assert {anchor.removeprefix("#") for anchor in page.anchors} <= page.ids


def test_the_report_tells_findings_status_and_origin(whole: Path) -> None:
    text = (whole / "report.html").read_text(encoding="utf-8")
    for expected in (
        "7 of 8 runs finished", "DACS: ECOC minus one-hot", "over 2 seeds", "0123abc",
        "torch 2.15.0", "node-1", "cpu, x86_64", "streets_uda-dacs_ecoc-s0",
        "last checkpoint, student",
        "split val, 60 images", "streets_game, split train", "DACS (ECOC), step 300",
    ):  # fmt: skip
        assert expected in text


def test_the_report_begins_with_what_ecoc_does_and_what_nothing_learns(whole: Path) -> None:
    text = (whole / "report.html").read_text(encoding="utf-8")
    first = text[text.index("</h1>") : text.index("<nav>")]
    assert "DACS: ECOC minus one-hot" in first
    assert "over 2 seeds, which" in first
    assert "No run learns" not in first


def test_classes_that_no_run_learns_are_named(make, tmp_path: Path) -> None:
    results = make.Results(tmp_path / "results")
    classes = ["road", "pole", "sign", "ghost"]
    # One run learns the sign, none the pole, and there is no ghost.
    hits = {"one-hot": [50, 0, 0, 0], "ecoc": [50, 0, 5, 0]}
    for order, (encoding, right) in enumerate(hits.items()):
        row = make.plan_row(
            f"dacs_{encoding}-0", f"dacs_{encoding}", 0, experiment="small", order=order,
            row={"label": "DACS", "method": "dacs", "encoding": encoding, "ranked": True},
        )  # fmt: skip
        matrix = np.diag(right) + np.array([[0, 2, 0, 0], [9, 0, 0, 0], [9, 0, 0, 0], [0, 0, 0, 0]])
        results.add(
            row,
            make.record(
                f"dacs_{encoding}-0",
                cell=f"dacs_{encoding}",
                seed=0,
                classes=classes,
                matrix=matrix.tolist(),
            ),
        )
    aggregate(results.plan, results.records, results.root, tmp_path / "processed")
    text = (results.root / "report.html").read_text(encoding="utf-8")
    first = text[text.index("</h1>") : text.index("<nav>")]
    assert "No run learns pole: at 0 in every one." in first
    assert "one seed, so nothing can be said about chance" in first


def test_metrics_are_means_over_seeds_of_the_records(whole: Path) -> None:
    found = json.loads((whole / "metrics.json").read_text())["streets_uda"]
    values = []
    for seed in (0, 1):
        path = whole / "records" / f"streets_uda-dacs_ecoc-s{seed}.json"
        m = np.array(json.loads(path.read_text())["results"]["last"]["student"]["confusion"])
        unions = [m[i].sum() + m[:, i].sum() - m[i, i] for i in range(19)]
        values.append(np.mean([m[i, i] / unions[i] for i in range(19)]))
    assert found["dacs_ecoc"]["miou_mean"] == pytest.approx(100 * np.mean(values), abs=1e-4)
    assert found["dacs_ecoc"]["miou_std"] == pytest.approx(100 * np.std(values, ddof=1), abs=1e-4)
    assert found["dacs_ecoc"]["n"] == 2
    assert found["oracle"]["n"] == 1
    assert "miou_std" not in found["oracle"]


def test_plots_hold_every_evaluation(whole: Path) -> None:
    rows = list(csv.DictReader((whole / "plots" / "streets_uda.csv").open()))
    assert list(rows[0]) == [
        "experiment", "cell", "label", "column", "seed", "step", "network", "miou",
    ]  # fmt: skip
    assert len(rows) == 7 * 3 * 2
    record = json.loads((whole / "records" / "streets_uda-dacs_ecoc-s1.json").read_text())
    point = record["curves"]["eval"][-1]
    (row,) = [
        r for r in rows
        if (r["cell"], r["seed"], r["step"], r["network"]) == ("dacs_ecoc", "1", "300", "teacher")
    ]  # fmt: skip
    assert float(row["miou"]) == pytest.approx(point["teacher/miou"])


def test_equal_records_give_equal_bytes(whole: Path) -> None:
    before = contents(whole)
    aggregate(whole / "plan.jsonl", whole / "records", whole, whole.parent / "processed")
    assert contents(whole) == before


def test_without_any_finished_run_there_is_a_report(make, results) -> None:
    results.add(make.plan_row("a-0", "a"), None)
    aggregate(results.plan, results.records, results.root)
    assert "0 of 1 runs finished" in (results.root / "report.html").read_text(encoding="utf-8")
    assert json.loads((results.root / "metrics.json").read_text()) == {"streets_uda": {}}


def test_a_refused_table_leaves_nothing_written(make, results, tmp_path: Path) -> None:
    results.add(make.plan_row("a-0", "a", experiment="fine"), make.record("a-0", cell="a"))
    for run_id in ("b-0", "c-0"):
        made = make.record(run_id, cell=run_id)
        made["protocol"]["split"] = run_id
        results.add(make.plan_row(run_id, run_id), made)
    with pytest.raises(UserError, match="never mixes protocols"):
        aggregate(results.plan, results.records, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_record_without_pseudo_labels_or_curves_is_reported(make, results) -> None:
    made = make.record("a-0", cell="a", curves={"train": [], "eval": []})
    made["environment"] = {}
    made["timing"] = {}
    results.add(make.plan_row("a-0", "a"), made)
    aggregate(results.plan, results.records, results.root)
    names = {path.name for path in (results.root / "figures").iterdir()}
    assert names == {"streets_uda_classes.png", "streets_uda_confusion.png"}


def test_panels_are_the_last_ones_of_the_lowest_finished_seed(make, results, tmp_path) -> None:
    make.add_uda(results, unfinished=["streets_uda-oracle-s0"])
    make.add_pictures(results, tmp_path / "processed")
    (experiment,) = load_experiments(results.plan, results.records)
    panels = cell_panels(experiment, results.root / "runs")
    oracle = [panel.path for panel in panels if panel.label == "Oracle"]
    assert [path.name for path in oracle] == ["step_100.png", "step_300.png"]
    assert oracle[0].parts[-3] == "streets_uda-oracle-s1"


def test_photographs_are_inlined_small_and_charts_untouched(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (600, 2000, 3), dtype=np.uint8)
    photograph, chart = tmp_path / "photograph.png", tmp_path / "chart.png"
    Image.fromarray(noise).resize((3000, 900)).save(photograph)
    Image.fromarray(noise[:80, :100]).quantize(16).save(chart)
    assert inline_picture(photograph).startswith("data:image/jpeg;base64,")
    assert len(inline_picture(photograph)) < photograph.stat().st_size / 3
    assert inline_picture(chart).startswith("data:image/png;base64,")


def test_show_is_markdown_with_classes_in_rows(make, results) -> None:
    make.add_uda(results)
    text = show(results.plan, results.records)
    lines = [line for line in text.splitlines() if line.startswith("|")]
    heads = [head.strip() for head in lines[0].split("|")[2:4]]
    assert heads == [r"Source-only\*", r"DACS (one-hot)\*"]
    assert [line.split("|")[1].strip() for line in lines[3:5]] == ["road", "sidewalk"]
    assert max(map(len, lines)) < 130
    assert "Selection: last checkpoint, student." in text


def test_the_stage_imports_nothing_heavy() -> None:
    heavy = "{'torch', 'pandas', 'matplotlib', 'scipy', 'ray', 'mlflow'}"
    code = f"import sys, pipeline.stages.aggregate; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
