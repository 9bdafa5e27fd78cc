"""params.yaml, validated: what users edit and what DVC tracks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ecocseg.config import from_mapping, require, unknown
from ecocseg.errors import ConfigError, UserError
from pipeline.store.remote import URI_FORM, is_storage_uri

ALGORITHMS = ("tpe", "random", "grid", "pbt")

PARAMS_FILE = "params.yaml"


@dataclass(frozen=True, kw_only=True)
class DataParams:
    """Where data lies."""

    root: str = "data"
    """Folder for raw and prepared data sets."""
    sources: Mapping[str, str | None] = field(default_factory=dict)
    """Data set name -> your folder or archive of it; null: fetched or generated."""
    mirrors: Mapping[str, str | None] = field(default_factory=dict)
    """Start of an address -> local folder that stands in for it; checksums still hold."""
    workers: int | None = None
    """Processes that prepare images; null: one a core."""

    def __post_init__(self) -> None:
        # DVC reads the same value and expands nothing.
        require(not self.root.startswith("~"), "root", self.root, "a path without ~")


@dataclass(frozen=True, kw_only=True)
class ClusterParams:
    """Where runs are computed."""

    address: str = "local"
    """local: this machine; auto: the running Ray cluster of this machine; or a head's address."""
    device: str = "auto"
    """auto, cpu or cuda."""
    gpu: str | None = None
    """Kind of GPU that runs ask for, as the nodes' label `gpu` has it; null: any."""
    cpus_per_run: int | None = None
    """CPU cores of a process; null: with a GPU one and one for each reader of images, else 1."""
    processes_per_run: int | None = None
    """Processes of a run, one on each of its GPUs; null: as its schedule says (`gpus`) where there
    are GPUs, else 1."""
    runs_per_gpu: int = 1
    """Runs that may share a card with memory for as many."""
    memory_gb_per_run: float | None = None
    """Host memory of a process; null: derived."""
    gpu_memory_gb_per_run: float | None = None
    """Memory of a card that a process needs; null: derived."""
    max_retries: int = 3
    """How often in a row, without a new checkpoint, a run is started again after its worker or node
    was lost."""
    node_wait_min: float = 30.0
    """Minutes that a grid waits for another node when the last one that suits a run was lost."""
    storage: str | None = None
    """For machines without a shared results folder: s3://BUCKET/PREFIX or file:///FOLDER."""

    def __post_init__(self) -> None:
        require(is_storage_uri(self.storage), "storage", self.storage, URI_FORM)
        require(self.device in ("auto", "cpu", "cuda"), "device", self.device, "auto, cpu or cuda")
        for name in ("cpus_per_run", "processes_per_run"):
            value = getattr(self, name)
            require(value is None or value >= 1, name, value, "null, 1 or more")
        for name in ("memory_gb_per_run", "gpu_memory_gb_per_run"):
            value = getattr(self, name)
            require(value is None or value > 0, name, value, "null or above 0")
        require(self.runs_per_gpu >= 1, "runs_per_gpu", self.runs_per_gpu, "1 or more")
        require(self.max_retries >= 0, "max_retries", self.max_retries, "0 or more")
        require(self.node_wait_min >= 0, "node_wait_min", self.node_wait_min, "0 or more")


@dataclass(frozen=True, kw_only=True)
class TrackingParams:
    """Where runs are tracked."""

    enabled: bool = True
    uri: str | None = None
    """Of an MLflow server; null: a SQLite store under results/mlflow."""


@dataclass(frozen=True, kw_only=True)
class SearchChoice:
    """Algorithm and budget of a search; raises ConfigError for what does not go together."""

    algorithm: str = "tpe"
    """tpe, random, grid, or pbt: a population that changes its values while it trains."""
    scheduler: str = "asha"
    """asha stops bad trials early, none does not; pbt is its own."""
    seed: int = 0
    """Of what is proposed."""
    warm_start: Sequence[str] = ()
    """Tables of earlier searches, such as results/search/trials.csv, for tpe to learn from."""
    trials: int | None = 6
    """How many points; null: as many as gpu_hours allow, or all of a grid. With pbt the
    population."""
    gpu_hours: float | None = None
    """Hours that trials may hold GPUs (CPU cores where there is none), each counted; null: any."""
    max_concurrent: int = 2
    """Trials at a time at most; a population runs as the cluster has room for it."""

    def __post_init__(self) -> None:
        require(self.algorithm in ALGORITHMS, "algorithm", self.algorithm, ", ".join(ALGORITHMS))
        require(self.scheduler in ("asha", "none"), "scheduler", self.scheduler, "asha or none")
        require(self.trials is None or self.trials >= 1, "trials", self.trials, "null, 1 or more")
        hours = self.gpu_hours
        require(hours is None or hours > 0, "gpu_hours", hours, "null or above 0")
        bounded = self.trials is not None or hours is not None or self.algorithm == "grid"
        require(bounded, "trials", None, "a number, unless gpu_hours is one or it is a grid")
        require(self.max_concurrent >= 1, "max_concurrent", self.max_concurrent, "1 or more")
        if self.algorithm == "pbt":
            require((self.trials or 0) >= 2, "trials", self.trials, "2 or more, the population")
        if self.algorithm != "tpe":
            given = list(self.warm_start)
            require(not given, "warm_start", given, "[] unless algorithm is tpe, which learns")


