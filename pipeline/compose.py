"""The only module that imports Hydra: names and overrides in, plain resolved mappings out."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ecocseg.config import unknown
from ecocseg.errors import ConfigError

CONF = Path(__file__).parent / "conf"


def names(group: str) -> list[str]:
    """Names that a configuration group offers, sorted."""
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def compose_config(overrides: Sequence[str]) -> dict[str, Any]:
    """The configuration with Hydra-style `overrides`, resolved to plain values.

    Raises ConfigError, naming the override, when a group, name, field or value is wrong.
    """
    for override in overrides:
        group, _, value = override.partition("=")
        if (CONF / group.lstrip("+")).is_dir() and value and value not in names(group.lstrip("+")):
            raise ConfigError(unknown(group, group, value, names(group.lstrip("+"))))
    if GlobalHydra.instance().is_initialized():
        GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            config = compose("config", overrides=list(overrides))
        resolved = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(_explain(error, overrides)) from error
    assert isinstance(resolved, dict)
    return {str(key): value for key, value in resolved.items()}


def load_yaml(group: str, name: str) -> dict[str, Any]:
    """The plain mapping of one file of a group, such as a data set's; ConfigError when absent."""
    if name not in names(group):
        raise ConfigError(unknown(group, group, name, names(group)))
    path = CONF / group / f"{name}.yaml"
    try:
        loaded = OmegaConf.to_container(OmegaConf.load(path), resolve=True)
    except Exception as error:
        raise ConfigError(f"{path}: not readable as YAML ({_first_lines(error)})") from error
    if not isinstance(loaded, dict):
        raise ConfigError(f"{path}: expected a mapping of fields")
    return {str(key): value for key, value in loaded.items()}


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
    node: Any = compose_config(others)
    *parents, field = path.split(".")
    for parent in parents:
        node = node.get(parent) if isinstance(node, dict) else None
    if not isinstance(node, dict):
        return f"{path}: {'.'.join(parents)} has no fields (overrides: {' '.join(overrides)})"
    return unknown(path, "field", field, [str(key) for key in node])


def _first_lines(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return "; ".join(lines[:2])[:300] if lines else type(error).__name__
