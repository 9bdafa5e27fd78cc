"""Encodings by the names that users type."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from ecocseg.encodings.base import Encoding
from ecocseg.encodings.ecoc import ECOCConfig, ECOCEncoding
from ecocseg.encodings.one_hot import OneHotConfig, OneHotEncoding
from ecocseg.errors import ConfigError

__all__ = ["ENCODINGS", "Encoding", "build_encoding", "encoding_config"]

ENCODINGS: dict[str, tuple[type, Callable[[Any, Sequence[str]], Encoding]]] = {
    "one-hot": (OneHotConfig, lambda config, names: OneHotEncoding(config, len(names))),
    "ecoc": (ECOCConfig, ECOCEncoding),
}
"""Name -> config class, and what makes the encoding from a config and the class names."""


def encoding_config(name: str, config: Mapping[str, Any]) -> OneHotConfig | ECOCConfig:
    """Validated options of the encoding `name`; ConfigError on an unknown name, field or value."""
    if name not in ENCODINGS:
        raise ConfigError(f"encoding: got {name!r}, allowed {', '.join(ENCODINGS)}")
    kind = ENCODINGS[name][0]
    known = [field.name for field in fields(kind)]
    for unknown in config.keys() - set(known):
        raise ConfigError(
            f"encoding.{unknown}: no option of the encoding {name}, which has {', '.join(known)}"
        )
    hints = get_type_hints(kind)
    for field, value in config.items():
        if not _fits(value, hints[field]):
            wanted = " or ".join(dict.fromkeys(each.__name__ for each in _kinds(hints[field])))
            raise ConfigError(f"encoding.{field}: got {value!r}, allowed is a value of {wanted}")
    return kind(**config)


def _kinds(hint: Any) -> tuple[type, ...]:
    if get_origin(hint) in (UnionType, Union):
        return tuple(kind for part in get_args(hint) for kind in _kinds(part))
    return (str,) if get_origin(hint) is Literal else (hint,)


def _fits(value: Any, hint: Any) -> bool:
    if isinstance(value, bool):
        return False
    kinds = _kinds(hint)
    return isinstance(value, kinds) or (isinstance(value, int) and float in kinds)


def build_encoding(name: str, config: Mapping[str, Any], class_names: Sequence[str]) -> Encoding:
    """The encoding `name` ("one-hot" or "ecoc") with options `config` for these classes.

    Raises ConfigError on an unknown name or field, a value out of range, or class names without
    an embedding (text codebook).
    """
    checked = encoding_config(name, config)
    return ENCODINGS[name][1](checked, class_names)
