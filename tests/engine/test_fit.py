import copy
import math
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from states import assert_equal

from ecocseg.config import from_mapping
from ecocseg.encodings import ENCODINGS
from ecocseg.engine import checkpoint
from ecocseg.engine.divergence import Watch, _Pending
from ecocseg.engine.events import CheckpointEvent, Diverged, EvaluationEvent, StepEvent
from ecocseg.engine.optim import OptimConfig
from ecocseg.engine.schedule import FitConfig
from ecocseg.errors import ConfigError
from ecocseg.methods import METHODS

# stpp, whose stages are longer than that, has test_stages.py.
CELLS = [(m, e) for m in METHODS if m != "stpp" for e in ENCODINGS]


def plain(event):
    """An event without what a clock decides."""
    if isinstance(event, StepEvent):
        return "step", event.step, dict(event.metrics)
    if isinstance(event, EvaluationEvent):
        return "eval", event.step, {role: c.tolist() for role, c in event.confusions.items()}
    return "checkpoint", event.step, None


def seen_batches(run):
    """A list that the batches go to as the method gets them."""
    seen, losses = [], run.trainer.method.losses

    def kept(context, batch):
        seen.append(batch)
        return losses(context, batch)

    run.trainer.method.losses = kept
    return seen


@pytest.mark.parametrize(("method", "encoding"), CELLS)
def test_interrupted_and_resumed_is_uninterrupted(tiny_run, method, encoding, tmp_path):
    rhythm = {"steps": 5, "log_every": 2, "evaluate_every": 3, "checkpoint_every": 2}
    rhythm |= {"quality": 0.1 if encoding == "one-hot" else 0.7}
    whole = tiny_run(method, encoding, **rhythm)
    expected = [plain(event) for event in whole.events()]
    assert [e[:2] for e in expected] == [
        ("step", 2), ("checkpoint", 2), ("eval", 3), ("step", 4), ("checkpoint", 4),
        ("step", 5), ("eval", 5), ("checkpoint", 5),
    ]  # fmt: skip

    cut = tiny_run(method, encoding, **rhythm)
    before = []
    for event in cut.events():
        before.append(plain(event))
        if isinstance(event, CheckpointEvent):
            checkpoint.save(tmp_path / "last.pt", event.state)
        if event.step == 3:
            break
    torch.manual_seed(12345)
    resumed = tiny_run(method, encoding, **rhythm)
    resumed.trainer.restore(checkpoint.load(tmp_path / "last.pt"))
    assert resumed.trainer.step == 2
    after = [plain(event) for event in resumed.events()]
    assert before[:2] + after == expected
    assert_equal(resumed.trainer.state(), whole.trainer.state())


def test_a_finished_run_yields_nothing(tiny_run):
    run = tiny_run("supervised", "one-hot", steps=1)
    state = next(e.state for e in run.events() if isinstance(e, CheckpointEvent))
    again = tiny_run("supervised", "one-hot", steps=1)
    again.trainer.restore(state)
    assert list(again.events()) == []


@pytest.mark.parametrize("method", ["fixmatch", "mic"])
def test_loader_workers_do_not_change_the_result(tiny_run, method):
    states = []
    for workers in (0, 1):
        run = tiny_run(method, "one-hot", steps=3, loader_workers=workers)
        events = [plain(event) for event in run.events()]
        states.append((events, run.trainer.state()))
    assert states[0][0] == states[1][0]
    assert_equal(states[0][1], states[1][1])


def test_seeds_differ(tiny_run):
    losses = [
        [e.metrics["loss"] for e in tiny_run("supervised", "one-hot", seed=s, steps=2).events()
         if isinstance(e, StepEvent)]
        for s in (0, 0, 1)
    ]  # fmt: skip
    assert losses[0] == losses[1]
    assert losses[0] != losses[2]


@pytest.mark.parametrize("workers", [0, 1])
def test_the_callers_draws_are_its_own(tiny_run, workers):
    """Between two events the global generators give what they give without any training."""

    def draw():
        return torch.rand(2).tolist(), random.random(), np.random.random()

    def begin():
        torch.manual_seed(7)
        random.seed(7)
        np.random.seed(7)

    run = tiny_run("mic", "ecoc", steps=3, evaluate_every=2, quality=0.5, loader_workers=workers)
    begin()
    drawn = [draw() for _ in run.events()]
    begin()
    assert drawn == [draw() for _ in drawn]
    assert len(drawn) > 3


@pytest.mark.parametrize("decay", [0.6, 0.999])
def test_teacher_against_the_literal_recursion(tiny_run, decay):
    run = tiny_run("dacs", "one-hot", steps=4, ema_decay=decay, checkpoint_every=1)
    expected = {k: v.double() for k, v in run.trainer.student.named_parameters()}
    expected = {k: v.detach().clone() for k, v in expected.items()}
    for event in run.events():
        if not isinstance(event, CheckpointEvent):
            continue
        alpha = min(1 - 1 / (event.step + 1), decay)
        for name, mean in expected.items():
            new = event.state["student"][name].double()
            expected[name] = alpha * mean + (1 - alpha) * new
            torch.testing.assert_close(
                event.state["teacher"][name].double(), expected[name], rtol=1e-5, atol=1e-6
            )


