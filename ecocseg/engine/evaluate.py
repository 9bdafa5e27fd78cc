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
    border: Literal["shift", "clip"] = "shift"
    """What a window that reaches over the border does: move back into the image, as mmsegmentation
    has it, or end at the border and be smaller, as in UniMatch's code."""
    multiple: int | None = None
    """Whole images are resized to the nearest multiple of so many pixels and their logits back to
    the image's size, corner on corner (UniMatch V2: 14, its ViT's patch); None: as they are, and a
    network that cannot do with their size pads them."""
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
        require(
            self.border == "shift" or slide, "border", self.border, "clip for mode slide, or shift"
        )
        require(
            self.multiple is None or (self.multiple > 0 and not slide),
            "multiple",
            self.multiple,
            "null, or 1 or more pixels for mode whole",
        )
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
                    prediction = predict_whole(
                        model, encoding, images, labels.shape[-2:], config.multiple
                    )
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
    model: nn.Module,
    encoding: Encoding,
    images: Tensor,
    size: Sequence[int],
    multiple: int | None = None,
) -> Tensor:
    """Classes [B,H,W] at `size` (height, width) of whole images [B,3,h,w] in 0..1."""
    return encoding.decode(_resized(whole_logits(model, images, multiple), size))


def whole_logits(model: nn.Module, images: Tensor, multiple: int | None) -> Tensor:
    """Logits [B,K,h,w] of whole images [B,3,h,w], which the network sees as `multiple` says.

    `multiple`: as in `EvaluationConfig`.
    """
    own = images.shape[-2:]
    if multiple is None:
        logits: Tensor = model(images)
        return logits
    size = [max(1, int(side / multiple + 0.5)) * multiple for side in own]
    seen = F.interpolate(images, size, mode="bilinear", align_corners=True)
    return F.interpolate(model(seen), own, mode="bilinear", align_corners=True)


def predict_slide(
    model: nn.Module,
    encoding: Encoding,
    images: Tensor,
    size: Sequence[int],
    config: EvaluationConfig,
) -> Tensor:
    """Classes [1,H,W] at `size` of one image [1,3,h,w] from the mean over all windows."""
    height, width = images.shape[-2:]
    logits = config.average == "logits"
    channels = encoding.channels if logits else encoding.num_classes
    total = images.new_zeros(1, channels, height, width)
    visits = images.new_zeros(1, 1, height, width)
    for part in window_batches(height, width, config):
        windows = torch.cat([images[..., rows, columns] for rows, columns in part])
        found = model(windows)
        if not logits:
            found = encoding.class_scores(found)
        for values, (rows, columns) in zip(found, part, strict=True):
            total[..., rows, columns] += values
            visits[..., rows, columns] += 1
    mean = _resized(total / visits, size)
    return encoding.decode(mean) if logits else mean.argmax(1)


Place = tuple[slice, slice]
"""Rows and columns of a window."""


def window_batches(height: int, width: int, config: EvaluationConfig) -> list[list[Place]]:
    """The windows over an image, row by row, in groups of one size, `batch_size` at most."""
    by_size: dict[tuple[int, int], list[Place]] = {}
    for rows, columns in window_places(height, width, config):
        size = rows.stop - rows.start, columns.stop - columns.start
        by_size.setdefault(size, []).append((rows, columns))
    return [
        places[first : first + config.batch_size]
        for places in by_size.values()
        for first in range(0, len(places), config.batch_size)
    ]


def window_places(height: int, width: int, config: EvaluationConfig) -> list[Place]:
    """Every sliding window over an image, row by row; smaller at the border with `clip` only."""
    assert config.window is not None
    assert config.stride is not None
    spans = [
        [
            slice(start, min(start + window, length))
            for start in _starts(length, min(window, length), stride, config.border)
        ]
        for length, window, stride in zip(
            (height, width), config.window, config.stride, strict=True
        )
    ]
    return [(rows, columns) for rows in spans[0] for columns in spans[1]]


def _starts(length: int, window: int, stride: int, border: str = "shift") -> list[int]:
    """Starts of the windows that cover `length`; with `shift` the last one ends at the border."""
    if border == "clip":
        return list(range(0, length, stride))
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
