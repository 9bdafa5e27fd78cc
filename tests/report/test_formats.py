"""Golden tables. To accept a change on purpose: ECOCSEG_UPDATE_GOLDEN=1, then review the diff."""

import csv
import io
import os
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.report.formats import csv_text, html_page, latex, markdown, markdown_table, write_all
from pipeline.report.parts import Column, Row, Table
from pipeline.report.scores import Statistic

GOLDEN = Path(__file__).parent / "golden"
CLASSES = ["road", "sidewalk", "traffic light", "A & B_c 50%", "ghost"]


def counts(shift: int) -> list[list[int]]:
    """Five classes; nobody is a ghost."""
    return [
        [900 + shift, 60, 20, 20 - shift, 0],
        [80, 600 + 2 * shift, 20, 0, 0],
        [10, 15, 60 + shift, 5, 0],
        [4, 0, 3, 20 + shift, 0],
        [0, 0, 0, 0, 0],
    ]


@pytest.fixture
def golden_tables(results, make, tables) -> dict[str, Table]:
    rows = {
        "source-only": ("Source-only", "supervised", "one-hot", None, True, 0),
        "dacs_one-hot": ("DACS", "dacs", "one-hot", make.PAPER["dacs", "one-hot"], True, 6),
        "dacs_ecoc": ("DACS", "dacs", "ecoc", make.PAPER["dacs", "ecoc"], True, 10),
        "oracle": ("Oracle", "supervised", "one-hot", None, False, 18),
        "missing": ("Missing", "other", "one-hot", None, True, 0),
    }
    for order, (cell, (label, method, encoding, paper, ranked, shift)) in enumerate(rows.items()):
        for seed in (0, 1):
            row = make.plan_row(
                f"{cell}-{seed}", cell, seed, experiment="golden", order=order, paper=paper,
                title="Golden: A & B, 50 %", means={"mIoU": None, "mIoU3": CLASSES[:3]},
                row={"label": label, "method": method, "encoding": encoding, "ranked": ranked},
            )  # fmt: skip
            made = make.record(
                f"{cell}-{seed}", cell=cell, seed=seed, classes=CLASSES,
                matrix=counts(shift + seed * (1 + order % 2)),
            )  # fmt: skip
            finished = cell != "missing" and (cell, seed) != ("oracle", 1)
            results.add(row, made if finished else None)
    for order, (encoding, gain) in enumerate((("one-hot", 0), ("ecoc", 5))):
        for column, more in (("1/16", 0), ("1/8", 7)):
            cell = f"fixmatch_{encoding}_{column.replace('/', '-')}"
            for seed in (0, 1, 2):
                row = make.plan_row(
                    f"{cell}-{seed}", cell, seed, experiment="golden_grid", order=order,
                    layout="grid", column=column, title="Golden grid",
                    row={"label": "FixMatch", "method": "fixmatch", "encoding": encoding},
                    paper={"table": "table09_ssl_coco", "column": "1/512",
                           "where": {"method": "UniMatch", "encoding": encoding}},
                )  # fmt: skip
                made = make.record(
                    f"{cell}-{seed}", cell=cell, seed=seed, classes=CLASSES,
                    matrix=counts(gain + more + seed % 2),
                )  # fmt: skip
                results.add(row, made)
    return {table.name: table for table in tables()}


@pytest.mark.parametrize("ending", ["md", "tex", "csv", "html"])
@pytest.mark.parametrize("name", ["golden", "golden_grid"])
def test_golden(golden_tables, name: str, ending: str) -> None:
    found = dict(write_all(golden_tables[name]))[ending]
    path = GOLDEN / f"{name}.{ending}"
    if os.environ.get("ECOCSEG_UPDATE_GOLDEN"):
        path.write_text(found, encoding="utf-8")
    assert found == path.read_text(encoding="utf-8")


def test_all_formats_tell_the_same_number(golden_tables) -> None:
    table = golden_tables["golden"]
    place = [column.name for column in table.columns].index("mIoU")
    mean = table.rows[1].entries[place].mean
    number = f"{mean:.1f}"
    cells = markdown(table).split(r"| DACS (one-hot)\* ")[1].splitlines()[0].split("|")
    assert number in cells[place + 2]
    rows = list(csv.DictReader(io.StringIO(csv_text(table))))
    assert float(rows[1]["mIoU"]) == pytest.approx(mean, abs=1e-4)
    assert rows[1]["ghost"] == ""
    tex = latex(table).split("DACS (one-hot)$^{*}$ &")[1].splitlines()[0].split("&")
    assert number in tex[place + 1]
    assert number in html_page(table).split("DACS (one-hot)<sup>*</sup></th>")[1].split("</tr>")[0]


