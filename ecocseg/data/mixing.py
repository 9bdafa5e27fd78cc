"""Masks that say which pixels of a mixed image come from where."""

import math
from typing import Literal

import torch
from torch import Tensor

from ecocseg.data.transforms import uniform
from ecocseg.engine.distributed import Group, group_of, per_image

ClassesOf = Literal["image", "batch"]


def class_mask(
    labels: Tensor, generator: torch.Generator, classes_of: ClassesOf = "image"
) -> Tensor:
    """ClassMix: pixels of half of the classes, drawn for each image, bool [B,H,W].

    `labels` [B,H,W]; of n distinct values ceil(n / 2) are drawn per image. They are the image's own
    (`image`, Olsson et al., WACV 2021), or those of the whole batch, of all processes (`batch`, the
    code of DACS, DAFormer and MIC): what is drawn need not be in the image then, and of few classes
    less is taken. As in DACS the ignore value counts as one of them.
    """
    group = group_of(generator)
    if classes_of == "batch":
        present = [_present(labels, group)] * len(labels)
        counts = [len(present[0])] * len(labels) * group.size
    else:
        present = [torch.unique(label) for label in labels]
        counts = [len(values) for values in present]
        if group.size > 1:
            # How much an image draws depends on what it holds, and all draw from one generator.
            counts = group.gather(torch.tensor(counts, device=labels.device)).tolist()
    orders = [torch.randperm(count, generator=generator) for count in counts]
    masks = []
    for label, values, order in zip(labels, present, group.part(orders), strict=True):
        chosen = values[order[: math.ceil(len(values) / 2)].to(values.device)]
        masks.append(torch.isin(label, chosen))
    return torch.stack(masks)


def _present(labels: Tensor, group: Group) -> Tensor:
    """The distinct values, 0 to 255, of the labels of all processes, in order."""
    values = torch.unique(labels)
    if group.size == 1:
        return values
    counts = torch.zeros(256, dtype=torch.int64, device=labels.device)
    counts[values] = 1
    return group.sum(counts).nonzero()[:, 0]


def cutmix_mask(
    batch: int, height: int, width: int, generator: torch.Generator, probability: float = 0.5
) -> Tensor:
    """CutMix: one box for each image, bool [B,H,W]; no box with 1 - `probability`.

    The box covers 2 to 40 % of the image and its aspect ratio is between 0.3 and 1 / 0.3, as in
    UniMatch. The area is drawn once; shapes and places that do not fit are drawn again. UniMatch's
    images are square; here the ratio is relative to the image's, so that each area fits any image.
    """
    boxes = per_image(
        lambda n: torch.tensor([_box(height, width, generator, probability) for _ in range(n)]),
        batch,
        generator,
    )
    masks = torch.zeros(batch, height, width, dtype=torch.bool)
    for mask, (top, bottom, left, right) in zip(masks, boxes.tolist(), strict=True):
        mask[top:bottom, left:right] = True
    return masks


def _box(
    height: int, width: int, generator: torch.Generator, probability: float
) -> tuple[int, int, int, int]:
    """Top, bottom, left and right of a box; all 0 for none."""
    if uniform(0, 1, generator) >= probability:
        return 0, 0, 0, 0
    area = uniform(0.02, 0.4, generator)
    while True:
        ratio = uniform(0.3, 1 / 0.3, generator)
        box_height = int(height * math.sqrt(area * ratio))
        box_width = int(width * math.sqrt(area / ratio))
        left = int(torch.randint(width, (), generator=generator))
        top = int(torch.randint(height, (), generator=generator))
        if left + box_width <= width and top + box_height <= height:
            return top, top + box_height, left, left + box_width


def block_mask(
    batch: int, height: int, width: int, block: int, ratio: float, generator: torch.Generator
) -> Tensor:
    """MIC: blocks of `block` pixels of which a share of `ratio` is hidden, bool [B,H,W].

    True is shown. Every block is drawn by itself; round(H / block) x round(W / block) of them, at
    least one, are stretched to the image, as in the public code.
    """
    rows, columns = max(1, round(height / block)), max(1, round(width / block))
    drawn = per_image(lambda n: torch.rand(n, rows, columns, generator=generator), batch, generator)
    shown = drawn > ratio
    down = torch.arange(height) * rows // height
    across = torch.arange(width) * columns // width
    return shown[:, down][:, :, across]


def paste(mask: Tensor, foreground: Tensor, background: Tensor) -> Tensor:
    """`foreground` where `mask` [B,H,W], else `background`; both [B,H,W] or [B,C,H,W]."""
    if foreground.dim() == mask.dim() + 1:
        mask = mask.unsqueeze(1)
    if foreground.dtype == background.dtype == torch.bool:
        # `where` on the bits of codewords takes ten times as long on a CPU.
        differ = (foreground ^ background).logical_and_(mask)
        return differ.logical_xor_(background)
    return torch.where(mask, foreground, background)
