"""The search space as users write it in YAML, checked before a machine is taken."""

import math
from collections.abc import Mapping
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from ecocseg.errors import ConfigError

_FIELDS = {
    "uniform": {"low", "high"},
    "loguniform": {"low", "high"},
    "int": {"low", "high"},
    "choice": {"values"},
}
_DIGITS = 4


def parse_space(space: Mapping[str, Any]) -> dict[str, BaseDistribution]:
    """`{name: {type: uniform|loguniform|int|choice, low, high | values}}` for Optuna.

    Raises ConfigError with the entry's name for whatever is unknown, missing or out of range.
    """
    if not space:
        raise ConfigError("space: got no parameters; name at least one, with type, low and high")
    return {name: _parse(name, entry) for name, entry in space.items()}


def plain_value(value: Any) -> Any:
    """A value as it is used, written and shown alike: floats carry four significant digits."""
    if isinstance(value, float):
        return float(f"{value:.{_DIGITS}g}")
    return value


def _parse(name: str, entry: Any) -> BaseDistribution:
    kind = entry.get("type") if isinstance(entry, Mapping) else None
    if kind not in _FIELDS:
        raise ConfigError(f"space.{name}.type: got {kind!r}, allowed {', '.join(_FIELDS)}")
    given, needed = set(entry) - {"type"}, _FIELDS[kind]
    if given != needed:
        raise ConfigError(
            f"space.{name}: got the fields {sorted(given)}, a {kind} takes {sorted(needed)}"
        )
    if kind == "choice":
        values = entry["values"]
        if not isinstance(values, list) or not values:
            raise ConfigError(f"space.{name}.values: got {values!r}, allowed a list with entries")
        return CategoricalDistribution(values)
    low, high = _number(name, "low", entry, kind), _number(name, "high", entry, kind)
    if low >= high:
        raise ConfigError(f"space.{name}: got low {low:g} and high {high:g}, low must be smaller")
    if kind == "int":
        return IntDistribution(int(low), int(high))
    if kind == "loguniform" and low <= 0:
        raise ConfigError(f"space.{name}.low: got {low:g}, a loguniform needs more than 0")
    return FloatDistribution(low, high, log=kind == "loguniform")


def _number(name: str, field: str, entry: Mapping[str, Any], kind: str) -> float:
    value = entry[field]
    allowed = int if kind == "int" else (int, float)
    if isinstance(value, bool) or not isinstance(value, allowed) or not math.isfinite(value):
        what = "a whole number" if kind == "int" else "a finite number (write 1.0e-3, not 1e-3)"
        raise ConfigError(f"space.{name}.{field}: got {value!r}, allowed {what}")
    return value
