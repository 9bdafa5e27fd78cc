"""Statements of what networks compute, one number at a time, for the tests to compare with."""

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor


@pytest.fixture(scope="session")
def literal(single_thread):
    """.bilinear, .convolution, .normalised"""
    return SimpleNamespace(bilinear=bilinear, convolution=convolution, normalised=normalised)


def bilinear(image: Tensor, height: int, width: int) -> Tensor:
    """[...,h,w] at another size: each new pixel from the four old ones around its centre."""
    return _rows(_rows(image, height).mT, width).mT


def _rows(image: Tensor, count: int) -> Tensor:
    old = image.shape[-2]
    rows = []
    for row in range(count):
        centre = min(max((row + 0.5) * old / count - 0.5, 0), old - 1)
        first = int(centre)
        share = centre - first
        after = min(first + 1, old - 1)
        rows.append((1 - share) * image[..., first, :] + share * image[..., after, :])
    return torch.stack(rows, dim=-2)


def convolution(image: Tensor, weight: Tensor, dilation: int = 1) -> Tensor:
    """[B,C,H,W] with a square odd kernel [K,C,s,s], tap by tap; zeros stand outside the image."""
    height, width = image.shape[-2:]
    size = weight.shape[-1]
    reach = dilation * (size // 2)
    framed = image.new_zeros(*image.shape[:2], height + 2 * reach, width + 2 * reach)
    framed[..., reach : reach + height, reach : reach + width] = image
    total = image.new_zeros(len(image), len(weight), height, width)
    for row in range(size):
        for column in range(size):
            top, left = row * dilation, column * dilation
            seen = framed[..., top : top + height, left : left + width]
            total += torch.einsum("kc,bchw->bkhw", weight[..., row, column], seen)
    return total


def normalised(image: Tensor, norm: torch.nn.BatchNorm2d) -> Tensor:
    """Batch normalisation by the running statistics."""
    shape = (1, -1, 1, 1)
    deviation = (norm.running_var + norm.eps).sqrt().view(shape)
    centred = (image - norm.running_mean.view(shape)) / deviation
    return centred * norm.weight.view(shape) + norm.bias.view(shape)