@dataclass(frozen=True, kw_only=True)
class SearchParams(SearchChoice):
    """The hyperparameter search."""

    experiment: str = "streets_uda"
    cell: str = "dacs_ecoc"
    space: str = "ecoc"
    """A file of pipeline/conf/search: parameters with their ranges."""
    objective: str = "student/miou"
    """student/miou or teacher/miou: whose score, by the cell's evaluation protocol."""
    seeds: Sequence[int] = (0,)
    """Runs of every trial; the objective is their mean."""
    overrides: Sequence[str] = ()
    """Applied to the cell, such as a shorter schedule."""

    def __post_init__(self) -> None:
        super().__post_init__()
        objectives = ("student/miou", "teacher/miou")
        require(self.objective in objectives, "objective", self.objective, " or ".join(objectives))
        _check_seeds(self.seeds)


@dataclass(frozen=True, kw_only=True)
class Params:
    """All of params.yaml."""

    experiments: Sequence[str]
    seeds: Sequence[int] = (0,)
    overrides: Sequence[str] = ()
    """Hydra-style overrides for every run."""
    override_files: Sequence[str] = ()
    """YAML files with a list `overrides`, such as results/search/best.yaml; applied first."""
    experiment_overrides: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Experiment name -> Hydra-style overrides for its runs only."""
    data: DataParams = field(default_factory=DataParams)
    cluster: ClusterParams = field(default_factory=ClusterParams)
    tracking: TrackingParams = field(default_factory=TrackingParams)
    search: SearchParams = field(default_factory=SearchParams)

    def __post_init__(self) -> None:
        require(len(self.experiments) > 0, "experiments", self.experiments, "one name or more")
        _check_seeds(self.seeds)


def _check_seeds(seeds: Sequence[int]) -> None:
    require(len(seeds) > 0, "seeds", seeds, "one whole number or more")
    for seed in seeds:
        whole = isinstance(seed, int) and not isinstance(seed, bool)
        require(whole and seed >= 0, "seeds", seed, "whole numbers from 0 up")
    require(len(set(seeds)) == len(seeds), "seeds", seeds, "each seed once")


TOP_LEVEL = tuple(Params.__dataclass_fields__)


def load_params(overrides: Sequence[str] = (), path: Path = Path(PARAMS_FILE)) -> Params:
    """Read params.yaml of the current folder, with `key.path=value` overrides (YAML values).

    Raises UserError when the file is not there or not YAML, ConfigError when a field is wrong.
    """
    if not path.is_file():
        raise UserError(
            f"{path}: not in this folder ({Path.cwd()}); run the command in the project's folder"
        )
    try:
        values: dict[str, Any] = yaml.safe_load(path.read_text()) or {}
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not readable as YAML: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected a mapping of fields")
    for override in overrides:
        _apply(values, override)
    return from_mapping(Params, values, path.name)


def is_params_override(text: str) -> bool:
    """Whether `key=value` is about params.yaml rather than about the runs' configuration."""
    return "=" in text and text.partition("=")[0].split(".")[0] in TOP_LEVEL


def _apply(values: dict[str, Any], override: str) -> None:
    path, _, text = override.partition("=")
    *parents, name = path.split(".")
    node = values
    for parent in parents:
        inner = node.setdefault(parent, {})
        if not isinstance(inner, dict):
            raise ConfigError(unknown(path, "field", name, list(node)))
        node = inner
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: {text!r} is not a YAML value") from error
    if path == "data" and isinstance(value, str):
        # data=FOLDER says where the data is, and leaves the rest of the section as it stands.
        node, name = node.setdefault("data", {}), "root"
    node[name] = value
