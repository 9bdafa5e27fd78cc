"""A run of several stages: ST++ cut off at every point, and what one stage leaves to the next."""

import csv

import pytest
import torch

from ecocseg.data.dataset import read_image, read_targets
from ecocseg.encodings import ENCODINGS
from ecocseg.engine import checkpoint
from ecocseg.engine.events import CheckpointEvent, EvaluationEvent, StageEvent, StepEvent
from ecocseg.engine.fit import Trainer
from ecocseg.errors import ConfigError, DataError
from ecocseg.methods import build_method
from ecocseg.methods.base import Workshop
from ecocseg.methods.reliability import RANKING, reliable_count

STEPS = 9
RHYTHM = {"steps": STEPS, "log_every": 2, "evaluate_every": 100, "checkpoint_every": 2}
STOPS = (4, 5, 9)
"""Of the stages: epochs of 4 (8 labelled images passed over twice), 2 and 4 steps, together 10."""


def plain(event):
    """An event without what a clock decides."""
    if isinstance(event, StepEvent):
        return "step", event.step, dict(event.metrics)
    if isinstance(event, EvaluationEvent):
        found = {role: c.tolist() for role, c in event.confusions.items()}
        return "eval", event.step, found, event.final
    if isinstance(event, StageEvent):
        return event.activity, event.step, (event.done, event.total)
    return "checkpoint", event.step, None


def states_equal(first, second):
    assert first.keys() == second.keys()
    assert all(torch.equal(value, second[name]) for name, value in first.items())


@pytest.fixture(scope="module", params=list(ENCODINGS))
def whole(request, tiny_run, tmp_path_factory):
    """An uninterrupted run: encoding, events, last weights, folder."""
    folder = tmp_path_factory.mktemp("whole")
    run = tiny_run("stpp", request.param, folder=folder, **RHYTHM)
    events = [plain(event) for event in run.events()]
    return request.param, events, run.trainer.student.state_dict(), folder


def test_events_of_the_stages(whole):
    _, events, _, folder = whole
    names = [event[:2] for event in events]
    assert [n for n in names if n[0] == "ranking"] == [("ranking", 4)] * 8
    assert [n for n in names if n[0] == "labelling"] == [("labelling", 4)] * 4 + [
        ("labelling", 5)
    ] * 4
    # A stage ends with a curve, an evaluation and a checkpoint, wherever the rhythm stands.
    for stop in STOPS:
        assert {("step", stop), ("eval", stop), ("checkpoint", stop)} <= set(names)
    assert names.index(("checkpoint", 4)) < names.index(("ranking", 4))
    assert [event[3] for event in events if event[0] == "eval"] == [False, False, True]
    rates = {event[1]: event[2]["lr"] for event in events if event[0] == "step"}
    # Each stage has its own decay: 1 - 3/4, 1 - 0/1, 1 - 3/4 at its last step.
    assert rates[4] == pytest.approx(1e-3 / 4)
    assert rates[5] == pytest.approx(1e-3)
    assert rates[9] == pytest.approx(1e-3 / 4)
    # Weights and labels go when the run is through, the table stays.
    assert [path.name for path in folder.iterdir()] == [RANKING]


@pytest.mark.parametrize("cut", range(2, 28, 5))
def test_cut_off_anywhere_and_resumed_is_the_same_run(whole, tiny_run, tmp_path, cut):
    """Between any two events: in a stage, while ranking, while labelling."""
    encoding, expected, weights, folder = whole
    assert cut < len(expected)
    first = tiny_run("stpp", encoding, folder=tmp_path / "stages", **RHYTHM)
    for seen, event in enumerate(first.events(), start=1):
        if isinstance(event, CheckpointEvent):
            checkpoint.save(tmp_path / "last.pt", event.state)
        if seen == cut:
            break
    torch.manual_seed(99)
    again = tiny_run("stpp", encoding, folder=tmp_path / "stages", **RHYTHM)
    if (tmp_path / "last.pt").is_file():
        again.trainer.restore(checkpoint.load(tmp_path / "last.pt"))
    start = again.trainer.step
    after = [plain(event) for event in again.events()]
    kinds = ("step", "eval", "checkpoint")
    trained = [event for event in after if event[0] in kinds]
    assert trained == [event for event in expected if event[0] in kinds and event[1] > start]
    states_equal(again.trainer.student.state_dict(), weights)
    assert (tmp_path / "stages" / RANKING).read_text() == (folder / RANKING).read_text()
    # Nothing is ranked or labelled twice.
    done = [event for event in expected[:cut] if event[0] not in kinds]
    redone = [event for event in after if event[0] not in kinds]
    assert len(set(done) & set(redone)) <= 1  # the event after which the run was cut


