"""Losses of ten steps of every method with every encoding, as they were when last reviewed.

A change here changes the results of runs: raise RESULTS_VERSION in ecocseg/version.py, so that
records from before and after are not mixed, and accept it with `pytest --update-golden`.
"""

import json
from pathlib import Path

import pytest

from ecocseg.encodings import ENCODINGS
from ecocseg.engine.events import StepEvent
from ecocseg.engine.optim import OptimConfig
from ecocseg.methods import METHODS
from ecocseg.version import RESULTS_VERSION

FOLDER = Path(__file__).parent / "golden"
STEPS = 10


@pytest.mark.parametrize("encoding", list(ENCODINGS))
@pytest.mark.parametrize("method", list(METHODS))
def test_losses_are_the_reviewed_ones(tiny_run, request, method, encoding):
    # Rounding differs between processors. Float64 networks that SGD moves by small steps do not
    # blow it up, and where every pixel counts as confident no threshold does.
    run = tiny_run(
        method,
        encoding,
        steps=STEPS,
        quality=0.0 if encoding == "one-hot" else 0.5,
        double=True,
        optim=OptimConfig(name="sgd", lr=0.00002, head_lr_factor=1.0, weight_decay=1e-4, power=0.9),
    )
    metrics = [event.metrics for event in run.events() if isinstance(event, StepEvent)]
    names = sorted(n for n in metrics[0] if n == "loss" or n.startswith("loss/"))
    trace = {name: [float(f"{step[name]:.7g}") for step in metrics] for name in names}
    path = FOLDER / f"{method}_{encoding}.json"
    if request.config.getoption("--update-golden"):
        path.parent.mkdir(exist_ok=True)
        lines = ",\n".join(f"  {json.dumps(k)}: {json.dumps(v)}" for k, v in trace.items())
        path.write_text(f'{{\n  "results_version": {RESULTS_VERSION},\n{lines}\n}}\n')
        return
    golden = json.loads(path.read_text())
    remedy = (
        "the numbers of training changed. If that is meant: raise RESULTS_VERSION in "
        f"ecocseg/version.py (it is {RESULTS_VERSION}, the trace is of "
        f"{golden.pop('results_version')}), then run pytest --update-golden and review the diff"
    )
    assert trace.keys() == golden.keys(), remedy
    for name, values in golden.items():
        assert trace[name] == pytest.approx(values, rel=1e-4, abs=1e-6), f"{name}: {remedy}"


def test_there_is_no_trace_of_what_is_gone():
    expected = {f"{method}_{encoding}" for method in METHODS for encoding in ENCODINGS}
    assert {path.stem for path in FOLDER.glob("*.json")} == expected
