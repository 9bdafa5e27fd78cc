"""The figure that shows what encodings do to predictions (the paper's Figures 9 and 10)."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from ecocseg.files import atomic_path
from pipeline.report.canvas import Drawn
from pipeline.report.cells import Cell, Experiment, pairs
from pipeline.report.lines import best_cell
from pipeline.report.panels import pictures_of
from pipeline.report.style import ECOC, INK, ONE_HOT

_WIDTH, _GAP, _BAND, _LINE = 276, 4, 24, 22
_BOTH_RIGHT, _BOTH_WRONG = "#e4e8ee", "#8a93a0"
_IGNORE = 255  # of a pixel without a label, as in the core, which would bring torch in
Picture = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class _Example:
    """One evaluated image [H,W,3] with its label and both predictions [H,W]."""

    image: Picture
    label: Picture
    one_hot: Picture
    ecoc: Picture

    @property
    def classes(self) -> tuple[Picture, Picture, Picture]:
        """Label and predictions in the order of their columns."""
        return self.label, self.one_hot, self.ecoc

    @property
    def known(self) -> NDArray[np.bool_]:
        """Pixels that have a label."""
        return np.asarray(self.label != _IGNORE)

    def alone(self, ours: Picture, theirs: Picture) -> NDArray[np.bool_]:
        """Labelled pixels on which `ours` is right and `theirs` is not."""
        return self.known & (ours == self.label) & (theirs != self.label)


def draw_qualitative(experiment: Experiment, runs_dir: Path, folder: Path) -> list[Drawn]:
    """Write a figure for each method and block whose one-hot and ECOC runs left pictures.

    `folder/<experiment>_qualitative.png`, with `_<cell>` where there are several: of each method
    its best ECOC cell, and both runs of the lowest seed that both have finished.
    """
    found = []
    for base, ours in _couples(experiment):
        seeds = sorted(base.records.keys() & ours.records.keys())
        if seeds and (examples := _examples(base, ours, seeds[0], runs_dir)):
            found.append((base, ours, seeds[0], examples))
    drawn = []
    for base, ours, seed, examples in found:
        ending = f"_{ours.name}" if len(found) > 1 else ""
        path = folder / f"{experiment.name}_qualitative{ending}.png"
        names = list(ours.records[seed]["classes"])
        colours = _palette(runs_dir, ours, seed)
        _save(path, examples, (base.contender, ours.contender), names, colours)
        drawn.append(Drawn(path=path, caption=_caption(base, ours, seed, examples)))
    return drawn


def _couples(experiment: Experiment) -> list[tuple[Cell, Cell]]:
    """(one-hot, ECOC) of each block and method, or group: the best ECOC cell where some compete."""
    finished = [cell for cell in experiment.cells if cell.records]
    groups: dict[tuple[str | None, ...], list[tuple[Cell, Cell]]] = {}
    for ours, base in pairs(finished):
        block = ours.block.key if ours.block else None
        groups.setdefault((block, ours.group or ours.method), []).append((base, ours))
    found = []
    for couples in groups.values():
        best = best_cell(experiment, [ours for _, ours in couples])
        found += [couple for couple in couples if couple[1] is best]
    return found


def _examples(base: Cell, ours: Cell, seed: int, runs_dir: Path) -> list[_Example]:
    """The images that both runs have predicted, in order of their names."""
    theirs, mine = pictures_of(base, seed, runs_dir), pictures_of(ours, seed, runs_dir)
    found = []
    for path in sorted(mine.glob("prediction_*.png")):
        key = path.stem.removeprefix("prediction_")
        files = (
            mine / f"image_{key}.jpg",
            mine / f"label_{key}.png",
            theirs / path.name,
            path,
        )
        if all(file.is_file() for file in files):
            image, *others = (np.asarray(Image.open(file)) for file in files)
            if all(other.shape == image.shape[:2] for other in others):
                label, one_hot, ecoc = others
                found.append(_Example(image=image, label=label, one_hot=one_hot, ecoc=ecoc))
    return found


def _palette(runs_dir: Path, cell: Cell, seed: int) -> Picture:
    """Class colours [256,3] of the run's pictures; ignored pixels black."""
    path = next(pictures_of(cell, seed, runs_dir).glob("prediction_*.png"))
    with Image.open(path) as picture:
        flat = picture.getpalette("RGB") or []
    colours = np.zeros((256, 3), dtype=np.uint8)
    colours[: len(flat) // 3] = np.array(flat, dtype=np.uint8).reshape(-1, 3)
    # Files keep no colours behind the last index in use.
    colours[_IGNORE] = 0
    return colours


def _caption(base: Cell, ours: Cell, seed: int, examples: Sequence[_Example]) -> str:
    protocol = ours.records[seed]["protocol"]
    known = max(sum(int(e.known.sum()) for e in examples), 1)
    mine = 100 * sum(int(e.alone(e.ecoc, e.one_hot).sum()) for e in examples) / known
    theirs = 100 * sum(int(e.alone(e.one_hot, e.ecoc).sum()) for e in examples) / known
    block = f"{ours.block.title}, " if ours.block else ""
    return (
        f"What the encodings predict (the paper's Figures 9 and 10): {block}{base.full_name} and "
        f"{ours.full_name}, students after the last step, seed {seed}, {len(examples)} evenly "
        f"spaced images of {protocol['dataset']}, split {protocol['split']}. Last column: where "
        f"one of the two alone is right; on these images that is ECOC on {mine:.1f} % of the "
        f"labelled pixels and one-hot on {theirs:.1f} %."
    )


def _save(
    path: Path,
    examples: Sequence[_Example],
    labels: tuple[str, str],
    names: Sequence[str],
    colours: Picture,
) -> None:
    titles = ("image", "ground truth", *labels, "who is right")
    heights = [round(_WIDTH * e.label.shape[0] / e.label.shape[1]) for e in examples]
    width = len(titles) * (_WIDTH + _GAP) - _GAP
    seen = sorted(
        {int(i) for e in examples for p in (e.label, e.one_hot, e.ecoc) for i in set(p.flat)}
    )
    classes = [(names[i], _hex(colours[i])) for i in seen if i < len(names)]
    known = all(e.known.all() for e in examples)
    classes += [] if known else [("no label", _hex(colours[_IGNORE]))]
    verdicts = [("ECOC alone right", ECOC), ("one-hot alone right", ONE_HOT),
                ("both right", _BOTH_RIGHT), ("both wrong", _BOTH_WRONG)]  # fmt: skip
    lines = [*_wrapped(classes, width), *_wrapped(verdicts, width)]
    height = _BAND + sum(heights) + _GAP * len(heights) + _LINE * len(lines) + _GAP
    sheet = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(sheet)
    for i, title in enumerate(titles):
        draw.text((i * (_WIDTH + _GAP) + 2, 3), title, fill=INK, font=ImageFont.load_default(15))
    top = _BAND
    for example, high in zip(examples, heights, strict=True):
        pictures = [
            example.image,
            *(colours[p] for p in (example.label, example.one_hot, example.ecoc)),
        ]
        for i, picture in enumerate([*pictures, _verdict(example)]):
            kind = Image.Resampling.BILINEAR if i == 0 else Image.Resampling.NEAREST
            scaled = Image.fromarray(picture).resize((_WIDTH, high), kind)
            sheet.paste(scaled, (i * (_WIDTH + _GAP), top))
        top += high + _GAP
    for line in lines:
        for left, name, colour in line:
            draw.rectangle((left, top + 6, left + 12, top + 18), fill=colour, outline="#5c6675")
            draw.text((left + 18, top + 4), name, fill=INK, font=ImageFont.load_default(13))
        top += _LINE
    with atomic_path(path) as temporary:
        sheet.save(temporary, "PNG", optimize=True)


def _verdict(example: _Example) -> Picture:
    """Who is right, as colours [H,W,3]; white without a label."""
    both = (example.ecoc == example.label) & (example.one_hot == example.label)
    shown = np.full(example.image.shape, 255, dtype=np.uint8)
    for where, colour in (
        (example.known, _BOTH_WRONG),
        (example.known & both, _BOTH_RIGHT),
        (example.alone(example.ecoc, example.one_hot), ECOC),
        (example.alone(example.one_hot, example.ecoc), ONE_HOT),
    ):
        shown[where] = np.frombuffer(bytes.fromhex(colour[1:]), dtype=np.uint8)
    return shown


def _wrapped(entries: Sequence[tuple[str, str]], width: int) -> list[list[tuple[int, str, str]]]:
    """Entries of a legend, (left edge, name, colour), in lines that fit."""
    font = ImageFont.load_default(13)
    lines: list[list[tuple[int, str, str]]] = [[]]
    left = 2
    for name, colour in entries:
        space = 18 + round(font.getlength(name)) + 16
        if left + space > width and lines[-1]:
            lines.append([])
            left = 2
        lines[-1].append((left, name, colour))
        left += space
    return lines


def _hex(colour: NDArray[np.uint8]) -> str:
    return "#" + bytes(colour).hex()