def test_ranking_and_labels_against_a_literal_statement(whole, tiny_run, tmp_path):
    encoding = whole[0]
    run = tiny_run("stpp", encoding, folder=tmp_path, **RHYTHM)
    trainer = run.trainer
    for event in run.events():
        if isinstance(event, StepEvent) and event.step == 5:
            break
    unlabelled = run.streams[1].rows
    networks = []
    for step in (2, 3, 4):  # thirds of 4 steps, rounded up
        network = tiny_run("stpp", encoding, folder=tmp_path, **RHYTHM).trainer.student
        network.load_state_dict(torch.load(tmp_path / f"weights_{step}.pt")["student"])
        networks.append(network.eval())
    scores = {}
    with torch.no_grad():
        for row in unlabelled:
            image = read_image(row).float()[None] / 255
            *early, last = (trainer.encoding.decode(network(image))[0] for network in networks)
            means = []
            for other in early:
                ious = []
                for n in range(19):
                    a, b = other == n, last == n
                    if (a | b).any():
                        ious.append(float((a & b).sum() / (a | b).sum()))
                means.append(100 * sum(ious) / len(ious))
            scores[row.key] = sum(means) / 2
    with (tmp_path / RANKING).open() as file:
        table = list(csv.DictReader(file))
    ordered = sorted(scores, key=lambda key: (-round(scores[key], 3), key))
    got = sorted(table, key=lambda line: (-round(float(line["reliability"]), 3), line["key"]))
    assert [line["key"] for line in got] == ordered
    assert {line["key"]: float(line["reliability"]) for line in table} == pytest.approx(
        scores, abs=1e-3
    )
    reliable = [line["key"] for line in table if line["reliable"] == "1"]
    assert reliable == [line["key"] for line in table[:4]]
    labelled = {path.stem for path in (tmp_path / "labels").rglob("*.png")}
    assert labelled == {key.rpartition("/")[2] for key in reliable}

    # The label of an image: mean probability over five sizes, each also mirrored.
    row = next(row for row in unlabelled if row.key == reliable[0])
    image = read_image(row).float()[None] / 255
    total = 0
    with torch.no_grad():
        for scale in (0.5, 0.75, 1.0, 1.5, 2.0):
            size = [int(side * scale) for side in row.image_size]
            view = torch.nn.functional.interpolate(image, size, mode="bilinear")
            for mirror in (False, True):
                logits = networks[-1](view.flip(3) if mirror else view)
                logits = logits.flip(3) if mirror else logits
                found = logits.softmax(1) if encoding == "one-hot" else logits.sigmoid()
                total = total + torch.nn.functional.interpolate(
                    found, row.image_size, mode="bilinear"
                )
        mean = total / 10
        again = mean.log() if encoding == "one-hot" else (mean / (1 - mean)).log()
        expected = trainer.encoding.pseudo_label(again).targets
    stored = read_targets(tmp_path / "labels" / f"{row.key}.png", row.image_size[0])
    same = trainer.encoding.unpack(stored[None]) == expected
    # Rounding decides where two classes or a bit's values are equally likely.
    assert same.float().mean() > 0.999


def test_every_stage_begins_with_the_first_weights(tiny_run, tmp_path):
    run = tiny_run("stpp", "one-hot", folder=tmp_path, **RHYTHM)
    trainer, seen = run.trainer, {}

    def look(network, inputs):
        if torch.is_grad_enabled():
            seen[trainer.step] = {k: v.detach().clone() for k, v in network.named_parameters()}

    trainer.student.register_forward_pre_hook(look)
    for _ in run.events():
        pass
    assert sorted(seen) == list(range(STEPS))
    for step in range(1, STEPS):
        begins = step in STOPS
        equal = all(torch.equal(value, seen[0][name]) for name, value in seen[step].items())
        assert equal == begins, step


