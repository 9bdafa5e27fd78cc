"""Lets a network compute its part of a batch as if it had the whole of it.

Batch normalisation takes its statistics over all processes, exactly: every process has as many
numbers of a channel. Dropout draws for the whole batch and keeps the part of its own images.
"""

from typing import Any

import torch
from timm.layers import BatchNormAct2d, DropPath
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from ecocseg.engine.distributed import Group
from ecocseg.errors import ConfigError
from ecocseg.models.hrda import HRDA

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, BatchNormAct2d)
_DROPS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, DropPath)


def share(network: nn.Module, group: Group) -> None:
    """Make `network` one of those of `group`, in place; nothing happens in a group of one.

    Names in the state dict stay and deep copies keep the behaviour. Raises ConfigError for layers
    that are not known to work on a part of a batch.
    """
    if group.size == 1:
        return
    kinds: dict[type[nn.Module], type[nn.Module]] = {}
    for name, module in network.named_modules():
        kind = type(module)
        if isinstance(module, HRDA):
            module.processes = group.size
        if not isinstance(module, _BatchNorm | _DropoutNd | DropPath):
            continue
        if kind not in _NORMS + _DROPS:
            raise ConfigError(
                f"model.encoder: its layer {name!r} is a {kind.__name__}, which works on whole "
                f"batches only; got {group.size} processes, allowed is 1 (schedule.gpus=1)"
            )
        if kind not in kinds:
            kinds[kind] = _shared(kind, _Norm if kind in _NORMS else _Drop)
        module.__class__ = kinds[kind]  # type: ignore[assignment]
        module.group = group  # type: ignore[assignment]


def _shared(kind: type[nn.Module], behaviour: type) -> type[nn.Module]:
    """`kind` with another forward pass; a subclass, so that it still is one of `kind`."""
    return type(kind.__name__, (behaviour, kind), {"__qualname__": kind.__qualname__})


class _Norm:
    """Batch normalisation over all processes."""

    group: Group

    def forward(self: Any, images: Tensor) -> Tensor:
        if not self.training:
            found: Tensor = super().forward(images)  # type: ignore[misc]
            return found
        self._check_input_dim(images)
        found, mean, variance = _Normalise.apply(
            images, self.weight, self.bias, self.eps, self.group
        )
        if self.track_running_stats:
            self.num_batches_tracked.add_(1)
            momentum = self.momentum
            if momentum is None:
                momentum = 1.0 / float(self.num_batches_tracked)
            numbers = self.group.size * images.numel() // images.shape[1]
            self.running_mean.mul_(1 - momentum).add_(mean, alpha=momentum)
            unbiased = variance * (numbers / max(numbers - 1, 1))
            self.running_var.mul_(1 - momentum).add_(unbiased, alpha=momentum)
        if isinstance(self, BatchNormAct2d):
            return self.act(self.drop(found))
        return found


class _Normalise(torch.autograd.Function):
    """(x - mean) / sqrt(variance + eps) * weight + bias, with the mean and the variance."""

    @staticmethod
    def forward(
        ctx: Any, images: Tensor, weight: Tensor, bias: Tensor, eps: float, group: Group
    ) -> tuple[Tensor, Tensor, Tensor]:
        wide = images.to(torch.promote_types(images.dtype, torch.float32))
        own = torch.stack(torch.var_mean(wide, _but_channels(wide), correction=0))
        variances, means = group.gather(own[None]).unbind(1)
        # Each process has as many numbers: the variance of the whole is that within and between.
        mean = means.mean(0)
        variance = variances.mean(0) + means.var(0, correction=0)
        result = F.batch_norm(images, mean, variance, weight, bias, False, 0.0, eps)
        ctx.save_for_backward(images, weight, mean, torch.rsqrt(variance + eps))
        ctx.group = group
        ctx.mark_non_differentiable(mean, variance)
        return result, mean, variance

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        images, weight, mean, scale = ctx.saved_tensors
        dims, shape = _but_channels(images), [1, -1] + [1] * (images.ndim - 2)
        slope = gradient.to(mean.dtype)
        centred = images.to(mean.dtype) - mean.view(shape)
        # Of this process: what bias and weight learn. Of all: how much the statistics moved.
        own = torch.stack([slope.sum(dims), (slope * centred).sum(dims) * scale])
        numbers = ctx.group.size * images.numel() // images.shape[1]
        shift, stretch = ctx.group.sum(own) / numbers
        outer = scale if weight is None else weight * scale
        found = slope - shift.view(shape) - centred * (stretch * scale).view(shape)
        found = (found * outer.view(shape)).to(images.dtype)
        if weight is None:
            return found, None, None, None, None
        return found, own[1].to(weight.dtype), own[0].to(weight.dtype), None, None


class _Drop:
    """Dropout whose draws are those for the whole batch."""

    group: Group

    def forward(self: Any, values: Tensor) -> Tensor:
        rate = self.drop_prob if isinstance(self, DropPath) else self.p
        if not (self.training and rate):
            found: Tensor = super().forward(values)  # type: ignore[misc]
            return found
        shape = [self.group.size * len(values), *values.shape[1:]]
        if not isinstance(self, nn.Dropout):
            # One number for a channel or for an image: the rest would be drawn for nothing.
            kept = 1 if isinstance(self, DropPath) else 2
            shape[kept:] = [1] * (len(shape) - kept)
        ones = values.new_ones(shape)
        # Draws come in the order of memory: that of the values.
        if not values.is_contiguous() and values.is_contiguous(memory_format=torch.channels_last):
            ones = ones.contiguous(memory_format=torch.channels_last)
        mask = super().forward(ones)  # type: ignore[misc]
        return values * mask[self.group.rank :: self.group.size]


def _but_channels(images: Tensor) -> list[int]:
    return [dim for dim in range(images.ndim) if dim != 1]
