"""Encodings by the names that users type."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import Any

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
    try:
        return kind(**config)
    except TypeError as error:
        raise ConfigError(f"encoding {name}: an option has a value of the wrong kind ({error})")


def build_encoding(name: str, config: Mapping[str, Any], class_names: Sequence[str]) -> Encoding:
    """The encoding `name` ("one-hot" or "ecoc") with options `config` for these classes.

    Raises ConfigError on an unknown name or field, a value out of range, or class names without
    an embedding (text codebook).
    """
    checked = encoding_config(name, config)
    return ENCODINGS[name][1](checked, class_names)
