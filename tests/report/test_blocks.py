"""Tables of several blocks, as the paper's Table 1: each is ranked and compared by itself."""

import csv
import io
import json
import os
import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from ecocseg.errors import ConfigError, UserError
from pipeline.report.formats import csv_text, latex, write_all
from pipeline.report.lines import best_cell
from pipeline.report.page import findings
from pipeline.report.runs import load_experiments
from pipeline.stages.aggregate import metrics, show

GOLDEN = Path(__file__).parent / "golden"
WITHOUT = ("terrain", "truck", "train")
METHODS = {"DACS": 0.42, "DAFormer": 0.55, "MIC": 0.6}
TABLE = "table01_uda"


def add_blocks(results, make, seeds=(0, 1), methods=tuple(METHODS), synthia=True, **report) -> None:
    """Methods x encodings x two sources; MIC in sliding windows, the others on whole images."""
    sixteen = [name for name in make.CITYSCAPES if name not in WITHOUT]
    thirteen = [name for name in sixteen if name not in ("wall", "fence", "pole")]
    blocks = {
        "gta": ("GTAv → Cityscapes", None, {"mIoU": None}, 0.0),
        "synthia": ("SYNTHIA → Cityscapes", sixteen, {"mIoU": sixteen, "mIoU13": thirteen}, -0.1),
    }
    order = 0
    for key, (title, classes, means, harder) in blocks.items():
        for method in methods:
            for encoding in ("one-hot", "ecoc"):
                cell = f"{key}_{method.lower()}_{encoding}"
                where = {"benchmark": f"{key}2cityscapes", "method": method, "encoding": encoding}
                for seed in seeds:
                    run_id = f"blocks-{cell}-s{seed}"
                    row = make.plan_row(
                        run_id, cell, seed, experiment="blocks", order=order,
                        title="Unsupervised domain adaptation", description="",
                        row={"label": method, "method": method, "encoding": encoding},
                        section={"key": key, "title": title, "classes": classes}, means=means,
                        mixed_protocols=True, paper={"table": TABLE, "where": where},
                        deviation="bf16" if method == "MIC" else None,
                        reference=[
                            {"table": TABLE, "label": name, "section": block,
                             "where": {"benchmark": f"{block}2cityscapes", "method": name}}
                            for block in blocks for name in ("ProDA", "CDAC")
                        ],
                    )  # fmt: skip
                    row["report"] |= report
                    made = make.record(
                        run_id, experiment="blocks", cell=cell, seed=seed,
                        quality=METHODS[method] + harder + 0.02 * (encoding == "ecoc"),
                        ecoc=encoding == "ecoc",
                    )  # fmt: skip
                    if method == "MIC":
                        made["protocol"] |= {
                            "dataset": "streets_fine", "mode": "slide", "window": [96, 96],
                            "stride": [48, 48], "average": "logits", "image_size": [192, 384],
                            "fingerprint": "77",
                        }  # fmt: skip
                    results.add(row, made if synthia or key == "gta" else None)
                order += 1


def rows_of(table, section, kind="measured"):
    return [row for row in table.rows if row.section.startswith(section) and row.kind == kind]


@pytest.mark.parametrize("ending", ["md", "tex", "csv", "html"])
def test_golden(results, make, tables, ending: str) -> None:
    add_blocks(results, make, methods=("DACS", "MIC"))
    (table,) = tables()
    found = dict(write_all(table))[ending]
    path = GOLDEN / f"blocks.{ending}"
    if os.environ.get("ECOCSEG_UPDATE_GOLDEN"):
        path.write_text(found, encoding="utf-8")
    assert found == path.read_text(encoding="utf-8")


