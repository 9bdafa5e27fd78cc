"""From parameters to run specifications: experiments, cells and seeds, composed and validated."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import yaml

from ecocseg.config import unknown
from ecocseg.data.config import DatasetConfig
from ecocseg.data.manifest import (
    load_manifest,
    partition_file,
    processed_dir,
    read_fingerprint,
)
from ecocseg.errors import ConfigError, DataError
from ecocseg.files import atomic_write, sha256_file
from ecocseg.models.packaged import packaged
from ecocseg.models.weights import is_file
from pipeline.config.compose import compose_config, load_yaml, names
from pipeline.config.datasets import load_dataset
from pipeline.config.epochs import with_steps
from pipeline.config.experiment import load_experiment, report_of
from pipeline.config.params import Params
from pipeline.config.run_spec import DIGITS, Components, RunSpec, clean_config, validate
from pipeline.planning.cost import check_batches, run_cost
from pipeline.planning.needs import needs_of
from pipeline.store.paths import BEST_FILE, PLAN_FILE

# Groups whose files have different fields.
_VARYING = ("encoding", "method", "model")
_CHOSEN = (*_VARYING, "benchmark", "schedule")


def shared_overrides(
    params: Params, experiment: Mapping[str, Any], cell: str, from_files: Sequence[str] = ()
) -> list[str]:
    """What override files and params.yaml say of the runs of a cell, in order of precedence.

    What the cell sets itself is what the experiment compares, so that is left out; but how long and
    in what parts a run trains (`schedule`) is the user's.
    """
    given = [*from_files, *experiment_overrides(params, experiment["name"])]
    entry = experiment["cells"].get(cell, {"overrides": ()})
    lost = _overruled(given, entry["overrides"])
    return [text for text in given if text.startswith("schedule.") or text not in lost]


def overruled(params: Params) -> list[str]:
    """A line for each override of params.yaml that meets what cells set themselves."""
    found: dict[tuple[str, str], list[str]] = {}
    from_files = file_overrides(params)
    for name in params.experiments:
        experiment = load_experiment(name)
        given = [*from_files, *experiment_overrides(params, name)]
        for cell, entry in experiment["cells"].items():
            for text in _overruled(given, entry["overrides"]):
                found.setdefault((name, text), []).append(cell)
    lines = []
    for (name, text), cells in found.items():
        who = f"{', '.join(cells[:4])}{f' and {len(cells) - 4} more' if len(cells) > 4 else ''}"
        if text.startswith("schedule."):
            lines.append(f"{text} replaces what {name} sets for {who}")
        else:
            lines.append(
                f"{text} does not reach {who} of {name}: what a cell sets itself is what the "
                "experiment compares; copy the experiment's file to compare something else"
            )
    return lines


def _overruled(given: Sequence[str], own: Sequence[str]) -> list[str]:
    """Of the overrides `given` those of a field that a cell's `own` give another value."""
    values = dict(_field_and_value(text) for text in own)
    # A field of the method inside the cell's method goes by the shorter name as well.
    values |= {
        field.replace(".inner.", "."): value
        for field, value in values.items()
        if field.startswith("method.inner.")
    }
    split = [(text, *_field_and_value(text)) for text in given]
    return [
        text
        for text, field, value in split
        if values.get(field, value) != value
        # A component that is none: composing says so.
        and (field not in _CHOSEN or value in names(field))
    ]


def _field_and_value(override: str) -> tuple[str, str]:
    field, _, value = override.lstrip("+").partition("=")
    return field, "".join(value.split())


def experiment_overrides(params: Params, experiment: str) -> list[str]:
    """The user's overrides for the runs of `experiment`, in order of precedence."""
    strange = [name for name in params.experiment_overrides if name not in names("experiment")]
    if strange:
        raise ConfigError(
            unknown("experiment_overrides", "experiment", strange[0], names("experiment"))
        )
    return [*params.overrides, *params.experiment_overrides.get(experiment, ())]


