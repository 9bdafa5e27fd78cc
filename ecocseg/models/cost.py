"""Parameters and operations of a network, counted without memory for it and without weights."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from ecocseg.models.blank import blank_model
from ecocseg.models.config import ModelConfig


@dataclass(frozen=True, kw_only=True)
class NetworkCost:
    """What a network costs, for one image."""

    parameters: int
    macs: float
    """Multiply-accumulates of a forward pass, by the rule of `network_cost`."""


def network_cost(config: ModelConfig, channels: int, size: tuple[int, int]) -> NetworkCost:
    """Parameters and operations of a network with `channels` outputs, for one image of `size`.

    The rule that gives the paper's Table 15 (DAFormer, 512x512: 116.64 G with 19 channels, 116.72 G
    with 40) is thop's: the multiply-accumulates of convolutions and linear layers without their
    biases, and 4 operations for each element that an affine normalisation puts out (2 without
    affine parameters). Activations, interpolation and the two matrix products of an attention
    (10.13 G of MiT-B5 at 512x512) count nothing. For hrda `size` is that of the whole image, and
    the context and all detail windows of a prediction count.

    Raises what `build_model` raises; no weights are fetched or read.
    """
    model = blank_model(config, channels).eval()
    total = 0

    def add(module: nn.Module, inputs: Any, output: Tensor) -> None:
        nonlocal total
        total += operations(module, output)

    for module in model.modules():
        module.register_forward_hook(add)
    with torch.no_grad():
        model(torch.empty(1, config.image_channels, *size, device="meta"))
    return NetworkCost(
        parameters=sum(p.numel() for p in model.parameters()),
        macs=float(total),
    )


def operations(module: nn.Module, output: Tensor) -> int:
    """Of one module alone, by the rule of `network_cost`; 0 for what counts nothing."""
    if isinstance(module, _ConvNd):
        return output.numel() * module.weight[0].numel()
    if isinstance(module, nn.Linear):
        return output.numel() * module.in_features
    if isinstance(module, _NormBase | nn.LayerNorm | nn.GroupNorm):
        return output.numel() * (2 if module.weight is None else 4)
    return 0