def test_latex_has_a_heading_a_block_and_no_letter_beyond_ascii(results, make, tables) -> None:
    """LaTeX's kernel has no arrow and no Greek of its own."""
    add_blocks(results, make, seeds=(0, 1), title="λ₁ → τ′, 2 × 2")
    (table,) = tables()
    text = latex(table)
    assert text.isascii()
    known = {
        "begin", "end", "centering", "caption", "label", "scriptsize", "setlength", "tabcolsep",
        "textbf", "underline", "tiny", "pm", "usepackage", "ifdim", "else", "fi", "width",
        "textwidth", "toprule", "midrule", "bottomrule", "resizebox", "rotatebox", "multicolumn",
        "textit", "rightarrow", "lambda", "tau", "times",
    }  # fmt: skip
    assert set(re.findall(r"\\([A-Za-z]+)", text)) <= known
    assert text.count(r"\multicolumn{23}{c}{") == 2
    assert r"\caption{$\lambda$$_{1}$ $\rightarrow$ $\tau$$'$, 2 $\times$ 2." in text
    rules = [line.strip() for line in text.splitlines()]
    assert not any(a == b == r"\midrule" for a, b in pairwise(rules))


def test_ranks_and_differences_stay_within_a_block(results, make, tables) -> None:
    add_blocks(results, make)
    (table,) = tables()
    mean = [column.name for column in table.columns].index("mIoU")
    for section in ("GTAv", "SYNTHIA"):
        measured = rows_of(table, section)
        assert [row.label for row in measured] == [
            f"{method} ({name})" for method in METHODS for name in ("one-hot", "ECOC")
        ]
        order = np.argsort([-row.entries[mean].mean for row in measured])
        assert [measured[i].ranks[mean] for i in order] == [1, 2, 0, 0, 0, 0]
        differences = rows_of(table, section, "difference")
        assert [row.label for row in differences] == [f"{m}: ECOC minus one-hot" for m in METHODS]
        for i, row in enumerate(differences):
            base, ours = measured[2 * i].entries[mean], measured[2 * i + 1].entries[mean]
            assert row.entries[mean].mean == pytest.approx(ours.mean - base.mean)


def test_means_are_over_the_classes_of_the_block(results, make, tables) -> None:
    """By a loop over the confusion matrix, and in metrics.json as in the table."""
    add_blocks(results, make, seeds=(0,), methods=("DACS",))
    (table,) = tables()
    names = [column.name for column in table.columns]
    assert names == [*make.CITYSCAPES, "mIoU", "mIoU13"]
    (experiment,) = load_experiments(results.plan, results.records)
    found = metrics([experiment])["blocks"]
    for section, key, absent, last in (
        ("GTAv", "gta", (), None),
        ("SYNTHIA", "synthia", WITHOUT, 13),
    ):
        row = rows_of(table, section)[1]
        (cell,) = [c for c in experiment.cells if c.name == f"{key}_dacs_ecoc"]
        m = np.array(cell.records[0]["results"]["last"]["student"]["confusion"])
        iou = {
            name: 100 * m[i, i] / (m[i].sum() + m[:, i].sum() - m[i, i])
            for i, name in enumerate(make.CITYSCAPES)
        }
        kept = [name for name in make.CITYSCAPES if name not in absent]
        assert row.entries[19].mean == pytest.approx(sum(iou[n] for n in kept) / len(kept))
        assert found[cell.name]["miou_mean"] == pytest.approx(row.entries[19].mean, abs=1e-4)
        assert [n for n, e in zip(names, row.entries, strict=True) if e is None] == [
            *absent, *([] if last else ["mIoU13"])
        ]  # fmt: skip
        if last:
            few = [name for name in kept if name not in ("wall", "fence", "pole")]
            assert row.entries[20].mean == pytest.approx(sum(iou[n] for n in few) / 13)


def test_papers_numbers_are_the_blocks_own(results, make, tables) -> None:
    add_blocks(results, make, seeds=(0,))
    (table,) = tables()
    place = {column.name: i for i, column in enumerate(table.columns)}
    for section, expected in (("GTAv", (54.5, 70.5, 76.9)), ("SYNTHIA", (52.1, 63.3, 69.0))):
        ecoc = rows_of(table, section, "paper")[1::2]
        assert tuple(row.entries[place["mIoU"]].mean for row in ecoc) == expected
    synthia = rows_of(table, "SYNTHIA", "paper")[1]
    printed = (88.0, 17.6, 88.2, 47.4, 50.2, 87.8, 89.1, 72.6, 41.5, 86.2, 9.3, 34.5, 53.6)
    assert synthia.entries[place["mIoU13"]].mean == pytest.approx(sum(printed) / 13)
    assert synthia.entries[place["terrain"]] is None
    assert rows_of(table, "GTAv", "paper")[1].entries[place["mIoU13"]] is None