def file_overrides(params: Params) -> list[str]:
    """The lists `overrides` of the YAML files that `override_files` names.

    Raises ConfigError when a file is not there, holds no such list of texts, or is what a search
    with other settings than those of params.yaml found.
    """
    return [text for path in params.override_files for text in _read_overrides(Path(path), params)]


def _read_overrides(path: Path, params: Params) -> list[str]:
    try:
        loaded = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        remedy = "; `dvc repro search` makes it" if path == BEST_FILE else ""
        raise ConfigError(f"override_files: {path} cannot be read ({error}){remedy}") from error
    found = loaded.get("overrides") if isinstance(loaded, dict) else None
    if not isinstance(found, list) or not all(isinstance(text, str) for text in found):
        raise ConfigError(
            f"override_files: {path} holds no list `overrides` of texts key=value; the search "
            f"writes such a file to {BEST_FILE}"
        )
    if path == BEST_FILE and loaded.get("search") != search_identity(params):
        raise ConfigError(
            f"override_files: {path} was found by a search with other settings than those of "
            "params.yaml now; type `dvc repro search` first, or copy the file to another place to "
            "use it as it is"
        )
    return found


def compose_cell(
    experiment: Mapping[str, Any], cell: str, overrides: Sequence[str], *, strict: bool = False
) -> tuple[dict[str, Any], Components]:
    """Resolved configuration of a cell and its validated components.

    An override of a field that only other encodings or methods have (`encoding.threshold` in a
    one-hot cell) is passed over, so that one list of overrides serves a whole experiment; with
    `strict` it is an error.
    """
    config, components, _ = _composed(experiment, cell, overrides, strict=strict)
    return config, components


def _composed(
    experiment: Mapping[str, Any], cell: str, overrides: Sequence[str], *, strict: bool = False
) -> tuple[dict[str, Any], Components, list[str]]:
    """As `compose_cell`, and the overrides that reached the cell."""
    cells = experiment["cells"]
    if cell not in cells:
        raise ConfigError(unknown("cell", "cell", cell, list(cells)))
    base = [f"experiment={experiment['name']}", *cells[cell]["overrides"]]
    kept = applicable(base, overrides, strict=strict)
    config = with_steps(clean_config(compose_config([*base, *kept])), [*base, *kept])
    return config, validate(config), kept


def applicable(base: Sequence[str], overrides: Sequence[str], *, strict: bool = False) -> list[str]:
    """The overrides without those whose field the cell's components do not have.

    A field that only the method inside the cell's method has (mic's `inner`) is changed there.
    With `strict` none is left out, so that composing refuses what does not fit.
    """
    choices = [o for o in overrides if o.partition("=")[0] in _VARYING]
    varying = any(o.partition(".")[0] in _VARYING for o in overrides)
    chosen = compose_config([*base, *choices]) if varying else {}
    kept = []
    for override in overrides:
        path, _, value = override.partition("=")
        group, _, field = path.partition(".")
        if group not in _VARYING or not field or _has(chosen[group], field):
            kept.append(override)
        elif group == "method" and _has(chosen[group].get("inner"), field):
            kept.append(f"method.inner.{field}={value}")
        elif strict or not any(_has(load_yaml(group, name), field) for name in names(group)):
            # Nobody's: composing says what there is.
            kept.append(override)
    return kept


def _has(values: Any, path: str) -> bool:
    """Whether the nested mapping has the dotted `path`."""
    for name in path.split("."):
        if not isinstance(values, Mapping) or name not in values:
            return False
        values = values[name]
    return True


def datasets_of(params: Params) -> list[DatasetConfig]:
    """The data sets that the experiments and the search need, each once, in order of first use."""
    found: dict[str, None] = {}
    from_files = file_overrides(params)
    for name in params.experiments:
        experiment = load_experiment(name)
        for cell in experiment["cells"]:
            overrides = shared_overrides(params, experiment, cell, from_files)
            _, components = compose_cell(experiment, cell, overrides)
            found |= dict.fromkeys(components.benchmark.datasets)
    _, components = search_cell(params)
    found |= dict.fromkeys(components.benchmark.datasets)
    return [load_dataset(name) for name in found]


