"""Pictures for the page: panels of the runs, overlays of the data, inlined and reasonably small."""

import base64
import io
import json
import re
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from pipeline.report.cells import Cell, Experiment
from pipeline.report.lines import foremost

PSEUDO_LABELS = "pseudo_labels.png"
_PANELS_PER_CELL, _MOST_CELLS = 2, 24
_OTHERS = re.compile(rf"{re.escape(PSEUDO_LABELS)}|(label|prediction)_")


@dataclass(frozen=True, kw_only=True)
class Panel:
    """A picture of one cell: image, label, pseudo-label and prediction side by side."""

    label: str
    path: Path


@dataclass(frozen=True, kw_only=True)
class Overlay:
    """The contact sheet of one split of one data set."""

    dataset: str
    split: str
    path: Path


def pictures_of(cell: Cell, seed: int, runs_dir: Path) -> Path:
    """The folder of a finished run's pictures: of the computed run, where it shares another's."""
    return runs_dir / (cell.records[seed].get("same_as") or cell.run_ids[seed]) / "pictures"


def cell_panels(experiment: Experiment, runs_dir: Path) -> list[Panel]:
    """Panels of each cell's run with the lowest finished seed, the last ones by number.

    Of many cells the best have some. Looks for `runs_dir/<run_id>/pictures/*.png`; a run without
    pictures has no panel. The picture of the pseudo-labels is none, nor are the single predictions
    and labels: others show them.
    """
    panels = []
    for cell in foremost([cell for cell in experiment.cells if cell.records], _MOST_CELLS):
        pictures = pictures_of(cell, min(cell.records), runs_dir)
        paths = [p for p in pictures.glob("[!.]*.png") if not _OTHERS.match(p.name)]
        paths = sorted(paths, key=_natural)[-_PANELS_PER_CELL:]
        panels += [Panel(label=cell.title, path=path) for path in paths]
    return panels


def data_overlays(experiments: list[Experiment], processed_root: Path) -> list[Overlay]:
    """Contact sheets `processed_root/<dataset>/overlay_<split>.png` of the data that was used."""
    names = dict.fromkeys(
        name
        for experiment in experiments
        for record in experiment.records
        for name in (*record["data"], record["protocol"]["dataset"])
    )
    return [
        Overlay(dataset=name, split=path.stem.removeprefix("overlay_"), path=path)
        for name in names
        for path in sorted((processed_root / name).glob("overlay_*.png"))
    ]


def class_colours(dataset: str, processed_root: Path) -> list[tuple[str, str]]:
    """(class name, "#rrggbb") of a prepared data set; empty when it is not there."""
    path = processed_root / dataset / "dataset.json"
    if not path.is_file():
        return []
    classes = json.loads(path.read_text(encoding="utf-8"))["classes"]
    return [
        (name, "#" + bytes(colour).hex())
        for name, colour in zip(classes["names"], classes["colors"], strict=True)
    ]


def inline_picture(path: Path, max_width: int = 1400) -> str:
    """A data URL of the picture, at most `max_width` pixels wide.

    A PNG that is small or has a palette (charts) stays as it is; a photograph becomes a JPEG.
    """
    data = path.read_bytes()
    with Image.open(path) as picture:
        if picture.width <= max_width and (len(data) < 100_000 or picture.mode == "P"):
            return _data_url(data, "png")
        smaller = picture.convert("RGB")
    smaller.thumbnail((max_width, max_width * 4), Image.Resampling.LANCZOS)
    out = io.BytesIO()
    smaller.save(out, "JPEG", quality=84, optimize=True)
    return _data_url(out.getvalue(), "jpeg")


def _data_url(data: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"


def _natural(path: Path) -> list[tuple[int, str]]:
    """Sorts step_90 before step_100."""
    parts = re.findall(r"\d+|\D+", path.stem)
    return [(int(part), "") if part.isdigit() else (-1, part) for part in parts]
