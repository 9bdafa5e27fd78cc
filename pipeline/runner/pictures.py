"""What a run sees, image by image: predictions and labels, and where pseudo-labels are unsure."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import nn
from torch.nn import functional as F

from ecocseg.data.dataset import read_image, read_label
from ecocseg.data.manifest import Manifest, Row
from ecocseg.encodings.base import Encoding
from ecocseg.files import atomic_path
from ecocseg.models.modes import evaluating

Picture = NDArray[np.uint8]

_COLUMNS = ("image", "label", "pseudo-label", "prediction")
_WIDTH, _MAP_WIDTH, _BAND, _GAP = 320, 228, 22, 4
_ALONE_WIDTH = 640  # at most, of a picture that other figures are made from
# Anchors of matplotlib's viridis (van der Walt and Smith, CC0), dark to bright.
_COLOURS = np.array(
    [[68, 1, 84], [71, 44, 122], [59, 81, 139], [44, 113, 142], [33, 144, 141], [39, 173, 129],
     [92, 200, 99], [170, 220, 50], [253, 231, 37]]
)  # fmt: skip


@torch.no_grad()
def save_panel(
    path: Path,
    rows: Sequence[Row],
    manifest: Manifest,
    encoding: Encoding,
    student: nn.Module,
    teacher: nn.Module,
    device: torch.device,
) -> list[Path]:
    """Write a PNG with a row for each image: image, label, pseudo-label, prediction; the files.

    The pseudo-label is `teacher`'s on the image as it is; pixels that are less confident than the
    quality threshold are dimmed. Beside it, for figures that compare runs (the paper's Fig. 9),
    each image alone as image_<key>.jpg, and its label and `student`'s prediction as
    label_<key>.png and prediction_<key>.png, whose palette is the class colours.
    """
    files = [path]
    colours = np.array([*manifest.classes.colors], dtype=np.uint8)
    strips = [np.concatenate([_heading(title, _WIDTH) for title in _COLUMNS], axis=1)]
    for row in rows:
        image, label = read_image(row), read_label(row).numpy()
        batch = image[None].to(device).float() / 255
        with evaluating(student), evaluating(teacher):
            taught = _at(teacher(batch), label.shape)
            prediction = encoding.decode(_at(student(batch), label.shape))[0].cpu().numpy()
        confident = (encoding.confidence(taught)[0] > encoding.quality_threshold).cpu().numpy()
        faded = _paint(encoding.decode(taught)[0].cpu().numpy(), colours)
        faded = np.where(confident[..., None], faded, faded // 3)
        picture = _shown(image)
        pictures = (picture, _paint(label, colours), faded, _paint(prediction, colours))
        strips.append(np.concatenate([_cell(p, label.shape, _WIDTH) for p in pictures], axis=1))
        files += _save_alone(path.parent, row.key, picture, label, prediction, colours)
    _save(path, strips)
    return files


@torch.no_grad()
def save_pseudo_labels(
    path: Path,
    rows: Sequence[Row],
    manifest: Manifest,
    encoding: Encoding,
    teacher: nn.Module,
    device: torch.device,
) -> None:
    """Write a PNG with a row for each image: where `teacher` is unsure (the paper's Fig. 4b).

    Columns: image, label, nearest and second nearest class, and as maps whose scale stands above
    them the confidence and what else the encoding counts per pixel (`Encoding.label_maps`).
    """
    colours = np.array([*manifest.classes.colors], dtype=np.uint8)
    found: list[tuple[list[Picture], dict[str, NDArray[np.float64]]]] = []
    for row in rows:
        image, label = read_image(row), read_label(row).numpy()
        with evaluating(teacher):
            logits = _at(teacher(image[None].to(device).float() / 255), label.shape)
        first, second = encoding.class_scores(logits).topk(2, dim=1).indices[0].cpu().numpy()
        maps = {"confidence": encoding.confidence(logits), **encoding.label_maps(logits)}
        pictures = [_paint(classes, colours) for classes in (label, first, second)]
        found.append(
            (
                [_shown(image), *pictures],
                {title: values[0].double().cpu().numpy() for title, values in maps.items()},
            )
        )
    bounds = _bounds([heights for _, heights in found])
    titles = ("image", "label", "nearest class", "second nearest")
    headings = [_heading(title, _MAP_WIDTH) for title in titles]
    headings += [_heading(title, _MAP_WIDTH, bounds[title]) for title in bounds]
    strips = [np.concatenate(headings, axis=1)]
    for pictures, heights in found:
        shown = [*pictures, *(_heat(heights[title], *bounds[title]) for title in bounds)]
        size = pictures[1].shape
        strips.append(np.concatenate([_cell(p, size, _MAP_WIDTH) for p in shown], axis=1))
    _save(path, strips)


def _shown(image: torch.Tensor) -> Picture:
    """The first frame of an image [3F,H,W] as [H,W,3]."""
    return image[:3].permute(1, 2, 0).numpy()


def _save_alone(
    folder: Path,
    key: str,
    picture: Picture,
    label: NDArray[np.integer],
    prediction: NDArray[np.integer],
    colours: Picture,
) -> list[Path]:
    """Image [H,W,3], label and prediction [H,W] as files of their own, all of one size."""
    scale = min(1.0, _ALONE_WIDTH / label.shape[1])
    size = (round(scale * label.shape[1]), max(1, round(scale * label.shape[0])))
    # Ignored pixels (255) are black.
    palette = np.zeros((256, 3), dtype=np.uint8)
    palette[: len(colours)] = colours
    name = re.sub(r"[^A-Za-z0-9_.-]", "-", key)
    files = [folder / f"image_{name}.jpg"]
    with atomic_path(files[0]) as temporary:
        shown = Image.fromarray(picture).resize(size, Image.Resampling.BILINEAR)
        shown.save(temporary, "JPEG", quality=90)
    for kind, classes in (("label", label), ("prediction", prediction)):
        files.append(folder / f"{kind}_{name}.png")
        indexed = Image.fromarray(classes.astype(np.uint8)).resize(size, Image.Resampling.NEAREST)
        indexed.putpalette(palette.tobytes())
        with atomic_path(files[-1]) as temporary:
            indexed.save(temporary, "PNG", optimize=True)
    return files


def _bounds(
    maps: Sequence[Mapping[str, NDArray[np.float64]]],
) -> dict[str, tuple[float, float]]:
    """Smallest and largest value of each map over all images; a share ends at 1."""
    found = {}
    for title in maps[0]:
        values = [each[title] for each in maps]
        low, high = min(float(v.min()) for v in values), max(float(v.max()) for v in values)
        found[title] = (np.floor(10 * low) / 10, 1.0) if title == "confidence" else (low, high)
    return found


def _at(logits: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    return F.interpolate(logits, tuple(size), mode="bilinear", align_corners=False)


def _paint(labels: NDArray[np.integer], colours: Picture) -> Picture:
    """Class colours [H,W,3]; ignored pixels black."""
    known = labels < len(colours)
    painted: Picture = np.where(known[..., None], colours[np.where(known, labels, 0)], np.uint8(0))
    return painted


def _heat(values: NDArray[np.float64], low: float, high: float) -> Picture:
    """Colours [H,W,3] of values, dark at `low` to bright at `high`."""
    share = np.clip((values - low) / max(high - low, 1e-9), 0, 1)
    places = np.linspace(0, 1, len(_COLOURS))
    channels = [np.interp(share, places, _COLOURS[:, i]) for i in range(3)]
    return np.stack(channels, axis=-1).round().astype(np.uint8)


def _cell(picture: Picture, label_size: Sequence[int], width: int) -> Picture:
    height = round(width * label_size[0] / label_size[1])
    smooth = Image.Resampling.BILINEAR if picture.shape[1] > width else Image.Resampling.NEAREST
    scaled = np.asarray(Image.fromarray(picture).resize((width, height), smooth))
    return np.pad(scaled, ((0, _GAP), (0, _GAP), (0, 0)), constant_values=255)


def _heading(title: str, width: int, scale: tuple[float, float] | None = None) -> Picture:
    """The title of a column and, at its right end, the colours from lowest to highest value."""
    band = Image.new("RGB", (width + _GAP, _BAND), "white")
    draw = ImageDraw.Draw(band)
    draw.text((4, 2), title, fill="black", font=ImageFont.load_default(14))
    if scale is not None:
        small = ImageFont.load_default(11)
        low, high = (f"{value:.3g}" for value in scale)
        right = width - 2 - round(small.getlength(high))
        left = right - 4 - 36
        draw.text((right, 4), high, fill="black", font=small)
        draw.text((left - 4 - round(small.getlength(low)), 4), low, fill="black", font=small)
        ramp = _heat(np.tile(np.linspace(0, 1, 36), (10, 1)), 0, 1)
        band.paste(Image.fromarray(ramp), (left, 6))
    return np.asarray(band)


def _save(path: Path, strips: Sequence[Picture]) -> None:
    with atomic_path(path) as temporary:
        Image.fromarray(np.concatenate(strips)[:-_GAP, :-_GAP]).save(temporary)
