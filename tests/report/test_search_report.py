"""What the report makes of a search's files, against numbers worked out by hand."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.report.page import report_page
from pipeline.report.published import published_table
from pipeline.report.search_data import categories, paper_series
from pipeline.report.search_page import search_section, write_search_report


@pytest.fixture
def folder(tmp_path: Path, make: Callable[..., Any]) -> Path:
    make.add_search(tmp_path)  # type: ignore[attr-defined]
    return tmp_path


def rows(text: str) -> list[list[str]]:
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def test_everything_is_written_and_drawn(folder: Path) -> None:
    names = {path.name for path in write_search_report(folder)}
    pictures = {f"search_{n}.png" for n in ("history", "slices", "parallel", "importance")}
    texts = {"trials.csv", "trials.md", "search.json", "sensitivity.md"}
    assert names == pictures | texts
    for name in pictures:
        with Image.open(folder / name) as picture:
            pixels = np.asarray(picture.convert("RGB")).reshape(-1, 3)
            assert len(np.unique(pixels, axis=0)) > 20
    again = {name: (folder / name).read_bytes() for name in pictures | {"trials.md"}}
    write_search_report(folder)
    assert again == {name: (folder / name).read_bytes() for name in again}


def test_the_table_puts_what_was_trained_longest_first_and_names_the_objective(
    folder: Path,
) -> None:
    write_search_report(folder)
    text = (folder / "trials.md").read_text()
    head, _, *lines = rows(text)
    assert head == ["trial", "λ₁", "τ", "encoding.labels", "T", "mIoU (%)", "steps", "state"]
    # Scores of the file are 30, 31, 34, 30, 34, 40, failed; trials 1, 3 and 5 have all steps.
    assert [line[0] for line in lines] == ["3", "5", "1", "6", "2", "4", "7"]
    assert lines[1][5] == "**34.00 ± 1.50**"
    assert lines[2][4] == "0.9"
    assert lines[3][4] == "--"
    assert lines[-1][5] == "--"
    assert "mIoU of the student on streets_camera val (mode whole), seeds 0, 1" in text
    assert "0.25 GPU hours of trials; budget: 7 trials." in text


def test_trials_are_counted_at_the_papers_nearest_value(folder: Path) -> None:
    write_search_report(folder)
    text = (folder / "sensitivity.md").read_text()
    part = text.partition("## λ₁ (paper, Table 14 (supervised, Cityscapes))")[2].partition("##")[0]
    head, _, best, mean, trials, paper = rows(part)
    assert head[1:] == ["0.5", "2", "5", "10", "20", "50"]
    # Full trials have 0.5, 2 and 8, and 8 is nearer to 10 than to 5 by ratio.
    assert trials[1:] == ["1", "1", "0", "1", "0", "0"]
    assert best[1:] == mean[1:] == ["30.0", "34.0", "--", "34.0", "--", "--"]
    assert paper[1:] == ["77.9", "78.1", "78.1", "78.1", "78.0", "77.8"]


def test_labels_by_code_and_by_bit_have_columns_of_their_own(folder: Path) -> None:
    table = (folder / "trials.csv").read_text()
    # Trial 3 gets T = 0.6: nearer to the place of code-wise labels, and hybrid nevertheless.
    table = re.sub(r"hybrid,0\.94\d*,", "hybrid,0.6,", table)
    (folder / "trials.csv").write_text(table + "8,4.0,1.0,code,,35.0,1.5,100,finished\n")
    write_search_report(folder)
    text = (folder / "sensitivity.md").read_text()
    part = text.partition("Table 4 (text, GTAv to Cityscapes))")[2].partition("##")[0]
    head, _, _, mean, trials, paper = rows(part)
    assert head[1:] == ["0.5 (code)", "0.9", "0.95", "0.99", "1 (bit)"]
    assert trials[1:] == ["1", "1", "0", "1", "0"]
    assert mean[1] == "35.0"
    assert paper[1:] == ["69.7", "70.0", "70.5", "69.8", "69.4"]


def test_choices_of_0_and_1_are_numbers_beside_the_papers(folder: Path) -> None:
    assert categories({"values": [0, 1, 5.0]}) is None
    assert categories({"values": [True, 1]}) == ["true", "1"]


@pytest.mark.parametrize(
    "name, table",
    [
        ("encoding.distance_weight", "table14_loss_hyperparameters"),
        ("encoding.contrast_weight", "table14_loss_hyperparameters"),
        ("encoding.temperature", "table14_loss_hyperparameters"),
        ("encoding.threshold", "table04_threshold_ablation"),
        ("encoding.length", "table07_code_length"),
        ("encoding.codebook", "table05_codebook_uda"),
    ],
)
def test_the_papers_points_are_numbers_of_its_tables(name: str, table: str) -> None:
    printed = {value for row in published_table(table) for value in row.values()}
    series = paper_series(name)
    assert series
    for one in series:
        assert re.search(r"paper, (Fig\. 6 and )?Table (4|5|7|14)", one.label)
        assert len(one.points) >= 2
        assert {f"{score:.1f}" for score in one.points.values()} <= printed
    assert paper_series("schedule.optim.lr") == []


def test_a_folder_without_a_search_has_no_section(tmp_path: Path, folder: Path) -> None:
    assert search_section(tmp_path / "none", tmp_path) is None
    (folder / "trials.csv").write_text("trial,encoding.distance_weight,miou,std,steps,state\n")
    assert search_section(folder, tmp_path) is None


def test_the_section_says_what_was_best(folder: Path, tmp_path: Path) -> None:
    section = search_section(folder, tmp_path / "figures")
    assert section is not None
    assert "Best of 7 trials, with 34.0 (mIoU of the student on streets_camera val, 100 steps)" in (
        section.finding
    )
    assert "encoding.distance_weight = 8" in section.finding
    captions = " ".join(one.caption for one in section.figures)
    assert "3 finished, 3 stopped, 1 failed" in captions
    assert "Left out, since not every trial has them: encoding.threshold" in captions


def test_the_page_has_the_trials_and_the_sensitivity_as_tables(
    folder: Path, tmp_path: Path
) -> None:
    section = search_section(folder, tmp_path / "figures")
    assert section is not None
    titles = [title for title, _, _ in section.tables]
    assert titles[0] == "All trials, best first"
    assert any("Table 14 (supervised, Cityscapes)" in title for title in titles[1:])
    # How to read the others is said once.
    assert [bool(note) for _, note, _ in section.tables] == [
        False,
        True,
        *[False] * (len(titles) - 2),
    ]
    page = report_page([], section)
    for _, _, lines in section.tables:
        assert page.count("<tr>") >= sum(len(lines) for _, _, lines in section.tables)
        for cell in lines[1]:
            assert cell.strip("*").replace("<", "&lt;") in page
    assert page.count("<details>") == len(titles)
