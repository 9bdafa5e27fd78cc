"""Networks without storage: for counting what they take, quickly and with no memory for them."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ecocseg.models.config import ModelConfig
from ecocseg.models.network import Segmenter
from ecocseg.models.segmenter import build_model

META = torch.device("meta")


def blank_model(config: ModelConfig, channels: int) -> Segmenter:
    """The network of `build_model` on the meta device; no weights are fetched or read.

    Raises what `build_model` raises.
    """
    with Blank():
        network = build_model(config, channels, load=False)
    return network.to(device=META)


class Blank(TorchFunctionMode):
    """Makes parameters without storage, and leaves out what fills them.

    Not `torch.device("meta")`: that one also takes the numbers that constructors compute with.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        options = dict(kwargs or {})
        if func in (torch.empty, torch.zeros, torch.ones):
            options["device"] = META
        elif _fills(func) and args and isinstance(args[0], Tensor) and args[0].is_meta:
            return args[0]
        return func(*args, **options)


def _fills(func: Callable[..., Any]) -> bool:
    """Whether it works in place, as its name says."""
    name = getattr(func, "__name__", "")
    return name.endswith("_") and not name.endswith("__") and not name.startswith("requires_")
