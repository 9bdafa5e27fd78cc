"""What a run sees: image, label, pseudo-label and prediction side by side."""

from collections.abc import Sequence
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

_COLUMNS = ("image", "label", "pseudo-label", "prediction")
_WIDTH, _BAND, _GAP = 320, 22, 4


@torch.no_grad()
def save_panel(
    path: Path,
    rows: Sequence[Row],
    manifest: Manifest,
    encoding: Encoding,
    student: nn.Module,
    teacher: nn.Module,
    device: torch.device,
) -> None:
    """Write a PNG with a row for each image, columns as in the paper's Fig. 9.

    The pseudo-label is `teacher`'s on the image as it is; pixels that are less confident than the
    quality threshold are dimmed.
    """
    colours = np.array([*manifest.classes.colors], dtype=np.uint8)
    strips = [_header()]
    for row in rows:
        image, label = read_image(row), read_label(row).numpy()
        batch = image[None].to(device).float() / 255
        student.eval()
        teacher.eval()
        pseudo = encoding.pseudo_label(_at(teacher(batch), label.shape))
        prediction = encoding.decode(_at(student(batch), label.shape))[0].cpu().numpy()
        confident = (pseudo.confidence[0] > encoding.quality_threshold).cpu().numpy()
        faded = _paint(pseudo.labels[0].cpu().numpy(), colours)
        faded = np.where(confident[..., None], faded, faded // 3)
        picture = image.permute(1, 2, 0).numpy()
        pictures = (picture, _paint(label, colours), faded, _paint(prediction, colours))
        strips.append(np.concatenate([_cell(p, label.shape) for p in pictures], axis=1))
    with atomic_path(path) as temporary:
        Image.fromarray(np.concatenate(strips)[:-_GAP, :-_GAP]).save(temporary)


def _at(logits: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    return F.interpolate(logits, tuple(size), mode="bilinear", align_corners=False)


def _paint(labels: NDArray[np.integer], colours: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Class colours [H,W,3]; ignored pixels black."""
    known = labels < len(colours)
    painted: NDArray[np.uint8] = np.where(
        known[..., None], colours[np.where(known, labels, 0)], np.uint8(0)
    )
    return painted


def _cell(picture: NDArray[np.uint8], label_size: Sequence[int]) -> NDArray[np.uint8]:
    height = round(_WIDTH * label_size[0] / label_size[1])
    smooth = Image.Resampling.BILINEAR if picture.shape[1] > _WIDTH else Image.Resampling.NEAREST
    scaled = np.asarray(Image.fromarray(picture).resize((_WIDTH, height), smooth))
    return np.pad(scaled, ((0, _GAP), (0, _GAP), (0, 0)), constant_values=255)


def _header() -> NDArray[np.uint8]:
    band = Image.new("RGB", (len(_COLUMNS) * (_WIDTH + _GAP), _BAND), "white")
    draw = ImageDraw.Draw(band)
    font = ImageFont.load_default(14)
    for i, title in enumerate(_COLUMNS):
        draw.text((i * (_WIDTH + _GAP) + 4, 2), title, fill="black", font=font)
    return np.asarray(band)