def test_buffers_are_averaged_where_the_method_says_so(tiny_run):
    run = tiny_run("dacs", "one-hot")
    trainer = run.trainer
    trainer.step = 1
    for name, buffer in trainer.student.named_buffers():
        buffer.fill_(8) if buffer.is_floating_point() and name != "mean" else None
    held = copy.deepcopy(dict(trainer.teacher.named_buffers()))
    trainer.update_teacher()
    assert_equal(dict(trainer.teacher.named_buffers()), held)
    trainer.method.averages_buffers = True
    trainer.update_teacher()
    means = {k: v for k, v in trainer.teacher.named_buffers() if k.endswith("running_mean")}
    assert all((v == 4).all() for v in means.values())


def test_metrics_are_means_over_the_steps_of_the_window(tiny_run):
    single = tiny_run("dacs", "ecoc", steps=3)
    each = [e.metrics for e in single.events() if isinstance(e, StepEvent)]
    both = tiny_run("dacs", "ecoc", steps=3, log_every=2, checkpoint_every=2)
    first, last = [e.metrics for e in both.events() if isinstance(e, StepEvent)]
    for name in ("loss", "loss/mixed", "pseudo/quality", "labelled/bce"):
        assert first[name] == pytest.approx((each[0][name] + each[1][name]) / 2, rel=1e-5)
        assert last[name] == pytest.approx(each[2][name])
    assert each[0]["loss"] == pytest.approx(each[0]["loss/labelled"] + each[0]["loss/mixed"])
    assert first["lr"] == each[1]["lr"]


def test_evaluation_events_hold_every_network_and_pixel(tiny_run):
    run = tiny_run("dacs", "one-hot", steps=1)
    event = next(e for e in run.events() if isinstance(e, EvaluationEvent))
    assert list(event.confusions) == ["student", "teacher"]
    pixels = sum(sum(row.pixels) for row in run.rows)
    assert all(int(c.sum()) == pixels for c in event.confusions.values())


def test_divergence_is_found_at_its_step_and_keeps_what_it_read(tiny_run):
    """Between two points of the curve, and before a checkpoint of it."""
    run = tiny_run(
        "dacs", "one-hot", steps=6, log_every=6, checkpoint_every=6,
        optim=OptimConfig(name="sgd", lr=1e30, weight_decay=0.0),
    )  # fmt: skip
    read = seen_batches(run)
    with pytest.raises(Diverged, match=r"at step 2 .*; lower schedule\.optim\.lr") as caught:
        list(run.events())
    error = caught.value
    assert (error.step, len(read)) == (2, 2)
    assert not math.isfinite(error.terms["loss"])
    assert error.terms["loss"] == pytest.approx(
        error.terms["loss/labelled"] + error.terms["loss/mixed"], nan_ok=True
    )
    assert error.batch.keys() == error.images.keys() == {"labelled", "unlabelled"}
    for name, sample in error.batch.items():
        assert torch.equal(sample.images, read[1][name].images)
        assert torch.equal(sample.labels, read[1][name].labels)
        known = {row.key for stream in run.streams if stream.name == name for row in stream.rows}
        assert set(error.images[name]) <= known
        assert len(error.images[name]) == 2


class RootAtZero(torch.autograd.Function):
    """0, whose slope is infinite."""

    @staticmethod
    def forward(ctx, value):
        return torch.zeros_like(value)

    @staticmethod
    def backward(ctx, gradient):
        return gradient * float("inf")


@pytest.mark.parametrize("clip_norm", [None, 1.0])
def test_a_gradient_without_bounds_is_found_though_the_loss_is_sound(tiny_run, clip_norm):
    run = tiny_run("supervised", "ecoc", steps=4, clip_norm=clip_norm)
    method, losses = run.trainer.method, run.trainer.method.losses

    def third_is_bad(context, batch):
        for loss in losses(context, batch):
            steep = RootAtZero.apply(loss.value) if context.step == 2 else 0.0
            yield replace(loss, value=loss.value + steep)

    method.losses = third_is_bad
    seen = []
    with pytest.raises(
        Diverged, match=r"the gradient became (inf|nan) at step 3 \(loss "
    ) as caught:
        seen.extend(run.events())
    assert [event.step for event in seen] == [1, 2]
    assert math.isfinite(caught.value.terms["loss"])


def test_a_gpus_verdict_is_read_one_step_late():
    """The order of things; on a GPU alone there is something to wait for."""
    watch = Watch(torch.device("cpu"))
    watch.late = True
    watch._begun = lambda step, terms: _Pending(step, terms, terms["loss"].isfinite(), None)
    good, bad = (
        {"loss": torch.tensor(x), "gradient_norm": torch.tensor(1.0)} for x in (1.0, math.nan)
    )
    assert watch.add(1, good) is None
    assert watch.add(2, bad) is None
    assert watch.add(3, good).step == 2
    assert watch.settle() is None
    watch.add(4, bad)
    assert watch.settle().step == 4


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"steps": 9, "micro_batches": 3}, "a divisor of labelled_batch (2)"),
        ({"steps": 9, "gpus": 0}, "schedule.gpus: got 0"),
        ({"steps": 0}, "schedule.steps: got 0"),
        ({"steps": 9, "unlabelled_batch": -1}, "schedule.unlabelled_batch: got -1"),
        ({"steps": 9, "ema_decay": 1.0}, "schedule.ema_decay"),
        ({"steps": 9, "clip_norm": 0}, "schedule.clip_norm"),
        ({"steps": 9, "log_every": 30, "checkpoint_every": 100}, "a multiple of log_every (30)"),
        ({"steps": 9, "optim": {"lr": -1}}, "schedule.optim.lr: got -1.0"),
    ],
)
def test_values_out_of_range(values, words):
    with pytest.raises(ConfigError) as caught:
        from_mapping(FitConfig, values, "schedule")
    assert words in str(caught.value)
