"""A run, frozen: resolved configuration, data fingerprints and results version, with one hash."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property, lru_cache
from importlib import import_module
from typing import Any

from ecocseg.config import from_mapping, unknown
from ecocseg.data.benchmark import BenchmarkConfig
from ecocseg.encodings import ENCODINGS
from ecocseg.engine.schedule import FitConfig
from ecocseg.errors import ConfigError
from ecocseg.methods import METHODS
from ecocseg.models.segmenter import ModelConfig
from ecocseg.version import RESULTS_VERSION
from pipeline.store.deviations import SPEED_ONLY

COMPONENTS = ("benchmark", "model", "encoding", "method", "schedule")


DIGITS = 10
"""Of a run's digest, at the end of its id."""


@dataclass(frozen=True, kw_only=True)
class Components:
    """The validated configurations of a run."""

    benchmark: BenchmarkConfig
    model: ModelConfig
    encoding: Any
    method: Any
    schedule: FitConfig


@dataclass(frozen=True, kw_only=True)
class RunSpec:
    """Everything that decides the outcome of a run."""

    experiment: str
    cell: str
    seed: int
    config: Mapping[str, Any]
    """The resolved components, plain values."""
    data: Mapping[str, str | None]
    """Fingerprint of each prepared data set; None where it is not prepared yet."""
    results_version: int = RESULTS_VERSION

    @property
    def run_id(self) -> str:
        """Experiment, cell and seed for people, then ten digits that tell the content."""
        return f"{self.experiment}-{self.cell}-s{self.seed}-{self.digest[:DIGITS]}"

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the content: names of experiment and cell are not part of it."""
        rest = {
            "data": dict(self.data),
            "results_version": self.results_version,
            "seed": self.seed,
        }
        # One sorted JSON object, of which the runs of a cell share the first part.
        config = _content(json.dumps(self.config))
        content = f'{{"config": {config}, {json.dumps(rest, sort_keys=True)[1:]}'
        return hashlib.sha256(content.encode()).hexdigest()

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as they stand in the plan, the record and the tracking."""
        return {
            "experiment": self.experiment,
            "cell": self.cell,
            "seed": self.seed,
            **{name: self.config[name] for name in COMPONENTS},
            "data": dict(self.data),
            "results_version": self.results_version,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "RunSpec":
        """The inverse of `to_dict`."""
        return cls(
            experiment=values["experiment"],
            cell=values["cell"],
            seed=values["seed"],
            config={name: values[name] for name in COMPONENTS},
            data=values["data"],
            results_version=values["results_version"],
        )


@lru_cache(maxsize=64)
def _content(config: str) -> str:
    """A configuration's content as sorted JSON; the runs of a cell follow each other."""
    values = json.loads(config)
    for name in (*SPEED_ONLY, "epochs"):
        values["schedule"].pop(name, None)
    return json.dumps(values, sort_keys=True)


def clean_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The components of a composed configuration, without the shorthands of its templates.

    A benchmark file may hold fields that only feed its own interpolations (`dataset`, `fraction`);
    they are resolved by now and no part of the run.
    """
    cleaned = {name: config[name] for name in COMPONENTS}
    known = {field.name for field in fields(BenchmarkConfig)}
    cleaned["benchmark"] = {k: v for k, v in cleaned["benchmark"].items() if k in known}
    return cleaned


def validate(config: Mapping[str, Any]) -> Components:
    """Build every component's configuration; ConfigError names the first wrong field."""
    encoding = dict(config["encoding"])
    method = dict(config["method"])
    encoding_name, method_name = encoding.pop("name"), method.pop("name")
    if encoding_name not in ENCODINGS:
        raise ConfigError(unknown("encoding.name", "encoding", str(encoding_name), list(ENCODINGS)))
    if method_name not in METHODS:
        raise ConfigError(unknown("method.name", "method", str(method_name), list(METHODS)))
    method_config = import_module(f"ecocseg.methods.{method_name}").Config
    found = Components(
        benchmark=from_mapping(BenchmarkConfig, config["benchmark"], "benchmark"),
        model=from_mapping(ModelConfig, config["model"], "model"),
        encoding=from_mapping(ENCODINGS[encoding_name][0], encoding, "encoding"),
        method=from_mapping(method_config, method, "method"),
        schedule=from_mapping(FitConfig, config["schedule"], "schedule"),
    )
    _check_heads(found.model, method_name)
    return found


def _check_heads(model: ModelConfig, method: str) -> None:
    """Refuse a method that would leave a part of the network untrained."""
    if model.decoder == "hrda" and _method_class(method).whole_images:
        fitting = [name for name in METHODS if not _method_class(name).whole_images]
        raise ConfigError(
            f"model.decoder: got 'hrda' with method {method!r}, which learns from predictions of "
            "whole images and never from hrda's detail crop; take another decoder, or one of the "
            f"methods {', '.join(fitting)}"
        )


def _method_class(name: str) -> Any:
    return getattr(import_module(f"ecocseg.methods.{name}"), METHODS[name])