def test_weights_that_are_gone_are_named(tiny_run, tmp_path):
    run = tiny_run("stpp", "one-hot", folder=tmp_path, **RHYTHM)
    events = run.events()
    while next(events).step < 4:
        pass
    (tmp_path / "weights_3.pt").unlink()
    with pytest.raises(DataError, match=r"weights_3\.pt: the weights that an earlier stage left"):
        list(events)


def test_a_run_that_begins_anew_uses_nothing_of_an_earlier_attempt(tiny_run, tmp_path):
    first = tiny_run("stpp", "one-hot", folder=tmp_path / "a", **RHYTHM)
    events = first.events()
    while next(events).step < 5:
        pass
    table = tmp_path / "a" / RANKING
    honest = table.read_text()
    table.write_text(honest.splitlines()[0] + "\n")
    again = tiny_run("stpp", "one-hot", folder=tmp_path / "a", **RHYTHM)
    for _ in again.events():
        pass
    assert table.read_text() == honest


def test_stages_may_have_shares_of_their_own(tiny_run):
    run = tiny_run("stpp", "one-hot")
    method = build_method("stpp", {"stage_shares": [0.4, 0.2, 0.4]})
    assert [stage.stop for stage in method.stages(1000, run.streams)] == [400, 600, 1000]
    with pytest.raises(ConfigError, match="stage_shares: got"):
        build_method("stpp", {"stage_shares": [0.5, 0.5, 0.5]})


def test_one_unlabelled_image_is_reliable():
    assert [reliable_count(n, 0.5) for n in (1, 2, 3, 9920)] == [1, 1, 1, 4960]


def test_a_method_with_stages_needs_a_folder(tiny_run):
    trainer = tiny_run("stpp", "one-hot").trainer
    with pytest.raises(ConfigError, match="give the trainer a folder"):
        Trainer(
            trainer.config, model=trainer.student, encoding=trainer.encoding,
            method=trainer.method, device=trainer.device, seed=0,
        )  # fmt: skip


@pytest.mark.parametrize("steps", [3, 4, 10, 1000])
def test_stages_are_as_long_as_their_epochs(tiny_run, steps):
    run = tiny_run("stpp", "one-hot")
    stages = run.trainer.method.stages(steps, run.streams)
    assert [stage.start for stage in stages] == [0, *(stage.stop for stage in stages[:-1])]
    assert stages[-1].stop == steps
    lengths = [stage.stop - stage.start for stage in stages]
    assert min(lengths) >= 1
    if steps >= 10:
        assert lengths == [steps * 4 // 10, steps * 2 // 10, steps * 4 // 10]
    with pytest.raises(ConfigError, match=r"schedule\.steps: got 2"):
        run.trainer.method.stages(2, run.streams)


def test_epochs_of_the_recipe(tiny_run):
    """Pascal, 1/16: 662 labelled, 9,920 unlabelled, batches of 8 and 8; 80 epochs."""
    method = tiny_run("stpp", "one-hot").trainer.method
    images, batches = {"labelled": 662, "unlabelled": 9920}, {"labelled": 8, "unlabelled": 8}
    # 662 // 16 + 4960 // 8 + 9920 // 8
    assert method.epoch(images, batches) == 41 + 620 + 1240
    assert tiny_run("fixmatch", "one-hot").trainer.method.epoch(images, batches) == 1240
    assert tiny_run("supervised", "one-hot").trainer.method.epoch(images, {"labelled": 16}) == 41


def test_the_workshop_gives_a_copy(tiny_run, tmp_path):
    trainer = tiny_run("stpp", "one-hot").trainer
    shop = Workshop(
        network=trainer.student, encoding=trainer.encoding, device=trainer.device, folder=tmp_path
    )
    state = {name: value.clone() for name, value in trainer.student.state_dict().items()}
    changed = {name: value + 1 for name, value in state.items()}
    checkpoint.save(shop.kept(7), {"student": changed})
    states_equal(shop.network_at(7).state_dict(), changed)
    states_equal(trainer.student.state_dict(), state)
