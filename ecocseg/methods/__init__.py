"""Methods by name: `ecocseg/methods/<name>.py` holds a `Config` and a `Method`."""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

from ecocseg.config import from_mapping, unknown
from ecocseg.errors import ConfigError

METHODS: dict[str, str] = {
    "supervised": "Supervised",
    "dacs": "DACS",
    "daformer": "DAFormer",
    "mic": "MIC",
    "stpp": "STPlusPlus",
    "fixmatch": "FixMatch",
    "unimatch": "UniMatch",
    "unimatch_v2": "UniMatchV2",
}


def build_method(name: str, values: Mapping[str, Any]) -> Any:
    """The `Method` called `name` with the configuration `values`.

    Raises ConfigError for an unknown name, field or a value out of range.
    """
    if name not in METHODS:
        raise ConfigError(unknown("method", "method", name, list(METHODS)))
    module = import_module(f"ecocseg.methods.{name}")
    method: Callable[..., Any] = getattr(module, METHODS[name])
    return method(from_mapping(module.Config, values, f"method ({name})"))
