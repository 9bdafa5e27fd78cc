"""One trial of the search: real tiny runs, several seeds in turn, cut off and gone on with."""

import statistics

import pytest

from ecocseg.methods import build_method
from pipeline.config.run_spec import RunSpec
from pipeline.runner.run import execute_run
from pipeline.search.trial import objective, with_values
from pipeline.store.record import read_record, record_path

OFTEN = ["schedule.log_every=1", "schedule.evaluate_every=2", "schedule.checkpoint_every=6"]
VALUES = {"encoding.distance_weight": 2.0, "schedule.optim.lr": 0.002}


@pytest.fixture(scope="module")
def planned(plan_streets):
    """Make (row, settings) of a trial in a folder."""

    def make(folder, *overrides, seeds=(0,), network="student"):
        row, settings = plan_streets("dacs_ecoc", folder, [*OFTEN, *overrides])
        own = {"seeds": list(seeds), "network": network, "trial_dir": str(folder)}
        return {"spec": row["spec"]}, settings | own

    return make


def test_the_score_is_the_mean_of_what_runs_of_the_seeds_score(planned, tmp_path):
    network = "teacher"
    row, settings = planned(tmp_path / "trial", seeds=(0, 3), network=network)
    found = list(objective(row, VALUES, settings))
    curves = []
    for seed in (0, 3):
        spec = with_values(row["spec"], VALUES) | {"seed": seed}
        run_id = RunSpec.from_dict(spec).run_id
        run = {"run_id": run_id, "experiment": "search", "spec": spec, "report": {}}
        tracking = {"enabled": False, "uri": None, "folder": str(tmp_path)}
        own = {"results": str(tmp_path), "git": "none", "tracking": tracking}
        execute_run(run, settings | own)
        record = read_record(record_path(tmp_path / "records", run_id))
        curves.append([point[f"{network}/miou"] for point in record["curves"]["eval"]])
    assert [score["step"] for score in found] == [2, 4, 6]
    for score, *each in zip(found, *curves, strict=True):
        assert score["miou"] == pytest.approx(statistics.fmean(each), abs=1e-9)
        assert score["std"] == pytest.approx(statistics.stdev(each), abs=1e-9)


@pytest.mark.parametrize("seeds", [(0,), (0, 3)])
def test_a_trial_that_was_cut_off_goes_on_with_the_same_scores(planned, tmp_path, seeds):
    row, whole = planned(tmp_path / "whole", seeds=seeds)
    expected = list(objective(row, VALUES, whole))
    _, settings = planned(tmp_path / "cut", seeds=seeds)
    for told in (1, 2):
        events = objective(row, VALUES, settings)
        assert [next(events) for _ in range(told)] == expected[:told]
        events.close()
    assert list(objective(row, VALUES, settings)) == expected
    # A checkpoint that cannot be read is not gone on from.
    (tmp_path / "cut" / f"seed{seeds[-1]}" / "last.pt").write_bytes(b"cut off")
    assert list(objective(row, VALUES, settings)) == expected


def test_a_method_with_stages_leaves_nothing_of_them(planned, tmp_path):
    ssl = ["method=stpp", "benchmark.unlabelled.dataset=streets_game"]
    row, settings = planned(tmp_path, *ssl, "method.stage_shares=[0.3,0.3,0.4]")
    method = build_method("stpp", {})
    assert method.restarts
    events = objective(row, {"encoding.distance_weight": 2.0}, settings)
    steps = [next(events)["step"] for _ in range(2)]
    assert list(tmp_path.glob("seed0/stages/labels/*"))
    steps += [event["step"] for event in events]
    assert steps[-1] == 6
    assert not list(tmp_path.glob("seed0/stages/labels"))
    assert not list(tmp_path.glob("seed0/stages/*.pt"))
