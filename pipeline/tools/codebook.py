"""What `ecocseg codebook` does: build, inspect, compare and save codebooks."""

import argparse
import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich import box
from rich.console import Console
from rich.table import Table

from ecocseg.codes import embed_names
from ecocseg.codes.bounds import row_distance_bound, separation_bound
from ecocseg.codes.build import BUILDERS, NEED_NAMES
from ecocseg.codes.codebook import Codebook
from ecocseg.codes.embeddings import embed
from ecocseg.codes.semantic import meaning_correlation
from ecocseg.codes.temperature import SHARE, auto_temperature
from ecocseg.data.classes import CAMVID_11, CITYSCAPES_19, CLASS_TABLES, class_table
from ecocseg.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """Classes that codebooks are made for, and the code length they are used with."""

    title: str
    class_names: tuple[str, ...]
    length: int


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A codebook, or why there is none; correlation with the meaning of the names; seconds."""

    name: str
    book: Codebook | None
    fault: str = ""
    correlation: float = math.nan
    seconds: float = math.nan


def _listed(text: str) -> tuple[str, ...]:
    """Names of a list in `embed_names`; of one in two spellings the first."""
    names = [" ".join(name.split()) for name in text.split(",")]
    return tuple({name.replace(" ", ""): name for name in reversed(names)}[key]
                 for key in dict.fromkeys(name.replace(" ", "") for name in names))  # fmt: skip


BENCHMARKS = (
    Benchmark(title="Cityscapes", class_names=CITYSCAPES_19.names, length=40),
    Benchmark(title="Pascal VOC", class_names=_listed(embed_names.PASCAL), length=40),
    Benchmark(title="COCO", class_names=_listed(embed_names.COCO), length=60),
    Benchmark(title="CamVid", class_names=CAMVID_11.names, length=40),
    Benchmark(title="ACDC", class_names=_listed(embed_names.ACDC), length=7),
    Benchmark(title="WHU-CD", class_names=_listed(embed_names.WHU_CD), length=1),
)
"""The paper's benchmarks and CamVid, whose class names have embeddings in the package. The lengths
of ACDC and WHU-CD are the longest without a constant column."""


def run(options: argparse.Namespace) -> None:
    """Do what `ecocseg codebook` was asked; raises ConfigError, or DataError for a faulty file."""
    actions: dict[str, Callable[[argparse.Namespace], None]] = {
        "build": _build, "save": _build, "inspect": _inspect, "compare": _compare,
    }  # fmt: skip
    picture = options.picture
    if picture and Path(picture).suffix != ".png":
        raise ConfigError(f"--picture: got {picture}, allowed is a PNG file; name it FILE.png")
    actions[options.action](options)


def _build(options: argparse.Namespace) -> None:
    """Show one codebook; with `out` write it."""
    title, names, count = _subject(options)
    if names is None and options.builder in NEED_NAMES:
        raise ConfigError(
            f"codebook: {options.builder} is made of class names and {count} classes are no "
            "benchmark's; give --classes or --class-names"
        )
    entry = _entry(options.builder, names, count, options)
    if entry.book is None:
        raise ConfigError(entry.fault)
    _print([entry], f"{title}, {_bit_count(entry.book.length)}", entry.book.length)
    _explain()
    if options.action == "save":
        entry.book.save(options.out)
        print(f"{options.out} written; use it with encoding.codebook_path={options.out}")
    _picture([entry], options)


def _inspect(options: argparse.Namespace) -> None:
    book = Codebook.load(options.file)
    entry = Entry(
        name=Path(options.file).stem,
        book=book,
        correlation=_correlation(book, options.embeddings),
    )
    title = f"{options.file}: {book.num_classes} classes, {_bit_count(book.length)}"
    _print([entry], title, book.length)
    _explain()
    names = book.class_names or [f"class {index}" for index in range(book.num_classes)]
    width = max(map(len, names))
    for name, row in zip(names, book.bits.int().tolist(), strict=True):
        print(f"{name:{width}}  {''.join(map(str, row))}")
    _picture([entry], options)


def _compare(options: argparse.Namespace) -> None:
    if options.all_benchmarks:
        if options.picture:
            raise ConfigError("--picture: draws one benchmark; leave out --all-benchmarks")
        for benchmark in BENCHMARKS:
            count = len(benchmark.class_names)
            options.length = benchmark.length
            title = f"{count} classes ({benchmark.title}), {_bit_count(benchmark.length)}"
            _print(_entries(benchmark.class_names, count, options), title, benchmark.length)
        _explain()
        return
    title, names, count = _subject(options)
    entries = _entries(names, count, options)
    _print(entries, f"{title}, {_bit_count(options.length)}", options.length)
    _explain()
    if names is None:
        print(
            f"{' and '.join(NEED_NAMES)} are made of class names and {count} classes are no "
            "benchmark's: give --classes or --class-names to see them"
        )
    _picture(entries, options)


def _subject(options: argparse.Namespace) -> tuple[str, tuple[str, ...] | None, int]:
    """Title, class names (None where unknown) and number of classes that were asked for."""
    given = [options.num_classes, options.classes, options.class_names]
    if sum(value is not None for value in given) != 1:
        raise ConfigError(
            "classes: give one of --num-classes N, --classes TABLE "
            f"({', '.join(CLASS_TABLES)}) or --class-names A,B,C"
        )
    if options.num_classes is not None:
        count = int(options.num_classes)
        for benchmark in BENCHMARKS:
            if len(benchmark.class_names) == count:
                return f"{count} classes ({benchmark.title})", benchmark.class_names, count
        return f"{count} classes", None, count
    if options.classes is not None:
        names = class_table(options.classes).names
        return f"{len(names)} classes ({options.classes})", names, len(names)
    names = tuple(name.strip() for name in options.class_names.split(",") if name.strip())
    return f"{len(names)} classes", names, len(names)


def _entries(names: tuple[str, ...] | None, count: int, options: argparse.Namespace) -> list[Entry]:
    """Every builder's codebook; without names those that need none."""
    builders = [name for name in BUILDERS if names is not None or name not in NEED_NAMES]
    entries = [_entry(name, names, count, options) for name in builders]
    # One-hot has a length of its own: it says nothing about the one that was asked for.
    wanted = [entry for entry in entries if entry.name != "one-hot"]
    if all(entry.book is None for entry in wanted):
        raise ConfigError(wanted[-1].fault)
    return entries


