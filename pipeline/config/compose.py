"""The only module that imports Hydra: names and overrides in, plain resolved mappings out."""

import copy
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import OverrideType
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from ecocseg.config import unknown
from ecocseg.errors import ConfigError

CONF = Path(__file__).parents[1] / "conf"

_Stamp = tuple[tuple[str, int, int], ...]
"""Path, time of change and size of each file: what they hold may be kept while it stays equal."""


def names(group: str) -> list[str]:
    """Names that a configuration group offers, sorted."""
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def compose_config(overrides: Sequence[str]) -> dict[str, Any]:
    """The components with Hydra-style `overrides`, resolved to plain values.

    Whatever an `experiment` file says of its cells is not part of it: see `compose_experiment`.
    Raises ConfigError, naming the override, when a group, name, field or value is wrong.
    """
    _check_names(overrides)
    try:
        config = _composed(overrides)
    except (HydraException, OmegaConfBaseException, _Unusual):
        # Not in these parts: as a whole, which knows every kind of override, or says what is wrong.
        config = _whole(overrides)
    config.pop("experiment", None)
    return config


def compose_experiment(name: str) -> dict[str, Any]:
    """The resolved section `experiment` of the configuration with `experiment=name`.

    Raises ConfigError when there is no such experiment, or its file cannot be composed.
    """
    _check_names([f"experiment={name}"])
    return copy.deepcopy(_experiment(name, _stamp()))


def load_yaml(group: str, name: str) -> dict[str, Any]:
    """The plain mapping of one file of a group, such as a data set's; ConfigError when absent."""
    if name not in names(group):
        raise ConfigError(unknown(group, group, name, names(group)))
    path = CONF / group / f"{name}.yaml"
    found = path.stat()
    return copy.deepcopy(_yaml(path, found.st_mtime_ns, found.st_size))


@lru_cache(maxsize=256)
def _yaml(path: Path, changed_ns: int, size: int) -> dict[str, Any]:
    try:
        loaded = OmegaConf.to_container(OmegaConf.load(path), resolve=True)
    except Exception as error:
        raise ConfigError(f"{path}: not readable as YAML ({_first_lines(error)})") from error
    if not isinstance(loaded, dict):
        raise ConfigError(f"{path}: expected a mapping of fields")
    return {str(key): value for key, value in loaded.items()}


def _check_names(overrides: Sequence[str]) -> None:
    for override in overrides:
        group, _, value = override.partition("=")
        group = group.lstrip("+")
        if value and (CONF / group).is_dir() and value not in names(group):
            raise ConfigError(unknown(group, group, value, names(group)))


def _whole(overrides: Sequence[str]) -> dict[str, Any]:
    """All of the configuration, read and composed anew: 0.1 s, and more where cells are many."""
    try:
        with _hydra():
            config = compose("config", overrides=list(overrides))
        return _plain(config)
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(_explain(error, overrides)) from error


@lru_cache(maxsize=8)
def _experiment(name: str, stamp: _Stamp) -> dict[str, Any]:
    experiment = _whole([f"experiment={name}"])["experiment"]
    assert isinstance(experiment, dict)
    return experiment


class _Unusual(Exception):
    """An override that is neither the choice of a file nor the value of a field."""


def _composed(overrides: Sequence[str]) -> dict[str, Any]:
    """Chosen files, which many cells share and which are composed once, then values of fields.

    Equal to `_whole`, which sets the values last too; raises _Unusual for what it alone knows.
    """
    choices, values = [], []
    for text in overrides:
        key, value = _parsed(text)
        if (CONF / key).is_dir() and isinstance(value, str):
            choices.append(text)
        else:
            values.append((key, value))
    config = copy.deepcopy(_base(tuple(choices), _stamp()))
    for key, value in values:
        OmegaConf.update(config, key, value, merge=True)
    return _plain(config)


@lru_cache(maxsize=4096)
def _parsed(text: str) -> tuple[str, Any]:
    """Key and value of a plain override "key=value"."""
    found = OverridesParser.create().parse_override(text)
    special = found.is_sweep_override() or found.is_hydra_override() or found.package is not None
    if found.type is not OverrideType.CHANGE or special:
        raise _Unusual
    return found.key_or_group, found.value()


@lru_cache(maxsize=512)
def _base(choices: tuple[str, ...], stamp: _Stamp) -> DictConfig:
    """What these choices of files compose to, without any `experiment` section."""
    with _hydra():
        config = compose("config", overrides=list(choices))
    with open_dict(config):
        config.pop("experiment", None)
    return config


def _stamp() -> _Stamp:
    found = []
    with os.scandir(CONF) as entries:
        folders = [str(CONF), *(entry.path for entry in entries if entry.is_dir())]
    for folder in folders:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.endswith(".yaml"):
                    stat = entry.stat()
                    found.append((entry.path, stat.st_mtime_ns, stat.st_size))
    return tuple(sorted(found))


@contextmanager
def _hydra() -> Iterator[None]:
    if GlobalHydra.instance().is_initialized():
        GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield


def _plain(config: DictConfig) -> dict[str, Any]:
    resolved = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    assert isinstance(resolved, dict)
    return {str(key): value for key, value in resolved.items()}


def _explain(error: Exception, overrides: Sequence[str]) -> str:
    """Hydra's message for a person; an unknown field is answered with the fields there are."""
    found = re.search(r"Could not override '([^']+)'", str(error))
    if found is None:
        return f"{_first_lines(error)} (overrides: {' '.join(overrides) or 'none'})"
    path = found.group(1)
    others = [o for o in overrides if o.lstrip("+~").partition("=")[0] != path]
    if len(others) == len(overrides):
        # Not an override of the caller's, but a default of a configuration file.
        return f"{_first_lines(error)} (overrides: {' '.join(overrides) or 'none'})"
    node: Any = _whole(others)
    *parents, field = path.split(".")
    for parent in parents:
        node = node.get(parent) if isinstance(node, dict) else None
    if not isinstance(node, dict):
        return f"{path}: {'.'.join(parents)} has no fields (overrides: {' '.join(overrides)})"
    return unknown(path, "field", field, [str(key) for key in node])


def _first_lines(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return "; ".join(lines[:2])[:300] if lines else type(error).__name__
