"""Counts what operations on PyTorch's device "meta" would hold."""

import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ecocseg.models.blank import META

_ROUNDING = 512  # bytes; PyTorch's allocator on a GPU
_counting: list["Meter | None"] = []
"""The last one counts."""


@contextmanager
def uncounted() -> Iterator[None]:
    """Inside, no meter outside counts."""
    _counting.append(None)
    try:
        yield
    finally:
        _counting.pop()


class Meter(TorchDispatchMode):
    """Counts the storages that operations make on "meta" while they live: `live`, `peak`.

    Of several, the innermost counts.
    """

    def __init__(self, networks: Sequence[nn.Module] = ()) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._known: dict[int, Any] = {}
        for network in networks:
            for tensor in [*network.parameters(), *network.buffers()]:
                storage = tensor.untyped_storage()
                self._known[id(storage)] = weakref.ref(storage)

    def __enter__(self) -> "Meter":
        _counting.append(self)
        super().__enter__()
        return self

    def __exit__(self, *raised: Any) -> None:
        super().__exit__(*raised)
        _counting.pop()

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        found = _QUICK.get(func, func)(*args, **(kwargs or {}))
        if _counting[-1] is not self:
            return found
        for tensor in [found] if isinstance(found, Tensor) else tree_leaves(found):
            if isinstance(tensor, Tensor) and tensor.is_meta:
                self._count(tensor.untyped_storage())
        return found

    def _count(self, storage: torch.UntypedStorage) -> None:
        known = self._known.get(id(storage))
        if known is not None and known() is storage:
            return
        size = -(-storage.nbytes() // _ROUNDING) * _ROUNDING
        self.live += size
        self.peak = max(self.peak, self.live)

        def forget(_: Any) -> None:
            self.live -= size

        self._known[id(storage)] = weakref.ref(storage, forget)


def _batch_norm(images: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Results of `native_batch_norm` in training mode."""
    training = rest[4]
    if not training:
        return torch.ops.aten.native_batch_norm.default(images, *rest)
    statistics = torch.empty(images.shape[1], dtype=torch.float32, device=META)
    return torch.empty_like(images), statistics, torch.empty_like(statistics)


def _layer_norm(values: Tensor, shape: Sequence[int], *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Results of `native_layer_norm`."""
    whole = torch.empty_like(values, memory_format=torch.contiguous_format)
    kept = [*values.shape[: values.ndim - len(shape)], *(1 for _ in shape)]
    statistics = torch.empty(kept, dtype=torch.float32, device=META)
    return whole, statistics, torch.empty_like(statistics)


_QUICK: dict[Callable[..., Any], Callable[..., Any]] = {
    torch.ops.aten.native_batch_norm.default: _batch_norm,
    torch.ops.aten.native_layer_norm.default: _layer_norm,
}
"""What takes most of a network's time on "meta", where PyTorch computes it from smaller parts."""
