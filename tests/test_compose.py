"""Composing in parts gives what Hydra gives as a whole, for every kind of override."""

import json

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

import pipeline.config.compose
from ecocseg.errors import ConfigError
from pipeline.config.compose import compose_config, compose_experiment, names

VALUES = (
    "encoding.threshold=0.7",
    "encoding.quality_threshold=1e-3",
    "schedule.optim.betas=[0.9,0.99]",
    "schedule.steps=null",
    "benchmark.labelled_transform={crop:[8,8],scale:null}",
    "benchmark.dataset='1_8'",
    "benchmark.fraction=\"1/4\"",
    "+schedule.extra=1",
    "++schedule.steps=5",
    "~schedule.epochs",
    "method.name=${encoding.name}",
    "schedule.steps=1,2",
    "schedule.stepz=1",
    "encoding.threshold",
)  # fmt: skip
CHOICES = (
    "method=mic", "method=fixmatch", "encoding=one-hot", "model=small_hrda", "benchmark=ssl",
    "schedule=ssl_pascal", "model={encoder:resnet34}", "model=unknown", "~schedule",
)  # fmt: skip


def whole(overrides):
    """All of it by Hydra at once, or the message."""
    try:
        pipeline.config.compose._check_names(overrides)
        config = pipeline.config.compose._whole(overrides)
    except ConfigError as error:
        return str(error)
    config.pop("experiment", None)
    return json.dumps(config)


def parts(overrides):
    try:
        return json.dumps(compose_config(overrides))
    except ConfigError as error:
        return str(error)


# Each takes Hydra a tenth of a second: no time for shrinking.
@settings(max_examples=12, deadline=None, phases=[Phase.explicit, Phase.generate])
@given(
    st.sampled_from(("streets_uda", "table07_code_length", None)),
    st.lists(st.sampled_from(CHOICES), max_size=2),
    st.lists(st.sampled_from(VALUES), max_size=3),
    st.randoms(use_true_random=False),
)
def test_parts_and_whole_are_equal_to_the_letter(experiment, choices, values, random):
    overrides = [*choices, *values]
    random.shuffle(overrides)
    if experiment:
        overrides.insert(0, f"experiment={experiment}")
    assert parts(overrides) == whole(overrides)


def test_what_is_composed_is_the_callers_own():
    first = compose_config(["encoding=ecoc"])
    first["schedule"]["optim"]["lr"] = -1
    experiment = compose_experiment("streets_uda")
    experiment["cells"].clear()
    assert compose_config(["encoding=ecoc"])["schedule"]["optim"]["lr"] > 0
    assert compose_experiment("streets_uda")["cells"]


def test_a_changed_file_is_read_again(tmp_path, monkeypatch):
    conf = tmp_path / "conf"
    for group in ("", "encoding", "schedule", "experiment"):
        (conf / group).mkdir(exist_ok=True)
    (conf / "config.yaml").write_text("defaults: [encoding: a, schedule: b, experiment: null]\n")
    (conf / "encoding/a.yaml").write_text("threshold: 0.5\n")
    (conf / "schedule/b.yaml").write_text("steps: 3\n")
    monkeypatch.setattr(pipeline.config.compose, "CONF", conf)
    assert compose_config([]) == {"encoding": {"threshold": 0.5}, "schedule": {"steps": 3}}
    (conf / "encoding/a.yaml").write_text("threshold: 0.75\n")
    (conf / "experiment/e.yaml").write_text(
        "# @package _global_\nschedule: {steps: 4}\nexperiment: {cells: {x: 1}}\n"
    )
    found = compose_config(["experiment=e", "encoding.threshold=0.25"])
    assert found == {"encoding": {"threshold": 0.25}, "schedule": {"steps": 4}}
    assert compose_config([])["encoding"] == {"threshold": 0.75}
    assert compose_experiment("e") == {"cells": {"x": 1}}
    assert names("experiment") == ["e"]


def test_a_misspelt_field_of_an_experiments_cell_names_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'steps'"):
        compose_config(["experiment=streets_uda", "schedule.stepz=1"])