def search_cell(params: Params, values: Sequence[str] = ()) -> tuple[dict[str, Any], Components]:
    """Configuration and components of the cell that the search tunes, with `values` for a trial."""
    search = params.search
    experiment = load_experiment(search.experiment)
    # Not what override files hold: the search writes such a file.
    shared = shared_overrides(params, experiment, search.cell)
    try:
        return compose_cell(experiment, search.cell, [*shared, *search.overrides, *values])
    except ConfigError as error:
        tried = f" with {' '.join(values)}" if values else ""
        raise ConfigError(f"search ({search.experiment}, {search.cell}){tried}: {error}") from error


def search_inputs(params: Params) -> dict[str, Any]:
    """All that the search reads: its settings, its space, the cell, data and named files.

    Raises DataError when a data set of the cell is not prepared.
    """
    config, components = search_cell(params)
    data = {name: fingerprint(params, name, True) for name in components.benchmark.datasets}
    data |= file_fingerprints(components) | list_fingerprints(params, components, True)
    # The search itself says which is not there.
    tables = [Path(name) for name in params.search.warm_start]
    files = {str(path): sha256_file(path) if path.is_file() else None for path in tables}
    return {
        "search": asdict(params.search),
        "space": load_yaml("search", params.search.space),
        "spec": _search_spec(params, config, data).to_dict(),
        "warm_start": files,
    }