def one_row(label: str, values: list[float]) -> Table:
    """A table of one measured row over unnamed classes."""
    entries = tuple(Statistic(mean=value, std=None, n=1) for value in values)
    row = Row(
        kind="measured", label=label, method="m", encoding="one-hot", seeds="1", entries=entries,
        ranks=(0,) * len(entries),
    )  # fmt: skip
    columns = tuple(Column(name=label, is_mean=False) for _ in values)
    return Table(
        name="any", title=label, description=label, layout="per_class", columns=columns,
        rows=(row,), notes=(label,),
    )  # fmt: skip


texts = st.text(st.characters(codec="latin-1", exclude_categories=["Cc", "Cf"]), min_size=1)


@given(texts)
def test_html_shows_any_label_as_it_is(label: str) -> None:
    heads: list[str] = []

    class Reader(HTMLParser):
        """Collects texts and refuses tags that nobody wrote."""

        def handle_data(self, data: str) -> None:
            heads.append(data)

        def handle_starttag(self, tag: str, attrs: list) -> None:
            assert tag in {"html", "head", "meta", "title", "style", "body", "h1", "p", "div",
                           "table", "thead", "tbody", "tr", "th", "td", "span", "ul", "li",
                           "sup", "b", "u", "small"}  # fmt: skip

    reader = Reader(convert_charrefs=True)
    reader.feed(html_page(one_row(label, [1.0])))
    reader.close()
    assert heads.count(label) >= 4


@given(texts)
def test_markdown_keeps_its_columns_under_any_label(label: str) -> None:
    for line in markdown_table(one_row(label, [1.0, 2.0])).splitlines():
        assert len(re.split(r"(?<!\\)\|", line.replace("\\\\", ""))) == 6


@given(texts)
def test_latex_leaves_no_special_character_bare(label: str) -> None:
    text = latex(one_row(label, [1.0, 2.0]))
    body = text.split(r"\midrule")[1].split(r"\bottomrule")[0]
    bare = re.sub(r"\\[A-Za-z]+(\{\})?|\\[&%$#_{}]|\$[^$]*\$", "", body.replace(r"\\", ""))
    assert not set(bare) & set("%$#_^~\\<>|{}")
    assert bare.count("&") == 3


def test_latex_needs_only_booktabs_and_graphicx(golden_tables) -> None:
    known = {
        "begin", "end", "centering", "caption", "label", "scriptsize", "setlength", "tabcolsep",
        "textbf", "underline", "tiny", "pm", "dagger", "usepackage", "ifdim", "else", "fi",
        "width", "textwidth", "toprule", "midrule", "bottomrule", "resizebox", "rotatebox",
    }  # fmt: skip
    for table in golden_tables.values():
        text = latex(table)
        assert set(re.findall(r"\\([A-Za-z]+)", text)) <= known
        stripped = re.sub(r"\\[{}]", "", text)
        assert stripped.count("{") == stripped.count("}")
        width = len(re.findall(r"\\begin\{tabular\}\{(l?r+)\}", text)[0])
        lines = [line for line in text.splitlines() if line.startswith("    ") and "&" in line]
        assert {len(re.findall(r"(?<!\\)&", line)) + 1 for line in lines} == {width}


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no LaTeX on this machine")
def test_latex_compiles(golden_tables, tmp_path: Path) -> None:
    body = "".join(latex(table) for table in golden_tables.values())
    (tmp_path / "t.tex").write_text(
        "\\documentclass{article}\\usepackage{booktabs,graphicx}\n"
        f"\\begin{{document}}{body}\\end{{document}}\n",
        encoding="utf-8",
    )
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "t.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, check=False)
    assert done.returncode == 0, done.stdout.decode(errors="replace")[-2000:]


def test_differences_carry_a_sign_and_zero_is_plus() -> None:
    entries = tuple(Statistic(mean=mean, std=None, n=1) for mean in (-0.01, 1.26, -3.0))
    table = one_row("x", [1.0, 1.0, 1.0])
    row = Row(
        kind="difference", label="x", method="m", encoding="ecoc", seeds="", entries=entries,
        ranks=(0, 0, 0),
    )  # fmt: skip
    text = markdown_table(Table(**{**vars(table), "rows": (row,)}))
    assert [cell.strip() for cell in text.splitlines()[2].split("|")[3:6]] == [
        "+0.0",
        "+1.3",
        "-3.0",
    ]
