"""What a network's bits and classes are worth on labelled images: ranks, calibration, labels.

The counts behind the paper's Fig. 6 to 8, for any encoding. `ecocseg.calibration` makes scores of
them, without torch.
"""

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ecocseg.calibration import BINS
from ecocseg.data.dataset import read_image, read_label
from ecocseg.data.manifest import Row
from ecocseg.encodings.base import Encoding
from ecocseg.engine.evaluate import EvaluationConfig, whole_logits, window_batches
from ecocseg.metrics import tally
from ecocseg.models.modes import evaluating
from ecocseg.types import IGNORE

IMAGES = 100
"""As many evaluated images at most are looked at."""
PIXELS = 2048
"""As many labelled pixels at most of each: neighbours say the same, and the cost stays small."""
# Confidences are added up as whole multiples of this, so that the sum is the same in any order.
_UNIT = 2.0**-20


def evenly_spaced(rows: Sequence[Row], most: int = IMAGES) -> list[Row]:
    """At most `most` of `rows`, in order, spread over all of them."""
    count = min(len(rows), most)
    return [rows[i * len(rows) // count] for i in range(count)]


@torch.no_grad()
def diagnose(
    model: nn.Module,
    encoding: Encoding,
    rows: Sequence[Row],
    config: EvaluationConfig,
    device: torch.device,
    autocast: torch.dtype | None = None,
) -> dict[str, Any]:
    """Counts over up to `PIXELS` labelled pixels of each of `rows`, as plain numbers and lists.

    The pixels are evenly spaced. pixels: counted ones; rank [N]: pixels whose true class is the
    first, second, ... nearest; bits and each of `Encoding.confidences` (classes; of ECOC mean_bits
    too): count, confidence (sum) and correct, [K,bins] by channel or [N,bins] by predicted class;
    labels: what `Encoding.label_diagnostics` counts. Mode whole: logits are interpolated to the
    label's size. Mode slide: each window is an image of its own, its label brought to the image's
    size, so that what lies under several windows counts for each. The model is in evaluation mode
    meanwhile; its modules are left in the modes they had.
    """
    totals: dict[str, Tensor] = {}
    with evaluating(model):
        for row in rows:
            image = read_image(row)[None].to(device).float() / 255
            label = read_label(row)[None].to(device)
            for part, truth in _views(image, label, config):
                with torch.autocast(device.type, autocast) if autocast else nullcontext():
                    logits = whole_logits(model, part, config.multiple)
                for one, its_truth in zip(logits, truth, strict=True):
                    counts = count_pixels(encoding, *labelled_pixels(one, its_truth))
                    for name, value in counts.items():
                        totals[name] = totals[name] + value if name in totals else value
    return _plain(totals)


def _views(
    image: Tensor, label: Tensor, config: EvaluationConfig
) -> Iterator[tuple[Tensor, Tensor]]:
    """Images [B,3,h,w] in 0..1 and labels [B,H,W] as the network is to see them."""
    if config.mode == "whole":
        yield image, label
        return
    height, width = image.shape[-2:]
    label = F.interpolate(label[None].float(), (height, width), mode="nearest-exact")[0]
    for part in window_batches(height, width, config):
        yield (
            torch.cat([image[..., rows, columns] for rows, columns in part]),
            torch.cat([label[..., rows, columns] for rows, columns in part]).to(torch.uint8),
        )


def labelled_pixels(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Logits [1,K,1,P] and labels int64 [1,1,P] of up to `PIXELS` evenly spaced labelled pixels.

    `logits` [K,h,w] are interpolated as if brought to the size of `labels` [H,W] (255 ignored),
    but at these pixels only.
    """
    height, width = labels.shape
    # The one place where a GPU is waited for.
    counted = (labels.flatten() != IGNORE).nonzero().squeeze(1)
    chosen = min(len(counted), PIXELS)
    counted = counted[torch.arange(chosen, device=labels.device) * len(counted) // max(chosen, 1)]
    full = logits if logits.dtype == torch.float64 else logits.float()
    row, column = (counted // width).to(full.dtype), (counted % width).to(full.dtype)
    grid = torch.stack([(2 * column + 1) / width - 1, (2 * row + 1) / height - 1], -1)
    found = F.grid_sample(
        full[None], grid[None, None], "bilinear", padding_mode="border", align_corners=False
    )
    # A diverged network counts as an unsure one instead of ending the run.
    return torch.nan_to_num(found), labels.flatten()[counted].long()[None, None]


@torch.no_grad()
def count_pixels(encoding: Encoding, logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Counts, int64 on the device, of logits [1,K,1,P] with labels [1,1,P], none of them ignored.

    rank [N]; bits [K,bins,3] and each of `Encoding.confidences` [N,bins,3]: count, sum of
    confidences in `_UNIT`s, correct; label/...: `Encoding.label_diagnostics`.
    """
    scores, target = encoding.class_scores(logits)[0, :, 0], labels[0, 0]
    own = scores.gather(0, target[None])
    classes = torch.arange(encoding.num_classes, device=scores.device)
    earlier = classes[:, None] < target
    rank = ((scores > own) | ((scores == own) & earlier)).sum(0)

    ones = encoding.bit_probabilities(logits)[0, :, 0]
    right = (ones >= 0.5) == encoding.bit_targets(labels)[0, :, 0]
    channels = torch.arange(encoding.channels, device=ones.device)[:, None]
    predicted = scores.max(0).indices
    sure = torch.maximum(ones, 1 - ones)
    found = {
        "rank": tally(rank, encoding.num_classes),
        "bits": _bins(channels, sure, right, encoding.channels),
    }
    for name, each in encoding.confidences(logits).items():
        found[name] = _bins(predicted, each[0, 0], predicted == target, encoding.num_classes)
    extra = encoding.label_diagnostics(logits, labels)
    return found | {f"label/{name}": value for name, value in extra.items()}


def _bins(group: Tensor, confidence: Tensor, correct: Tensor, groups: int) -> Tensor:
    """Count, confidence in `_UNIT`s and correct by group and bin of confidence: [groups,bins,3]."""
    place = (confidence * BINS).long().clamp_(max=BINS - 1)
    index = (place + group * BINS).flatten()
    amount = (confidence / _UNIT).round().long().flatten()
    columns = (None, amount, correct.long().flatten())
    return torch.stack([tally(index, groups * BINS, c) for c in columns], 1).view(groups, BINS, 3)


def _plain(totals: dict[str, Tensor]) -> dict[str, Any]:
    """The counts as a record holds them."""
    found: dict[str, Any] = {
        "pixels": int(totals["rank"].sum()),
        "rank": totals["rank"].tolist(),
        "labels": {},
    }
    for name, value in totals.items():
        if name.startswith("label/"):
            found["labels"][name.removeprefix("label/")] = value.tolist()
        elif name != "rank":
            count, confidence, correct = value.unbind(2)
            found[name] = {
                "count": count.tolist(),
                "confidence": (confidence.double() * _UNIT).tolist(),
                "correct": correct.tolist(),
            }
    return found
