"""Frozen configuration dataclasses from plain mappings, with messages that name the field."""

import dataclasses
import difflib
import types
import typing
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, TypeVar

from ecocseg.errors import ConfigError

T = TypeVar("T")


def from_mapping(cls: type[T], values: Mapping[str, Any], where: str) -> T:
    """Build the dataclass `cls` from `values`.

    `where` is the path of the mapping in the configuration ("encoding"); it leads every message.
    Raises ConfigError on an unknown or missing field and on a value of the wrong type; a
    ValueError that `cls` raises itself is passed on with `where` in front.
    """
    if not isinstance(values, Mapping):
        raise ConfigError(f"{where}: got {values!r}, expected a mapping of fields")
    hints = _hints(cls)  # type: ignore[arg-type]  # mypy: a type variable may have no hash
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init}  # type: ignore[arg-type]
    for name in values:
        if name not in fields:
            raise ConfigError(unknown(f"{where}.{name}", "field", str(name), list(fields)))
    required = [
        name
        for name, f in fields.items()
        if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    ]
    if missing := [name for name in required if name not in values]:
        raise ConfigError(f"{where}: the field {missing[0]!r} is missing; {where} needs {required}")
    converted = {
        name: _convert(value, hints[name], f"{where}.{name}") for name, value in values.items()
    }
    try:
        return cls(**converted)
    except ConfigError as error:
        raise ConfigError(f"{where}.{error}") from error
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from error


def unknown(where: str, kind: str, name: str, allowed: Sequence[str]) -> str:
    """The message for a name that is not among `allowed`, with the nearest one suggested."""
    near = difflib.get_close_matches(name, allowed, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"{where}: unknown {kind} {name!r}{hint} (allowed: {', '.join(sorted(allowed))})"


def require(ok: bool, field: str, value: object, allowed: str) -> None:
    """Raise ConfigError, naming `field`, its `value` and what is `allowed`, unless `ok`."""
    if not ok:
        raise ConfigError(f"{field}: got {value!r}, allowed is {allowed}")


@cache
def _hints(cls: type) -> dict[str, Any]:
    """Annotations as types; looking them up takes longer than all the rest."""
    return typing.get_type_hints(cls)


def _convert(value: Any, hint: Any, where: str) -> Any:
    """`value` as the annotated type `hint`; lists become tuples, whole numbers floats."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        nested = [option for option in arguments if dataclasses.is_dataclass(option)]
        if len(nested) == 1 and isinstance(value, Mapping):
            # Its own message is worth more than "expected one of these".
            return _convert(value, nested[0], where)
        for option in arguments:
            try:
                return _convert(value, option, where)
            except ConfigError:
                continue
        raise ConfigError(f"{where}: got {value!r}, expected {_describe(hint)}")
    if origin is typing.Literal:
        if value in arguments:
            return value
        if isinstance(value, str):
            raise ConfigError(unknown(where, "value", value, [str(a) for a in arguments]))
    elif origin is tuple:
        if isinstance(value, list | tuple):
            if len(arguments) == 2 and arguments[1] is Ellipsis:
                return tuple(_convert(v, arguments[0], where) for v in value)
            if len(arguments) == len(value):
                return tuple(_convert(v, a, where) for v, a in zip(value, arguments, strict=True))
    elif origin is not None and issubclass(origin, Mapping):
        if isinstance(value, Mapping):
            return {
                _convert(k, arguments[0], where): _convert(v, arguments[1], f"{where}.{k}")
                for k, v in value.items()
            }
    elif origin is not None and issubclass(origin, Sequence):
        # A text is a sequence too, of letters: never what is meant.
        if isinstance(value, list | tuple):
            return tuple(_convert(v, arguments[0], where) for v in value)
    elif origin is not None:
        if isinstance(value, origin):
            return value
    elif hint is float:
        if isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
        if isinstance(value, str):
            # YAML reads 6e-5 as text: it wants 6.0e-5 for a number.
            try:
                return float(value)
            except ValueError:
                pass
    elif hint is int:
        if isinstance(value, int) and not isinstance(value, bool):
            return value
    elif hint is type(None):
        if value is None:
            return None
    elif dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return value if isinstance(value, hint) else from_mapping(hint, value, where)
    elif isinstance(value, hint):
        return value
    raise ConfigError(f"{where}: got {value!r}, expected {_describe(hint)}")


def _describe(hint: Any) -> str:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_describe(a) for a in arguments)
    if origin is typing.Literal:
        return "one of " + ", ".join(repr(a) for a in arguments)
    if origin is tuple:
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            return f"a list of {_describe(arguments[0])}"
        return f"a list of {len(arguments)} values"
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return "a mapping"
    if isinstance(origin, type) and issubclass(origin, Sequence):
        return f"a list, each {_describe(arguments[0])}"
    if hint is type(None):
        return "null"
    return {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}.get(
        hint, getattr(hint, "__name__", str(hint))
    )
