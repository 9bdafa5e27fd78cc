"""Stage `search`: hyperparameters of one cell, with Ray Tune."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from typing import Any

from ecocseg.config import unknown
from ecocseg.errors import ConfigError
from ecocseg.methods import build_method
from pipeline.cluster.request import resources
from pipeline.cluster.session import ClusterConfig, connect
from pipeline.config.compose import load_yaml
from pipeline.config.params import Params
from pipeline.config.run_spec import Components, RunSpec, validate
from pipeline.monitor.grid_state import SEARCH, SEARCH_LOCK
from pipeline.planning.plan import search_cell, search_identity, search_inputs
from pipeline.planning.settings import run_settings, tracking_config
from pipeline.report.search_page import write_search_report
from pipeline.search.config import SearchConfig
from pipeline.search.ledger import Trial
from pipeline.search.results import best_overrides, overrides, write_result
from pipeline.search.space import Space, parse_space
from pipeline.search.tracking import SearchTracking
from pipeline.search.trial import with_values
from pipeline.search.tune import Searched, opened, search
from pipeline.stages.launcher import ended_with_launcher
from pipeline.stages.train import announce
from pipeline.store.deviations import SPEED_ONLY
from pipeline.store.lock import RunLock
from pipeline.store.paths import RESULTS

_FOLDER = RESULTS / SEARCH
# What the search itself decides, or compares scores by.
_DECIDED = {
    "schedule.steps": "every trial has the cell's; change it in search.overrides",
    "schedule.epochs": "every trial has the cell's length; change it in search.overrides",
    "schedule.evaluate_every": "scores are compared at the cell's evaluations",
    "schedule.log_every": "it changes no score",
}
_FILES = ("model.weights", "model.weights_sha256", "encoding.codebook_path", "encoding.embeddings")
# A running network takes a new value of these; a checkpoint would bring back the old one of others.
_CHANGEABLE = ("schedule.optim.lr", "schedule.optim.power", "schedule.clip_norm")


@ended_with_launcher()
def run(params: Params) -> None:
    """Search, and write what came of it to results/search."""
    if params.cluster.storage is not None and params.cluster.address != "local":
        announce(
            "search: cluster.storage is for runs; trials keep their files in results/search, which "
            "all machines have to see, or a trial whose machine is lost begins anew"
        )
    config, components = search_cell(params)
    raw = load_yaml("search", params.search.space)
    check_space(params, parse_space(raw), config)
    about = describe(params, config, components) | {"search": search_identity(params)}
    measures = {name: about[name] for name in ("objective", "evaluation")}
    chosen = replace(search_config(params, components), measures=measures)
    # What is wrong in the settings is told before tracking has a run of it.
    opened(chosen, _FOLDER)
    # One driver at a time: two would run the same trials.
    tracked = SearchTracking(tracking_config(params), _FOLDER / "tracked", chosen, about)
    # A trial is one process, whatever the recipe is meant for.
    cluster = replace(params.cluster, processes_per_run=1)
    asked = partial(resources, replace(params, cluster=cluster), chosen.row)
    with RunLock(_FOLDER / SEARCH_LOCK, wait_s=40, announce=announce), tracked:
        found = search(chosen, _FOLDER, asked, _connected(params), [tracked])
        best = write_result(found, _FOLDER, about)
        tracked.results(found, best, write_search_report(_FOLDER))
    _print(found, best, about)


def search_config(params: Params, components: Components) -> SearchConfig:
    """The search that params.yaml asks for.

    Its identity holds what a run's has: data, lists and named files by their content.
    """
    inputs = search_inputs(params)
    spec = RunSpec.from_dict(inputs["spec"])
    schedule, chosen = components.schedule, params.search
    settings = run_settings(params)
    return SearchConfig(
        objective="pipeline.search.trial:objective",
        space=inputs["space"],
        row={"run_id": spec.run_id, "spec": spec.to_dict()},
        settings={
            **settings,
            "seeds": list(chosen.seeds),
            "network": chosen.objective.partition("/")[0],
        },
        max_steps=schedule.steps,
        grace_steps=min(schedule.evaluate_every, schedule.steps),
        algorithm=chosen.algorithm,
        scheduler=chosen.scheduler,
        seed=chosen.seed,
        warm_start=list(chosen.warm_start),
        trials=chosen.trials,
        gpu_hours=chosen.gpu_hours,
        max_concurrent=chosen.max_concurrent,
    )


def describe(params: Params, config: Mapping[str, Any], components: Components) -> dict[str, Any]:
    """What is tuned and how it is scored: for tables, figures and best.yaml.

    Raises ConfigError when the cell's method has no teacher and the objective is the teacher's.
    """
    chosen = params.search
    options = dict(config["method"])
    method = build_method(options.pop("name"), options)
    if chosen.objective.startswith("teacher") and not method.uses_teacher:
        raise ConfigError(
            f"search.objective: got {chosen.objective!r}, but the method {method.name!r} of "
            f"{chosen.experiment}/{chosen.cell} has no teacher; allowed is student/miou"
        )
    evaluated, evaluation = components.benchmark.evaluated, components.benchmark.evaluation
    return {
        "experiment": chosen.experiment,
        "cell": chosen.cell,
        "space": chosen.space,
        "objective": chosen.objective,
        "seeds": list(chosen.seeds),
        "evaluation": {
            "dataset": evaluated.dataset,
            "split": evaluated.split,
            "mode": evaluation.mode,
            "score": evaluation.score,
        },
    }


def check_space(params: Params, space: Space, config: Mapping[str, Any]) -> None:
    """Raise ConfigError when a searched field is not the cell's, or not one to search.

    The ends of every range and all values of a choice are validated in the cell, each with what it
    depends on, and both extremes are composed as overrides: what is out of range is told before a
    machine is taken.
    """
    where = f"pipeline/conf/search/{params.search.space}.yaml"
    for path in space.names:
        node: Any = config
        for part in path.split("."):
            if not isinstance(node, Mapping) or part not in node:
                allowed = list(node) if isinstance(node, Mapping) else []
                raise ConfigError(unknown(f"{where}: {path}", "field", part, allowed))
            node = node[part]
        if reason := _not_searchable(path, config, params.search.algorithm):
            raise ConfigError(f"{where}: {path}: cannot be searched: {reason}")
    for values in space.corners():
        try:
            validate(with_values(config, values))
        except ConfigError as error:
            raise ConfigError(f"{where}: with {' '.join(overrides(values))}: {error}") from error
    for end in (0, -1):
        search_cell(params, overrides(space.extreme(end)))


def _not_searchable(path: str, config: Mapping[str, Any], algorithm: str) -> str | None:
    group, _, field = path.partition(".")
    if path in _DECIDED:
        return _DECIDED[path]
    if group == "schedule" and field in SPEED_ONLY:
        return "it decides how fast a run is, not what comes of it"
    batch = path in ("schedule.labelled_batch", "schedule.unlabelled_batch")
    if batch and config["schedule"]["epochs"] is not None:
        return (
            "the schedule is in epochs, so that another batch is another number of steps; give "
            "schedule.steps in search.overrides"
        )
    if field == "name" or field.endswith((".dataset", "list_file")):
        return "it decides which fields and data there are; choose another cell"
    if path.startswith(("benchmark.evaluated", "benchmark.evaluation")):
        return "scores of different protocols do not compare"
    if path in _FILES:
        return "it names a file, whose content would be no part of the search's identity"
    changeable = group in ("encoding", "method") or path in _CHANGEABLE
    if algorithm == "pbt" and not changeable:
        allowed = ", ".join(_CHANGEABLE)
        return f"pbt changes values in mid-training; allowed are encoding, method and {allowed}"
    return None


def _connected(params: Params) -> Callable[[], AbstractContextManager[None]]:
    return lambda: connect(ClusterConfig(address=params.cluster.address))


def _print(found: Searched, best: Trial, about: Mapping[str, Any]) -> None:
    evaluation, last = about["evaluation"], best.last
    assert last is not None
    print(
        f"best of {len(found.ledger.trials)} trials ({found.hours:.2f} {found.ledger.unit} hours): "
        f"{last.mean:.2f} {about['objective']} on {evaluation['dataset']} {evaluation['split']} "
        f"at step {last.step} with"
    )
    for override in best_overrides(best):
        print(f"  {override}")
    print(f"{_FOLDER / 'best.yaml'} holds it: name it in override_files of params.yaml")
    if found.exhausted:
        count, trials = len(found.ledger.trials), found.config.trials
        print(f"the space has no more points: {count} of {trials} trials")
    if found.used_up:
        print("the budget is used up before the end: a bigger search.gpu_hours goes on from here")
