"""What the schedule adds to plain training: clipping, bf16, checkpointing, micro-batches."""

from dataclasses import replace

import pytest
import torch

from ecocseg.engine.events import CheckpointEvent, StepEvent
from ecocseg.engine.fit import Trainer
from ecocseg.engine.optim import OptimConfig
from ecocseg.errors import ConfigError
from ecocseg.models.checkpointing import _Marker


def test_clipping_bounds_the_step_and_logs_the_norm(tiny_run):
    optim = OptimConfig(name="sgd", lr=1.0, momentum=0.0, weight_decay=0.0, head_lr_factor=1.0)
    run = tiny_run("supervised", "one-hot", steps=1, clip_norm=0.01, optim=optim)
    before = [p.detach().clone() for p in run.trainer.student.parameters()]
    event = next(e for e in run.events() if isinstance(e, StepEvent))
    moved = torch.cat(
        [(new.detach() - old).flatten() for new, old in
         zip(run.trainer.student.parameters(), before, strict=True)]
    )  # fmt: skip
    assert event.metrics["gradient_norm"] > 0.01
    assert float(moved.norm()) == pytest.approx(0.01, rel=1e-3)


def test_bf16_trains(tiny_run):
    run = tiny_run("fixmatch", "ecoc", steps=2, precision="bf16")
    reference = tiny_run("fixmatch", "ecoc", steps=2)
    losses = [
        next(e.metrics["loss"] for e in r.events() if isinstance(e, StepEvent))
        for r in (run, reference)
    ]
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], rel=0.05)
    assert all(p.dtype == torch.float32 for p in run.trainer.student.parameters())


def last_state(run):
    events = [e for e in run.events() if isinstance(e, CheckpointEvent)]
    return events[-1].state


def same(first, second):
    assert first.keys() == second.keys()
    return all(torch.equal(value, second[name]) for name, value in first.items())


@pytest.mark.parametrize("method", ["mic", "fixmatch"])
def test_activation_checkpointing_changes_no_number(tiny_run, method):
    """Weights, batch statistics and the teacher, bit for bit."""
    states, blocks = [], []
    for wanted in (False, True):
        run = tiny_run(method, "ecoc", steps=2, quality=0.5, activation_checkpointing=wanted)
        trainer = run.trainer
        blocks.append(
            [sum(isinstance(m, _Marker) for m in network.modules())
             for network in (trainer.student, trainer.teacher, trainer.reference)
             if network is not None]
        )  # fmt: skip
        states.append(last_state(run))
    # The student's alone keep their inputs only: no other network has a backward pass.
    assert not any(blocks[0])
    assert blocks[1][0] > 0
    assert not any(blocks[1][1:])
    plain, saving = states
    assert same(plain["student"], saving["student"])
    if plain["teacher"] is not None:
        assert same(plain["teacher"], saving["teacher"])


def test_an_encoder_without_blocks_cannot_be_checkpointed(tiny_run):
    trainer = tiny_run("supervised", "one-hot").trainer
    trainer.student.encoder = torch.nn.Conv2d(3, 3, 1)
    with pytest.raises(ConfigError, match=r"schedule\.activation_checkpointing: got true"):
        Trainer(
            replace(trainer.config, activation_checkpointing=True),
            model=trainer.student, encoding=trainer.encoding, method=trainer.method,
            device=trainer.device, seed=0,
        )  # fmt: skip


def test_micro_batches_add_up_to_the_batchs_gradient(tiny_run):
    """Without batch statistics and dropout the parts' mean gradient is the batch's."""
    optim = OptimConfig(name="sgd", lr=0.5, momentum=0.0, weight_decay=0.0, head_lr_factor=1.0)
    moved, losses = [], []
    for parts in (1, 2):
        run = tiny_run(
            "supervised", "one-hot", steps=1, micro_batches=parts, optim=optim, double=True
        )
        network = run.trainer.student
        for part in network.children():
            part.eval()
        before = [p.detach().clone() for p in network.parameters()]
        event = next(e for e in run.events() if isinstance(e, StepEvent))
        losses.append(event.metrics["loss"])
        moved.append([new.detach() - old for new, old in
                      zip(network.parameters(), before, strict=True)])  # fmt: skip
    assert losses[0] == pytest.approx(losses[1], rel=1e-9)
    for whole, parts in zip(*moved, strict=True):
        torch.testing.assert_close(whole, parts, rtol=1e-7, atol=1e-12)
    assert max(float(m.abs().max()) for m in moved[0]) > 1e-6


@pytest.mark.parametrize("method", ["dacs", "daformer"])
def test_micro_batches_train_every_method(tiny_run, method):
    run = tiny_run(method, "ecoc", steps=2, micro_batches=2, quality=0.5)
    metrics = [e.metrics for e in run.events() if isinstance(e, StepEvent)]
    assert all(m["loss"] > 0 for m in metrics)
    parts = [
        m for name, m in metrics[-1].items() if name.startswith("loss/") and "feat" not in name
    ]
    features = metrics[-1].get("loss/features", 0.0)
    # The source summand's own log holds no feature distance.
    assert metrics[-1]["loss"] == pytest.approx(sum(parts) + features, rel=1e-5)


def test_the_frozen_network_is_the_student_before_training(tiny_run):
    run = tiny_run("daformer", "one-hot", steps=3)
    trainer = run.trainer
    before = {k: v.clone() for k, v in trainer.student.state_dict().items()}
    state = last_state(run)
    assert same(before, trainer.reference.state_dict())
    assert not same(before, trainer.student.state_dict())
    assert not trainer.reference.training
    assert "reference" not in state
    assert tiny_run("dacs", "one-hot", steps=3).trainer.reference is None


def norms(network):
    return [module for module in network.modules() if isinstance(module, torch.nn.BatchNorm2d)]


@pytest.mark.parametrize("method", ["supervised", "fixmatch", "unimatch", "unimatch_v2", "dacs"])
def test_frozen_batch_normalisation_stays_frozen(tiny_run, method):
    """Frozen before or after the trainer has the network; the others' statistics move."""
    run = tiny_run(method, "ecoc", steps=3, quality=0.5, evaluate_every=1)
    trainer = run.trainer
    student = trainer.student
    frozen, free = norms(student)[::2], norms(student)[1::2]
    for norm in frozen:
        norm.eval()
    before = {norm: norm.running_mean.clone() for norm in norms(student)}
    steps = (event for event in run.events() if isinstance(event, StepEvent))
    next(steps)
    # As a notebook does that looks at the network.
    student.eval()
    assert len(list(steps)) == 2
    assert student.training
    for norm in frozen:
        assert not norm.training
        assert torch.equal(norm.running_mean, before[norm])
    for norm in free:
        assert norm.training
        assert not torch.equal(norm.running_mean, before[norm])
    if method == "dacs":
        modes = [norm.training for norm in norms(trainer.teacher)]
        assert modes == [norm.training for norm in norms(student)]


def test_a_network_in_evaluation_mode_is_trained(tiny_run):
    trainer = tiny_run("supervised", "one-hot").trainer
    again = Trainer(
        trainer.config,
        model=trainer.student.eval(),
        encoding=trainer.encoding,
        method=trainer.method,
        device=trainer.device,
        seed=0,
    )
    assert all(module.training for module in again.student.modules())
