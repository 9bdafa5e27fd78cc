"""The stage `search` before a machine is taken: what may be searched, and what the search is."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ecocseg.errors import ConfigError
from pipeline.config.compose import load_yaml, names
from pipeline.config.params import DataParams, Params, SearchParams, load_params
from pipeline.planning.plan import search_cell
from pipeline.search.config import SearchConfig
from pipeline.search.space import parse_space
from pipeline.search.tune import check_algorithm
from pipeline.stages.search import check_space, describe, search_config

ROOT = Path(__file__).parents[2]
FLOAT = {"type": "uniform", "low": 0.5, "high": 0.6}
BATCH = {"type": "choice", "values": [2, 4]}


def params_of(**search: Any) -> Params:
    return Params(experiments=["streets_uda"], search=SearchParams(**search))


def check(fields: dict[str, Any], **search: Any) -> None:
    params = params_of(**search)
    config, _ = search_cell(params)
    check_space(params, parse_space(fields), config)


@pytest.mark.parametrize("name", names("search"))
def test_every_space_of_the_project_fits_its_cell(name: str) -> None:
    space = load_yaml("search", name)
    algorithm = {"ecoc_grid": "grid", "schedule": "pbt"}.get(name, "tpe")
    check(space, space=name, algorithm=algorithm)
    chosen = SearchConfig(
        objective="m:f", space=space, row={}, settings={}, max_steps=9, grace_steps=1,
        algorithm=algorithm, trials=1000,
    )  # fmt: skip
    check_algorithm(chosen, parse_space(space))


def test_the_default_search_is_small() -> None:
    search = load_params(path=ROOT / "params.yaml").search
    assert search.trials is not None
    assert search.trials <= 6
    _, components = search_cell(load_params(path=ROOT / "params.yaml"))
    assert components.schedule.steps <= 40


@pytest.mark.parametrize(
    "field, entry, message",
    [
        ("encoding.treshold", FLOAT, r"ecoc\.yaml: encoding\.treshold: unknown.*'threshold'"),
        ("schedule.steps", BATCH, "cannot be searched: every trial has the cell's"),
        ("schedule.epochs", BATCH, "cannot be searched: every trial has the cell's length"),
        ("schedule.evaluate_every", BATCH, "compared at the cell's evaluations"),
        ("schedule.loader_workers", BATCH, "how fast a run is"),
        ("schedule.gpus", BATCH, "how fast a run is"),
        ("method.name", BATCH, "choose another cell"),
        ("benchmark.labelled.dataset", BATCH, "choose another cell"),
        ("benchmark.evaluation.mode", BATCH, "different protocols do not compare"),
        ("benchmark.evaluated.split", BATCH, "different protocols do not compare"),
        ("encoding.codebook_path", BATCH, "whose content would be no part"),
        # Both ends of a range and every choice are composed.
        ("encoding.threshold", {"type": "uniform", "low": 0.5, "high": 1.5}, "threshold: got 1.5"),
        ("encoding.threshold", {"type": "uniform", "low": -1.0, "high": 0.9}, "threshold: got -1"),
        ("encoding.codebook", {"type": "choice", "values": ["text", "texd"]}, "texd"),
        ("schedule.labelled_batch", {"type": "int", "low": 0, "high": 4}, "labelled_batch: got 0"),
    ],
)
def test_what_cannot_be_searched_is_told_with_file_field_and_reason(
    field: str, entry: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        check({field: entry})


def test_a_batch_is_searched_where_the_length_does_not_depend_on_it() -> None:
    batch = {"schedule.labelled_batch": BATCH}
    check(batch)
    epochs = {"overrides": ["schedule.steps=null", "schedule.epochs=2"]}
    with pytest.raises(ConfigError, match=r"in epochs.*give schedule\.steps in search\.overrides"):
        check(batch, **epochs)


def test_a_population_changes_only_what_a_running_network_takes() -> None:
    check({"schedule.optim.lr": {"type": "loguniform", "low": 1e-3, "high": 1e-2}}, algorithm="pbt")
    with pytest.raises(ConfigError, match=r"weight_decay: cannot be searched: pbt changes values"):
        check({"schedule.optim.weight_decay": FLOAT}, algorithm="pbt")


def test_an_entry_is_composed_with_what_it_depends_on() -> None:
    # Only with a margin of its own has the encoding such labels.
    space = {
        "encoding.labels": {"type": "choice", "values": ["hybrid", "bit"]},
        "encoding.threshold": {**FLOAT, "high": 2.0, "when": {"encoding.labels": "hybrid"}},
    }
    with pytest.raises(ConfigError, match=r"encoding\.labels=hybrid encoding\.threshold=2\.0"):
        check(space)


def test_what_decides_only_speed_makes_no_other_search(streets_data: Path) -> None:
    def searched(*given: str) -> SearchConfig:
        params = params_of(overrides=list(given))
        params = replace(params, data=DataParams(root=str(streets_data)))
        _, components = search_cell(params)
        return search_config(params, components)

    usual = searched()
    assert usual.name == searched("schedule.loader_workers=4", "schedule.gpus=2").name
    assert usual.name != searched("schedule.optim.lr=0.5").name


def test_the_teachers_score_needs_a_teacher() -> None:
    params = params_of(objective="teacher/miou")
    about = describe(params, *search_cell(params))
    assert about["objective"] == "teacher/miou"
    assert about["evaluation"]["split"] == "val"
    none = replace(params, search=replace(params.search, cell="source-only"))
    with pytest.raises(ConfigError, match=r"search\.objective: got 'teacher/miou', but the method"):
        describe(none, *search_cell(none))


@pytest.mark.parametrize(
    "field, value, message",
    [
        ("algorithm", "tpee", "algorithm: got 'tpee', allowed is tpe, random, grid, pbt"),
        ("scheduler", "hyperband", "scheduler: got 'hyperband'"),
        ("objective", "miou", "objective: got 'miou', allowed is student/miou or teacher/miou"),
        ("seeds", [], "seeds: got"),
        ("seeds", [1, 1], "each seed once"),
        ("trials", 0, "trials: got 0"),
        ("trials", None, "a number, unless gpu_hours is one"),
        ("gpu_hours", -1.0, "gpu_hours: got -1.0"),
        ("max_concurrent", 0, "max_concurrent: got 0"),
    ],
)
def test_bad_parameters_are_refused(field: str, value: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SearchParams(**{field: value})
