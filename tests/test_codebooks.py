"""The command `ecocseg codebook`."""

import json

import numpy as np
import pytest
from PIL import Image

from ecocseg import Codebook
from ecocseg.codes.build import BUILDERS
from ecocseg.codes.temperature import auto_temperature
from ecocseg.data.classes import CITYSCAPES_19
from pipeline.cli import main
from pipeline.tools.codebook import BENCHMARKS


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")


def codebook(capsys, *arguments):
    """Exit code, and the lines that were printed (of a failure: on the error stream)."""
    code = main(["codebook", *arguments])
    out = capsys.readouterr()
    return code, (out.err if code else out.out).splitlines()


def figures(lines):
    """Of each builder the cells of its row."""
    rows = [line.split() for line in lines]
    # A row has a name and nine figures, or dashes for them.
    return {row[0]: row[1:] for row in rows if len(row) == 10 and set(row[1]) <= set("-0123456789")}


def test_the_benchmarks_have_names_with_embeddings():
    assert [len(benchmark.class_names) for benchmark in BENCHMARKS] == [19, 21, 81, 11, 4, 2]
    for benchmark in BENCHMARKS:
        Codebook.build("text", class_names=benchmark.class_names, length=benchmark.length)


def test_compare_lists_every_builder(capsys):
    code, lines = codebook(
        capsys, "compare", "--num-classes", "19", "--length", "40", "--draws", "2000"
    )
    assert code == 0
    assert "19 classes (Cityscapes), 40 bits" in lines[0]
    table = figures(lines)
    assert list(table) == list(BUILDERS)
    # Its columns are too many beyond ten classes.
    assert table.pop("exhaustive") == ["-"] * 9
    for name, (rows, bound, gap, near, far, columns, meaning, tau, _) in table.items():
        book = Codebook.build(name, class_names=CITYSCAPES_19.names, length=40, draws=2000)
        assert int(rows) == book.min_row_distance
        assert int(near) == book.min_column_distance
        assert int(far) == 19 - book.max_column_distance
        assert int(gap) == int(bound) - int(rows) >= 0
        assert min(int(near), int(far)) <= int(columns)
        assert meaning == "-" or -1 <= float(meaning) <= 1
        assert float(tau) == pytest.approx(auto_temperature(book), abs=5e-4)
    assert [table[name][0] for name in ("hadamard", "optimised")] == ["20", "20"]
    assert table["text"][1] == "20"
    assert float(table["text-optimised"][6]) > 0.9


def test_classes_without_names_have_the_builders_that_need_none(capsys):
    code, lines = codebook(
        capsys, "compare", "--num-classes", "7", "--length", "9", "--draws", "200"
    )
    assert code == 0
    assert list(figures(lines)) == ["mmd", "exhaustive", "hadamard", "optimised", "one-hot"]
    assert any("text and text-optimised are made of class names" in line for line in lines)


def test_a_builder_that_fails_says_why_beneath_the_others(capsys):
    names = "road,quokka,sky"
    code, lines = codebook(
        capsys, "compare", "--class-names", names, "--length", "3", "--draws", "200"
    )
    assert code == 0
    table = figures(lines)
    assert table["text"][0] == "-"
    assert table["mmd"][0] == "2"
    assert any(line.startswith("text: ") and "'quokka'" in line for line in lines)


def test_a_saved_codebook_is_the_one_that_is_built_and_can_be_inspected(capsys):
    arguments = ("--classes", "camvid11", "--length", "20", "--seed", "4")
    code, lines = codebook(capsys, "save", "optimised", *arguments, "--out", "books/mine.json")
    assert code == 0
    assert any("encoding.codebook_path=books/mine.json" in line for line in lines)
    saved = Codebook.load("books/mine.json")
    assert saved.class_names is not None
    assert saved.class_names[0] == "Sky"
    built = Codebook.build("optimised", class_names=saved.class_names, length=20, seed=4)
    assert np.array_equal(saved.bits, built.bits)
    shown = figures(codebook(capsys, "build", "optimised", *arguments)[1])["optimised"]
    code, lines = codebook(capsys, "inspect", "books/mine.json")
    assert code == 0
    # The same but for the time it took to build.
    assert figures(lines)["mine"][:-1] == shown[:-1]
    rows = "".join(str(int(bit)) for bit in saved.bits[3])
    assert f"Road        {rows}" in lines


@pytest.mark.parametrize("action", ["build", "compare", "inspect"])
def test_a_picture_is_drawn(capsys, action):
    Codebook.build("optimised", num_classes=5, length=6).save("book.json")
    arguments = {
        "build": ["mmd", "--num-classes", "5", "--length", "6", "--draws", "50"],
        "compare": ["--num-classes", "5", "--length", "6", "--draws", "50"],
        "inspect": ["book.json"],
    }[action]
    code, lines = codebook(capsys, action, *arguments, "--picture", "out/book.png")
    assert code == 0
    assert lines[-1].strip() == "out/book.png written"
    with Image.open("out/book.png") as picture:
        assert picture.width > 800


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["compare"], "--num-classes N"),
        (["compare", "--num-classes", "5", "--classes", "gta19"], "give one of"),
        (["compare", "--num-classes", "19", "--length", "4"], "length: got 4, allowed 5.."),
        (["compare", "--all-benchmarks", "--picture", "a.png"], "--picture"),
        (["build", "text", "--num-classes", "5"], "text is made of class names"),
        (["build", "word2vec", "--num-classes", "5"], "allowed text, mmd"),
        (["build", "mmd", "--classes", "london"], "cityscapes19"),
        (["inspect", "none.json"], "none.json: cannot be read"),
        (["build", "one-hot", "--num-classes", "5", "--picture", "a.pdf"], "allowed is a PNG"),
    ],
)
def test_what_cannot_be_is_said_in_a_line(capsys, arguments, says):
    code, lines = codebook(capsys, *arguments)
    assert code == 1
    assert len(lines) == 1
    assert lines[0].startswith("ecocseg codebook: ")
    assert says in lines[0]


def test_a_faulty_codebook_is_named(capsys, tmp_path):
    (tmp_path / "book.json").write_text(json.dumps({"schema": 1, "bits": ["01"]}))
    code, lines = codebook(capsys, "inspect", "book.json")
    assert code == 1
    assert "book.json: no codebook" in lines[0]
