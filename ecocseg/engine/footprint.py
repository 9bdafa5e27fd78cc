"""What a network holds for its backward pass, counted on PyTorch's device "meta"."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map_only

from ecocseg.engine.meter import Meter, uncounted
from ecocseg.models.blank import META, blank_model
from ecocseg.models.checkpointing import checkpoint_blocks
from ecocseg.models.config import ModelConfig
from ecocseg.models.cost import operations
from ecocseg.types import Head, Outputs


@dataclass(frozen=True, kw_only=True)
class Footprint:
    """A call of a network for images."""

    held: int
    """Bytes of activations for the backward pass, the results included; where blocks run again in
    it, its peak."""
    macs: float
    """Multiply-accumulates of the pass forward, by the rule of `network_cost`."""
    outputs: Outputs
    """Its results, on "meta" and without a graph."""


def footprint(
    model: ModelConfig,
    channels: int,
    images: tuple[int, int, int],
    *,
    bf16: bool = False,
    recompute: bool = False,
    views: int = 0,
) -> Footprint:
    """Of `Segmenter.outputs` for `images` = (how many, height, width) in training mode.

    `bf16`: under autocast; `recompute`: with activation checkpointing; `views`: of the call
    `network(images, change)` instead, whose change gives so many times the maps (0: no change).
    Raises what `build_model` raises; no weights are fetched or read.
    """
    count, height, width = images
    # Batch statistics want more than one value: one image is measured as half of two.
    measured = max(count, 2)
    whole = _measure(model, channels, (measured, height, width), bf16, recompute, views)
    given = count * max(views, 1)
    heads = (replace(head, logits=head.logits[:given]) for head in whole.outputs.heads)
    features = whole.outputs.features[:count]
    return Footprint(
        held=whole.held * count // measured,
        macs=whole.macs * count / measured,
        outputs=replace(whole.outputs, heads=tuple(heads), features=features),
    )


@lru_cache(maxsize=512)
def _measure(
    model: ModelConfig,
    channels: int,
    images: tuple[int, int, int],
    bf16: bool,
    recompute: bool,
    views: int,
) -> Footprint:
    # The first to ask may be a pass without gradient; the answer is kept for those with one. And
    # its own meter counts nothing of this, as it would not the next time.
    with uncounted(), torch.enable_grad():
        return _measured(
            _network(model, channels, recompute), model, images, bf16, recompute, views
        )


def _measured(
    network: Any,
    model: ModelConfig,
    images: tuple[int, int, int],
    bf16: bool,
    recompute: bool,
    views: int,
) -> Footprint:
    count, height, width = images
    batch = torch.empty(count, model.image_channels, height, width, device=META)
    meter = Meter([network])
    with _autocast(network, bf16), meter:
        with counted_operations(network) as operations:
            if views:
                found = _whole(network(batch, partial(_perturbed, views=views)))
            else:
                found = network.outputs(batch, torch.Generator())
        held = meter.live
        if recompute:
            torch.autograd.backward([head.logits.float().sum() for head in found.heads])
            held = meter.peak
    heads = tuple(replace(head, logits=head.logits.detach()) for head in found.heads)
    outputs = replace(found, heads=heads, features=found.features.detach())
    return Footprint(held=held, macs=float(sum(operations)), outputs=outputs)


def _perturbed(maps: list[Tensor], views: int) -> list[Tensor]:
    """Maps times a mask for each channel, behind the maps themselves where there are two views."""
    masked = [each * each.new_empty(*each.shape[:2], 1, 1) for each in maps]
    if views == 1:
        return masked
    return [torch.cat([each] * (views - 1) + [m]) for each, m in zip(maps, masked, strict=True)]


def _whole(logits: Tensor) -> Outputs:
    """Logits [B,K,H,W] of whole images as what a network gives to learn from."""
    head = Head(logits=logits, rows=slice(None), columns=slice(None), weight=1.0)
    return Outputs(heads=(head,), features=logits[:, :0], stride=1)


@lru_cache(maxsize=16)
def weights(model: ModelConfig, channels: int) -> tuple[int, int]:
    """Bytes of a network's parameters and buffers, and of its parameters alone."""
    network = _network(model, channels, False)
    parameters, buffers = (
        sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        for tensors in (network.parameters(), network.buffers())
    )
    return parameters + buffers, parameters


@lru_cache(maxsize=16)
def _network(model: ModelConfig, channels: int, recompute: bool) -> Any:
    """The network without numbers, in training mode; no gradient is kept."""
    network = blank_model(model, channels).train()
    if recompute:
        checkpoint_blocks(network.encoder)
    for parameter in network.parameters():
        parameter.register_post_accumulate_grad_hook(_drop_gradient)
    return network


def _drop_gradient(parameter: Tensor) -> None:
    parameter.grad = None


@contextmanager
def counted_operations(network: nn.Module) -> Iterator[list[float]]:
    """Inside, every module that runs adds its multiply-accumulates to the list."""
    found: list[float] = []

    def add(module: nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            found.append(operations(module, output))

    handles = [module.register_forward_hook(add) for module in network.modules()]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _autocast(network: nn.Module, wanted: bool) -> Iterator[None]:
    """Stands for `torch.autocast(..., bfloat16)`, which "meta" lacks.

    Modules bring it along as long as they run, since a mode does not reach into a backward pass,
    where activation checkpointing runs them again.
    """
    if not wanted:
        yield
        return
    mode = _InBf16()
    running: list[nn.Module] = []

    def begin(module: nn.Module, inputs: Any) -> None:
        if not running:
            mode.__enter__()
        running.append(module)

    def end(module: nn.Module, inputs: Any, output: Any) -> None:
        running.pop()
        if not running:
            mode.__exit__(None, None, None)

    handles: list[Any] = []
    for module in network.modules():
        handles.append(module.register_forward_pre_hook(begin))
        handles.append(module.register_forward_hook(end, always_call=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class _InBf16(TorchFunctionMode):
    """Products in bfloat16, sums over many values in float32."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        options = dict(kwargs or {})
        if func in _PRODUCTS:
            args, options = tree_map_only(Tensor, _narrowed, (args, options))
        elif func in _SUMS:
            args, options = tree_map_only(Tensor, _widened, (args, options))
        return func(*args, **options)


_PRODUCTS = {
    torch.conv1d,
    torch.conv2d,
    torch.conv_transpose2d,
    torch.matmul,
    torch.bmm,
    torch.Tensor.matmul,
    torch.Tensor.__matmul__,
    nn.functional.linear,
    nn.functional.scaled_dot_product_attention,
}
_SUMS = {
    torch.softmax,
    torch.Tensor.softmax,
    torch.linalg.vector_norm,
    nn.functional.softmax,
    nn.functional.layer_norm,
}


def _narrowed(tensor: Tensor) -> Tensor:
    return tensor.bfloat16() if tensor.is_meta and tensor.dtype == torch.float32 else tensor


def _widened(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype == torch.bfloat16 else tensor