def search_identity(params: Params) -> str:
    """Digest of what decides what the search finds, as far as it stands in params.yaml and conf."""
    config, _ = search_cell(params)
    chosen = asdict(params.search)
    # How many trials run at a time decides only speed; the overrides stand in the configuration.
    del chosen["max_concurrent"], chosen["overrides"]
    space = load_yaml("search", params.search.space)
    content = json.dumps([chosen, space, _search_spec(params, config, {}).digest], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def _search_spec(
    params: Params, config: Mapping[str, Any], data: Mapping[str, str | None]
) -> RunSpec:
    search = params.search
    cell = f"{search.experiment}-{search.cell}"
    return RunSpec(experiment="search", cell=cell, seed=search.seeds[0], config=config, data=data)


def plan(params: Params, *, need_data: bool = True) -> list[dict[str, Any]]:
    """One row a run: its specification, and how the tables show it.

    With `need_data` every data set must be prepared (DataError says which is not); without, runs
    on data that is not prepared yet carry no fingerprint.
    """
    rows = []
    from_files = file_overrides(params)
    for name in params.experiments:
        experiment = load_experiment(name)
        for order, (cell, entry) in enumerate(experiment["cells"].items()):
            overrides = shared_overrides(params, experiment, cell, from_files)
            config, components, kept = _composed(experiment, cell, overrides)
            data = {
                dataset: fingerprint(params, dataset, need_data)
                for dataset in components.benchmark.datasets
            }
            data |= file_fingerprints(components)
            data |= list_fingerprints(params, components, need_data)
            check_batches(components, config)
            report = report_of(experiment, entry, config, order, kept)
            cost, needs, smoke = run_cost(components, config), needs_of(components, config), None
            for seed in params.seeds:
                spec = RunSpec(experiment=name, cell=cell, seed=seed, config=config, data=data)
                smoke = smoke or smoke_id(spec)
                rows.append(plan_row(spec, components, report, cost, needs, smoke))
    return rows


def plan_row(
    spec: RunSpec,
    components: Components,
    report: Mapping[str, Any],
    cost: float | None = None,
    needs: Mapping[str, Any] | None = None,
    smoke: str | None = None,
) -> dict[str, Any]:
    """A run as one line of plan.jsonl; its cost is in 10^12 operations.

    Cost, needs and `smoke_id` are derived where they are None; all seeds of a cell have the same.
    """
    if cost is None:
        cost = run_cost(components, spec.config)
    return {
        "run_id": spec.run_id,
        "experiment": spec.experiment,
        "cell": spec.cell,
        "seed": spec.seed,
        "smoke_id": smoke or smoke_id(spec),
        "cost": float(f"{cost:.6g}"),
        "needs": dict(needs) if needs is not None else needs_of(components, spec.config),
        "spec": spec.to_dict(),
        "report": dict(report),
    }


def smoke_id(spec: RunSpec) -> str:
    """Name of the smoke run of a cell, which runs that differ in names and seed only share."""
    config = spec.config
    names = f"{config['method']['name']}_{config['encoding']['name']}"
    return f"{names}-{replace(spec, seed=0).digest[:DIGITS]}"


def fingerprint(params: Params, dataset: str, needed: bool) -> str | None:
    """Fingerprint of the prepared data set, None when it is not prepared and not `needed`."""
    folder = processed_dir(Path(params.data.root), dataset)
    if not (folder / "dataset.json").is_file():
        if needed:
            raise DataError(
                f"{folder}: the data set {dataset!r} is not prepared; run `dvc repro preprocess` "
                f"(or `ecocseg fetch dataset={dataset}` and `ecocseg preprocess dataset={dataset}`)"
            )
        return None
    return read_fingerprint(folder)


def file_fingerprints(components: Components) -> dict[str, str | None]:
    """Checksums of the files that a configuration names: other content is another run.

    Weights of a package have a checksum that is known without it. Raises ConfigError when a file is
    not there.
    """
    benchmark, weights = components.benchmark, components.model.weights
    named = {
        "model.weights": weights if is_file(weights) else None,
        "encoding.codebook_path": getattr(components.encoding, "codebook_path", None),
        "encoding.embeddings": getattr(components.encoding, "embeddings", None),
        "benchmark.labelled.partition.list_file": benchmark.labelled.partition.list_file,
    }
    if benchmark.unlabelled is not None:
        list_file = benchmark.unlabelled.partition.list_file
        named["benchmark.unlabelled.partition.list_file"] = list_file
    found: dict[str, str | None] = {}
    for field, name in named.items():
        if name is None:
            continue
        if not Path(name).is_file():
            raise ConfigError(f"{field}: {name} is not there; give the path of an existing file")
        found[field] = sha256_file(Path(name))
    of_package = packaged(weights)
    if of_package is not None:
        found["model.weights"] = of_package.sha256
    return found


def list_fingerprints(
    params: Params, components: Components, needed: bool
) -> dict[str, str | None]:
    """Checksums of the published lists of labelled images that a benchmark draws on.

    Raises DataError when `needed` and one was not prepared.
    """
    benchmark = components.benchmark
    found: dict[str, str | None] = {}
    for source in (benchmark.labelled, benchmark.unlabelled):
        if source is None or source.part == "all" or source.partition.published is None:
            continue
        name = source.partition.published
        folder = processed_dir(Path(params.data.root), source.dataset)
        if needed:
            load_manifest(folder).partition(name)
        path = partition_file(folder, name)
        found[f"{source.dataset}/partitions/{name}"] = sha256_file(path) if path.is_file() else None
    return found


def write_plan(rows: Sequence[Mapping[str, Any]], path: Path = PLAN_FILE) -> None:
    """Write plan.jsonl atomically, one run a line."""
    atomic_write(path, "".join(json.dumps(row, sort_keys=True) + "\n" for row in rows))


def read_plan(path: Path = PLAN_FILE) -> list[dict[str, Any]]:
    """The rows of plan.jsonl; DataError when it is not there."""
    if not path.is_file():
        raise DataError(f"{path}: there is no plan yet; run `dvc repro plan`")
    rows: list[dict[str, Any]] = []
    with path.open() as file:
        for line in filter(str.strip, file):
            rows.append(json.loads(line))
            if len(rows) > 1:
                _share(rows[-1], rows[-2])
    return rows


def _share(row: dict[str, Any], before: Mapping[str, Any]) -> None:
    """Let the runs of a cell, which follow each other, hold one object of what they have alike."""
    if (row["experiment"], row["cell"]) != (before["experiment"], before["cell"]):
        return
    for values, known in ((row, before), (row.get("spec", {}), before.get("spec", {}))):
        for name, value in values.items():
            if isinstance(value, dict) and value == known.get(name):
                values[name] = known[name]