def test_references_stand_first_and_are_not_ranked(results, make, tables) -> None:
    add_blocks(results, make, seeds=(0,), methods=("DACS",))
    (table,) = tables()
    for section, means in (("GTAv", [57.5, 75.3]), ("SYNTHIA", [55.5, 68.7])):
        rows = [row for row in table.rows if row.section.startswith(section)]
        assert [row.label for row in rows[:2]] == ["ProDA (Table 1)", "CDAC (Table 1)"]
        assert [row.entries[19].mean for row in rows[:2]] == means
        assert all(rank == 0 for row in rows[:2] for rank in row.ranks)
    assert any("ProDA one-hot (gta2cityscapes); its printed" in note for note in table.notes)


def test_references_need_a_block_that_is_there(results, make, tables) -> None:
    where = {"benchmark": "gta2cityscapes", "method": "ProDA"}
    wrong = [{"table": TABLE, "label": "ProDA", "section": "gtav", "where": where}]
    add_blocks(results, make, seeds=(0,), methods=("DACS",), reference=wrong)
    with pytest.raises(ConfigError, match=r"ProDA: got section 'gtav', allowed gta, synthia"):
        tables()


def test_classes_of_a_block_must_be_there(results, make, tables) -> None:
    section = {"key": "k", "title": "K", "classes": ["road", "lorry"]}
    row = make.plan_row("a-0", "a", section=section)
    results.add(row, make.record("a-0", cell="a"))
    with pytest.raises(ConfigError, match=r"section k, classes: got 'lorry', allowed road"):
        tables()


def test_protocols_that_are_declared_mixed_are_told_row_by_row(results, make, tables) -> None:
    add_blocks(results, make, seeds=(0,))
    (table,) = tables()
    told = [note for note in table.notes if note.startswith("Protocol")]
    assert len(told) == 2
    assert told[0].startswith("Protocol of DACS, DAFormer: streets_camera, split val, 60 images, w")
    assert told[1].startswith("Protocol of MIC: streets_fine, split val, 60 images, sliding window")
    assert "96 x 96, stride 48 x 48, logits averaged, at 192 x 384" in told[1]


@pytest.mark.parametrize(("field", "value"), [("split", "test"), ("images", 61)])
def test_what_is_scored_is_never_mixed(results, make, tables, field, value) -> None:
    add_blocks(results, make, seeds=(0,), methods=("DACS",))
    made = make.record("b-0", experiment="blocks", cell="b")
    made["protocol"][field] = value
    results.add(make.plan_row("b-0", "b", experiment="blocks", mixed_protocols=True, order=9), made)
    with pytest.raises(UserError, match=f"with {field} = .*only how images are put through"):
        tables()


def test_undeclared_mixtures_are_refused_and_old_records_are_none(results, make, tables) -> None:
    """Before evaluation could average logits, records told no average: it was of scores."""
    for run_id, average in (("a-0", None), ("b-0", "scores")):
        made = make.record(run_id, cell=run_id)
        made["protocol"] |= {} if average is None else {"average": average}
        results.add(make.plan_row(run_id, run_id), made)
    assert tables()
    made = make.record("c-0", cell="c-0")
    made["protocol"]["average"] = "logits"
    results.add(make.plan_row("c-0", "c-0"), made)
    with pytest.raises(UserError, match="average = 'scores', run c-0 with 'logits'"):
        tables()


def test_rows_that_deviate_are_marked_and_told(results, make, tables) -> None:
    add_blocks(results, make, seeds=(0,))
    (table,) = tables()
    assert {row.label for row in table.rows if row.deviates} == {"MIC (one-hot)", "MIC (ECOC)"}
    (note,) = [note for note in table.notes if "Not paper-exact" in note]
    assert note == "* Not paper-exact: MIC: bf16."
    texts = dict(write_all(table))
    for ending, mark in (("md", r"(ECOC)\*"), ("tex", "(ECOC)$^{*}$"), ("csv", "(ECOC)*"),
                         ("html", "(ECOC)<sup>*</sup>")):  # fmt: skip
        assert texts[ending].count(f"MIC {mark}") == 2
        assert f"DAFormer {mark}" not in texts[ending]


