"""A contact sheet of a split: what a person looks at before any training."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ecocseg.data.classes import ClassTable
from ecocseg.data.manifest import Row
from ecocseg.files import atomic_path

_SAMPLES = 9
_COLUMNS = 3
_TILE = 252
"""Width of one picture; a sample is an image and its overlay side by side."""
_GAP = 14
_MARGIN = 24
_PAPER, _INK, _SOFT = (255, 255, 255), (28, 32, 38), (108, 116, 128)
_STRENGTH = 0.62
"""Share of the class colour in the overlay."""


def write_overlay(path: Path, title: str, table: ClassTable, rows: Sequence[Row]) -> None:
    """Write a PNG: up to 9 evenly spaced samples (image | labels) and a legend of the classes."""
    places = np.linspace(0, len(rows) - 1, min(_SAMPLES, len(rows))).round().astype(int)
    tiles = [_sample(rows[place], table) for place in places]
    columns = min(_COLUMNS, len(tiles))
    lines = [tiles[start : start + columns] for start in range(0, len(tiles), columns)]
    cell = 2 * _TILE + _GAP // 2
    width = max(2 * _MARGIN + columns * cell + (columns - 1) * _GAP, 2 * _MARGIN + 2 * cell)
    legend = _legend(table, rows, width - 2 * _MARGIN)
    captions = 20
    heights = [max(tile.height for tile in line) + captions + _GAP for line in lines]
    height = _MARGIN + 44 + sum(heights) + legend.height + _MARGIN
    sheet = Image.new("RGB", (width, height), _PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((_MARGIN, _MARGIN - 4), title, _INK, font=_font(24))
    counted = f"{len(rows):,} image{'s' if len(rows) != 1 else ''}, {len(table.names)} classes"
    end = _MARGIN + draw.textlength(title, font=_font(24)) + 16
    draw.text((end, _MARGIN + 5), counted, _SOFT, font=_font(15))
    top = _MARGIN + 44
    place = iter(places)
    for line, line_height in zip(lines, heights, strict=True):
        for column, tile in enumerate(line):
            left = _MARGIN + column * (cell + _GAP)
            sheet.paste(tile, (left, top))
            key = rows[next(place)].key
            draw.text((left, top + tile.height + 3), _cut(key, 56), _SOFT, font=_font(12))
        top += line_height
    sheet.paste(legend, (_MARGIN, top))
    with atomic_path(path) as temporary:
        sheet.save(temporary)


def _sample(row: Row, table: ClassTable) -> Image.Image:
    """Image and overlay side by side; ignored pixels are hatched gray."""
    with Image.open(row.image) as picture:
        # Of a pair the first frame.
        frame = picture.convert("RGB").crop((0, 0, picture.width, picture.height // row.frames))
        height = max(1, round(_TILE * frame.height / frame.width))
        photo = frame.resize((_TILE, height), Image.Resampling.BICUBIC)
    with Image.open(row.label) as picture:
        ids = np.asarray(picture.resize((_TILE, height), Image.Resampling.NEAREST))
    pixels = np.asarray(photo, dtype=np.float32)
    gray = pixels.mean(axis=2, keepdims=True)
    colors = table.palette[ids].astype(np.float32)
    blend = gray * (1 - _STRENGTH) + colors * _STRENGTH
    edge = np.zeros(ids.shape, dtype=bool)
    edge[:, 1:] |= ids[:, 1:] != ids[:, :-1]
    edge[1:] |= ids[1:] != ids[:-1]
    blend[edge] *= 0.55
    down, across = np.indices(ids.shape)
    hatch = np.where((down + across) % 8 < 2, 205.0, 240.0)[..., None] * 0.75 + gray * 0.25
    blend = np.where((ids == table.ignore)[..., None], hatch, blend)
    pair = Image.new("RGB", (2 * _TILE + _GAP // 2, height), _PAPER)
    pair.paste(photo, (0, 0))
    pair.paste(Image.fromarray(blend.clip(0, 255).astype(np.uint8)), (_TILE + _GAP // 2, 0))
    return pair


def _legend(table: ClassTable, rows: Sequence[Row], width: int) -> Image.Image:
    """Colour, name, share of the labelled pixels and number of images of each class."""
    counts = np.array([row.pixels for row in rows], dtype=np.int64).reshape(-1, len(table.names))
    total = counts.sum()
    every = sum(row.label_size[0] * row.label_size[1] for row in rows)
    entries: list[tuple[tuple[int, int, int] | None, str, str]] = []
    for index, name in enumerate(table.names):
        share = 100 * counts[:, index].sum() / max(1, total)
        images = int((counts[:, index] > 0).sum())
        detail = f"{_percent(share)}, in {images:,}" if images else "in no image"
        entries.append((table.colors[index], name, detail))
    ignored = 100 * (every - total) / max(1, every)
    entries.append((None, "ignored", f"{_percent(ignored)} of all"))
    columns = max(1, width // 300)
    lines = -(-len(entries) // columns)
    legend = Image.new("RGB", (width, lines * 26 + 4), _PAPER)
    draw = ImageDraw.Draw(legend)
    for place, (color, name, detail) in enumerate(entries):
        left, top = (place // lines) * (width // columns), (place % lines) * 26
        box = (left, top + 2, left + 18, top + 20)
        draw.rectangle(box, fill=color or (228, 228, 228), outline=_SOFT)
        if color is None:
            draw.line((left, top + 20, left + 18, top + 2), fill=_SOFT)
        text = _cut(name, 18)
        draw.text((left + 27, top + 2), text, _INK, font=_font(15))
        end = left + 27 + draw.textlength(text, font=_font(15)) + 9
        draw.text((end, top + 4), detail, _SOFT, font=_font(13))
    return legend


def _percent(share: float) -> str:
    return f"{share:.1f} %" if share >= 0.1 or share == 0 else "< 0.1 %"


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 3] + "..."


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
