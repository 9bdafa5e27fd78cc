"""Schedules in epochs become steps, and what is wrong with them is named."""

import pytest

from ecocseg.errors import ConfigError
from pipeline.planning.plan import compose_cell, load_experiment


def steps(cell, *overrides):
    config, components = compose_cell(load_experiment("table02_ssl_pascal"), cell, overrides)
    assert config["schedule"]["steps"] == components.schedule.steps
    return components.schedule


def test_epochs_are_over_the_published_images():
    schedule = steps("321_unimatch_ecoc_r101_1_16")
    # 10,582 - 662 unlabelled images in batches of 8, 80 times.
    assert (schedule.steps, schedule.epochs) == (80 * (9920 // 8), 80)
    assert steps("321_sup-only_one-hot_r50_1_16").steps == 80 * (662 // 16)
    assert steps("321_unimatch_ecoc_r101_1_16", "schedule.epochs=2").steps == 2 * 1240


def test_steps_win_and_the_rate_follows_the_batch():
    schedule = steps("321_unimatch_ecoc_r101_1_16", "schedule.steps=7")
    assert (schedule.steps, schedule.epochs) == (7, None)
    large = steps("321_unimatch_ecoc_r101_1_16", "schedule.labelled_batch=32")
    assert large.optim.for_batch(32).lr == pytest.approx(4e-3)
    # Sup-only doubles the batch and keeps the rate.
    supervised = steps("321_sup-only_one-hot_r50_1_16")
    assert supervised.optim.for_batch(supervised.labelled_batch).lr == pytest.approx(1e-3)


def test_epochs_that_steps_would_hide_are_refused():
    def composed(*overrides):
        experiment = load_experiment("streets_uda")
        return compose_cell(experiment, "oracle", overrides)[1].schedule

    with pytest.raises(
        ConfigError, match=r"schedule\.epochs: got 5, but the schedule counts steps"
    ):
        composed("schedule.epochs=5")
    # What is typed last is meant.
    assert composed("schedule.epochs=5", "schedule.steps=7").steps == 7
    with pytest.raises(ConfigError, match=r"has 7 of them"):
        composed("schedule.steps=7", "schedule.epochs=5")
    assert composed("schedule.epochs=null").steps == composed().steps


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["schedule.epochs=0"], "schedule.epochs: got 0 with schedule.steps null"),
        (["schedule.epochs=true"], "schedule.epochs: got True"),
        (["schedule.unlabelled_batch=0"], "schedule.unlabelled_batch: got 0, allowed is 1 or more"),
        (["schedule.unlabelled_batch=99999"], "has no full batch"),
        (["benchmark.published=null", "+benchmark.labelled.partition.list_file=mine.txt"],
         "a list of your own; give schedule.steps"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(overrides, words):
    with pytest.raises(ConfigError) as caught:
        steps("321_unimatch_ecoc_r101_1_16", *overrides)
    assert words in str(caught.value)