def test_deviations_are_told_as_closely_as_need_be(results, make, tables) -> None:
    add_blocks(results, make, seeds=(0,), methods=("DACS", "MIC"))
    for name, texts in {"gta_dacs_ecoc": ["fewer steps"], "synthia_dacs_ecoc": ["fewer steps"],
                        "gta_mic_one-hot": ["smaller crop", "bf16"]}.items():  # fmt: skip
        (row,) = (row for row in results.rows if row["run_id"] == f"blocks-{name}-s0")
        row["report"] |= {"deviation": texts[0], "overrides": texts[1:]}
    results.plan.write_text("".join(json.dumps(row) + "\n" for row in results.rows))
    (table,) = tables()
    assert [note for note in table.notes if "Not paper-exact" in note] == [
        "* Not paper-exact: DACS (ECOC): fewer steps.",
        "* Not paper-exact: GTAv → Cityscapes, MIC (one-hot): smaller crop; bf16.",
        "* Not paper-exact: MIC (ECOC), SYNTHIA → Cityscapes, MIC (one-hot): bf16.",
    ]


def test_a_mark_goes_with_the_override_that_made_it(results, make, tables) -> None:
    add_blocks(results, make, seeds=(0,), methods=("DACS",))
    for overrides in (["schedule.steps=5"], ["schedule.gpus=2"], []):
        marked = overrides == ["schedule.steps=5"]
        for row in results.rows:
            row["report"] |= {"overrides": overrides}
        results.plan.write_text("".join(json.dumps(row) + "\n" for row in results.rows))
        (table,) = tables()
        assert any(row.deviates for row in table.rows) == marked
        assert any("Not paper-exact" in note for note in table.notes) == marked


def test_the_best_cell_is_sought_in_one_block(results, make) -> None:
    """The second block has the higher means here, and they are means over other classes."""
    add_blocks(results, make, seeds=(0,), methods=("DACS",))
    (experiment,) = load_experiments(results.plan, results.records)
    for cell in experiment.cells:
        gain = 50 if cell.name.startswith("synthia") else 0
        matrix = np.diag(np.full(19, 100)) + (50 - gain)
        cell.records[0]["results"]["last"]["student"]["confusion"] = matrix.tolist()
    assert best_cell(experiment).name.startswith("gta")
    assert best_cell(experiment, experiment.cells[2:]).name.startswith("synthia")


def test_the_terminal_gets_a_part_for_each_block_and_few_rows(results, make) -> None:
    add_blocks(results, make, seeds=(0, 1))
    text = show(results.plan, results.records)
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert max(map(len, lines)) <= 130
    first, second = text.split("## SYNTHIA → Cityscapes")
    assert "## GTAv → Cityscapes" in first
    assert "terrain" in first
    assert not any(line.startswith("| terrain") for line in second.splitlines())
    assert "mIoU13" in second


def test_before_the_first_run_the_papers_means_are_there(results, make, tables) -> None:
    add_blocks(results, make, seeds=(0,), methods=("DACS",))
    for path in results.records.iterdir():
        path.unlink()
    (table,) = tables()
    assert [column.name for column in table.columns] == ["mIoU", "mIoU13"]
    gta, synthia = (rows_of(table, section, "paper")[1] for section in ("GTAv", "SYNTHIA"))
    assert (gta.entries[0].mean, gta.entries[1]) == (54.5, None)
    assert synthia.entries[0].mean == 52.1
    assert 52.1 < synthia.entries[1].mean < 65
    assert table.notes[0] == "0 of 4 runs finished."
    for _, text in write_all(table):
        assert "54.5" in text


def test_csv_says_which_block_and_findings_too(results, make, tables) -> None:
    add_blocks(results, make)
    (table,) = tables()
    rows = list(csv.DictReader(io.StringIO(csv_text(table))))
    assert [r["section"] for r in rows if r["label"] == "DAFormer (ECOC)"] == [
        "GTAv → Cityscapes", "SYNTHIA → Cityscapes",
    ]  # fmt: skip
    told = findings(table)
    assert len(told) == 6
    assert told[0].startswith("GTAv → Cityscapes, DACS: ECOC minus one-hot: ")
    assert all("points (mIoU), 95 % interval" in text for text in told)
