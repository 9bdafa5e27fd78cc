"""Whole-image and sliding-window evaluation into confusion matrices, and the score of them."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Literal

import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn
from torch.nn import functional as F

from ecocseg.config import require
from ecocseg.data.dataset import read_image, read_label
from ecocseg.data.manifest import Row
from ecocseg.encodings.base import Encoding
from ecocseg.engine.distributed import SINGLE, Group
from ecocseg.iou import Score, mean_score
from ecocseg.metrics import confusion_matrix
from ecocseg.models.modes import evaluating


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """How an image is predicted; part of a result's identity."""

    mode: Literal["whole", "slide"] = "whole"
    window: tuple[int, int] | None = None
    """Height and width of the sliding window, for mode slide."""
    stride: tuple[int, int] | None = None
    """Vertical and horizontal step of the window, for mode slide."""
    average: Literal["scores", "logits"] = "scores"
    """What overlapping windows are averaged as: class scores (probabilities), or logits as
    mmsegmentation does, decided once at the end."""
    batch_size: int = 8
    """Images (whole) or windows (slide) at a time; changes the result by rounding at most."""
    score: Score = "iou"
    """What a network's one number is made of: intersection over union, or Dice."""
    per: Literal["set", "folder"] = "set"
    """Count over the whole set, or over each folder of keys (volumes, as in ACDC) and take the mean
    of their scores."""
    classes: tuple[str, ...] | None = None
    """The classes that the one number is the mean of; None for all."""

    def __post_init__(self) -> None:
        slide = self.mode == "slide"
        for name in ("window", "stride"):
            value = getattr(self, name)
            require(
                (value is not None and min(value) > 0) if slide else value is None,
                name,
                value,
                "[height, width] for mode slide, null for mode whole",
            )
        if self.window is not None and self.stride is not None:
            fits = all(s <= w for s, w in zip(self.stride, self.window, strict=True))
            require(fits, "stride", self.stride, f"at most the window {list(self.window)}")
        require(self.batch_size > 0, "batch_size", self.batch_size, "1 or more")
        require(self.classes != (), "classes", [], "null (all) or at least one name")

    def places(self, names: Sequence[str]) -> list[int] | None:
        """Indices of `classes` in the class names of a data set; None for all.

        Raises ConfigError when one of them is not there.
        """
        if self.classes is None:
            return None
        for name in self.classes:
            require(name in names, "evaluation.classes", name, f"names among {list(names)}")
        return [list(names).index(name) for name in self.classes]


def overall_score(confusion: ArrayLike, config: EvaluationConfig, names: Sequence[str]) -> float:
    """The one number of what `evaluate` counted, in percent: by it the best checkpoint is chosen.

    `names`: of the classes, in order. NaN when no class is there.
    """
    return mean_score(confusion, config.score, config.places(names))


@torch.no_grad()
def evaluate(
    model: nn.Module,
    encoding: Encoding,
    rows: Sequence[Row],
    config: EvaluationConfig,
    device: torch.device,
    autocast: torch.dtype | None = None,
    group: Group = SINGLE,
) -> Tensor:
    """Confusion matrix of `model` over `rows`, on the CPU, int64 [N,N].

    With `per` folder [V,N,N]: one for each of V folders of keys (up to the last /), by their names.
    Logits (whole) or what the windows are averaged as (slide) are brought to the label's size
    before the decision.
    The model is in evaluation mode meanwhile; its modules are left in the modes they had. Several
    processes share the images; each has the counts of all.
    """
    folders = sorted({_folder(row) for row in rows}) if config.per == "folder" else [""]
    total = torch.zeros(len(folders), encoding.num_classes, encoding.num_classes, dtype=torch.int64)
    at_once = config.batch_size if config.mode == "whole" else 1
    with evaluating(model):
        for batch in group.part(_same_size(rows, at_once)):
            images = torch.stack([read_image(row) for row in batch]).to(device).float() / 255
            labels = torch.stack([read_label(row) for row in batch]).to(device)
            with torch.autocast(device.type, autocast) if autocast else nullcontext():
                if config.mode == "whole":
                    prediction = predict_whole(model, encoding, images, labels.shape[-2:])
                else:
                    prediction = predict_slide(model, encoding, images, labels.shape[-2:], config)
            if config.per == "set":
                total[0] += confusion_matrix(prediction, labels, encoding.num_classes).cpu()
                continue
            for row, predicted, truth in zip(batch, prediction, labels, strict=True):
                counts = confusion_matrix(predicted, truth, encoding.num_classes).cpu()
                total[folders.index(_folder(row))] += counts
    total = group.sum(total.to(device)).cpu()
    return total[0] if config.per == "set" else total


def predict_whole(
    model: nn.Module, encoding: Encoding, images: Tensor, size: Sequence[int]
) -> Tensor:
    """Classes [B,H,W] at `size` (height, width) of whole images [B,3,h,w] in 0..1."""
    return encoding.decode(_resized(model(images), size))


def predict_slide(
    model: nn.Module,
    encoding: Encoding,
    images: Tensor,
    size: Sequence[int],
    config: EvaluationConfig,
) -> Tensor:
    """Classes [1,H,W] at `size` of one image [1,3,h,w] from the mean over all windows."""
    height, width = images.shape[-2:]
    places = window_places(height, width, config)
    logits = config.average == "logits"
    channels = encoding.channels if logits else encoding.num_classes
    total = images.new_zeros(1, channels, height, width)
    visits = images.new_zeros(1, 1, height, width)
    for first in range(0, len(places), config.batch_size):
        part = places[first : first + config.batch_size]
        windows = torch.cat([images[..., rows, columns] for rows, columns in part])
        found = model(windows)
        if not logits:
            found = encoding.class_scores(found)
        for values, (rows, columns) in zip(found, part, strict=True):
            total[..., rows, columns] += values
            visits[..., rows, columns] += 1
    mean = _resized(total / visits, size)
    return encoding.decode(mean) if logits else mean.argmax(1)


def window_places(height: int, width: int, config: EvaluationConfig) -> list[tuple[slice, slice]]:
    """Rows and columns of every sliding window over an image, row by row; all of one size."""
    assert config.window is not None
    assert config.stride is not None
    high, wide = min(config.window[0], height), min(config.window[1], width)
    return [
        (slice(top, top + high), slice(left, left + wide))
        for top in _starts(height, high, config.stride[0])
        for left in _starts(width, wide, config.stride[1])
    ]


def _starts(length: int, window: int, stride: int) -> list[int]:
    """Starts of the windows that cover `length`; the last one ends at the border."""
    return [*range(0, length - window, stride), length - window]


def _resized(maps: Tensor, size: Sequence[int]) -> Tensor:
    if tuple(maps.shape[-2:]) == tuple(size):
        return maps
    return F.interpolate(maps, tuple(size), mode="bilinear", align_corners=False)


def _same_size(rows: Sequence[Row], at_once: int) -> list[list[Row]]:
    """Consecutive rows of equal image and label size, `at_once` at most in a group."""
    groups: list[list[Row]] = []
    for row in rows:
        if groups and len(groups[-1]) < at_once and _size(groups[-1][0]) == _size(row):
            groups[-1].append(row)
        else:
            groups.append([row])
    return groups


def _size(row: Row) -> tuple[tuple[int, int], tuple[int, int]]:
    return row.image_size, row.label_size


def _folder(row: Row) -> str:
    return row.key.rpartition("/")[0]
