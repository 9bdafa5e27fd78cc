"""On PYTHONPATH of the chaos project only: a network that runs out of GPU memory when told to.

Python imports this module at its start. While the file that $CHAOS_OUT_OF_MEMORY names is there,
the next network that computes anything takes it away and raises what CUDA raises.
"""

import os
import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

_MODULE = "ecocseg.models.network"


class _Wrapped(Loader):
    """Executes a module as its own loader does, then gives its networks the fault."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        _make_faulty(module.Segmenter)


class _Finder(MetaPathFinder):
    def find_spec(self, name: str, path: object, target: object = None) -> ModuleSpec | None:
        if name != _MODULE:
            return None
        spec = PathFinder.find_spec(name, path)
        if spec is not None and spec.loader is not None:
            spec.loader = _Wrapped(spec.loader)
        return spec


def _make_faulty(network: type) -> None:
    original, order = network.outputs, os.environ["CHAOS_OUT_OF_MEMORY"]

    def outputs(self: object, images: object, *args: object, **options: object) -> object:
        if os.path.exists(order) and not images.is_meta:
            import torch

            try:
                # Of several networks the one that removes it is the one that fails.
                os.unlink(order)
            except FileNotFoundError:
                return original(self, images, *args, **options)
            raise torch.OutOfMemoryError(
                "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of "
                "23.69 GiB of which 1.00 GiB is free."
            )
        return original(self, images, *args, **options)

    network.outputs = outputs


if "CHAOS_OUT_OF_MEMORY" in os.environ:
    sys.meta_path.insert(0, _Finder())