def _entry(
    builder: str, names: tuple[str, ...] | None, count: int, options: argparse.Namespace
) -> Entry:
    started = time.perf_counter()
    try:
        book = Codebook.build(
            builder,
            class_names=names,
            num_classes=count if names is None else None,
            length=options.length,
            seed=options.seed,
            embeddings=options.embeddings,
            draws=options.draws,
        )
    except ConfigError as error:
        return Entry(name=builder, book=None, fault=str(error))
    seconds = time.perf_counter() - started
    correlation = _correlation(book, options.embeddings)
    return Entry(name=builder, book=book, correlation=correlation, seconds=seconds)


def _correlation(book: Codebook, embeddings: str | None) -> float:
    """Rank correlation of code and semantic distance; nan where the names have no embedding."""
    if book.class_names is None:
        return math.nan
    try:
        return meaning_correlation(_bits(book), embed(book.class_names, embeddings))
    except ConfigError:
        return math.nan


def _bit_count(length: int) -> str:
    return f"{length} bit{'' if length == 1 else 's'}"


def _bits(book: Codebook) -> NDArray[np.bool_]:
    return book.bits.numpy()


def _print(entries: list[Entry], title: str, length: int) -> None:
    """The table of codebooks, and beneath it why builders are missing."""
    # Without frames it fits 80 letters, as wide as rich takes a file to be.
    table = Table(
        title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0)
    )
    table.add_column("codebook", no_wrap=True)
    headings = ("d_min_r", "bound", "gap", "d_min_c", "N-d_max_c", "bound", "meaning", "tau", "s")
    for heading in headings:
        table.add_column(heading, justify="right")
    for entry in entries:
        if entry.book is None:
            table.add_row(entry.name, *["-"] * len(headings))
            continue
        book = entry.book
        farthest = book.num_classes - book.max_column_distance
        # A code of two opposite columns, as one-hot with two classes, is held to no column rule.
        valid = min(book.min_column_distance, farthest) > 0
        bound = row_distance_bound(book.num_classes, book.length, valid=valid)
        table.add_row(
            entry.name,
            str(book.min_row_distance),
            str(bound),
            str(bound - book.min_row_distance),
            str(book.min_column_distance),
            str(farthest),
            str(separation_bound(book.num_classes, book.length)),
            _number(entry.correlation, 2),
            _number(auto_temperature(book), 3),
            _number(entry.seconds, 1),
        )
    Console(file=sys.stdout).print(table)
    for entry in entries:
        if entry.fault:
            print(f"{entry.name}: {entry.fault}")
        elif entry.book is not None and entry.book.length != length:
            print(f"{entry.name}: {_bit_count(entry.book.length)}")


def _explain() -> None:
    print(
        "d_min_r: smallest distance of two rows. d_min_c, d_max_c: smallest and largest of two\n"
        "columns. bound: no code of this size can have more (the second one: of the smaller of\n"
        "d_min_c and N - d_max_c). gap: bound less d_min_r. meaning: Spearman correlation of code\n"
        "distance with the semantic distance of the class names. tau: temperature: auto, the\n"
        f"largest at which every class can reach {SHARE}. s: seconds it took to make."
    )


def _number(value: float, digits: int) -> str:
    return "-" if math.isnan(value) else f"{value:.{digits}f}"


def _picture(entries: list[Entry], options: argparse.Namespace) -> None:
    if not options.picture:
        return
    from pipeline.report.codebook_figure import draw_codebooks

    path = Path(options.picture)
    books = [(entry.name, entry.book) for entry in entries if entry.book is not None]
    names = books[0][1].class_names or [str(index) for index in range(books[0][1].num_classes)]
    draw_codebooks([(name, _bits(book)) for name, book in books], names, path)
    print(f"{path} written")
