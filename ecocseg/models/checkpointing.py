"""Activation checkpointing: an encoder's blocks run again in the backward pass.

Only the inputs of the blocks are kept for the backward pass. Random numbers, autocast and batch
statistics are those of the first run, so that losses, gradients and buffers are the same bit for
bit.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


def checkpoint_blocks(encoder: nn.Module) -> int:
    """Let the blocks of `encoder` run again in the backward pass; returns how many there are.

    Blocks are the modules with parts of their own that the encoder holds in sequences and lists,
    the outermost ones: a MiT's transformer blocks, a ResNet's residual blocks. 0 says that the
    encoder has none, and that nothing was changed. Names in the state dict stay, deep copies keep
    the behaviour, and without gradients there is no difference.
    """
    blocks = list(_blocks(encoder))
    kinds = {type(block) for block in blocks if not isinstance(block, _Marker)}
    checkpointed = {kind: _checkpointed(kind) for kind in kinds}
    for block in blocks:
        if type(block) in checkpointed:
            block.__class__ = checkpointed[type(block)]
    return len(blocks)


class _Marker:
    """What tells a checkpointed block."""


def _checkpointed(kind: type[nn.Module]) -> type[nn.Module]:
    """`kind` with a forward pass that keeps its inputs only.

    A subclass rather than a wrapper or a hook: it has the names of `kind` in the state dict, and a
    deep copy has it too.
    """

    class Checkpointed(_Marker, kind):  # type: ignore[misc, valid-type]
        def forward(self, *inputs: Any, **options: Any) -> Any:
            if not torch.is_grad_enabled():
                return super().forward(*inputs, **options)
            return checkpoint(
                super().forward,
                *inputs,
                use_reentrant=False,
                context_fn=lambda: (nullcontext(), _without_trace(self)),
                **options,
            )

    Checkpointed.__name__ = Checkpointed.__qualname__ = kind.__name__
    return Checkpointed


@contextmanager
def _without_trace(block: nn.Module) -> Iterator[None]:
    """Give the block copies of its buffers: the first run updated batch statistics already."""
    kept = [
        (module, name, buffer)
        for module in block.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]
    for module, name, buffer in kept:
        module._buffers[name] = buffer.clone()
    try:
        yield
    finally:
        for module, name, buffer in kept:
            module._buffers[name] = buffer


def _blocks(module: nn.Module) -> Iterator[nn.Module]:
    for child in module.children():
        inside = isinstance(module, nn.Sequential | nn.ModuleList)
        container = isinstance(child, nn.Sequential | nn.ModuleList)
        if inside and not container and next(child.children(), None) is not None:
            yield child
        else:
            yield from _blocks(child)
