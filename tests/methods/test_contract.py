"""What every method owes the engine, whatever the encoding."""

import copy
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import pytest
import torch
from torch import nn

import ecocseg.methods
from ecocseg.data.dataset import StepBatches
from ecocseg.encodings import ENCODINGS
from ecocseg.errors import ConfigError
from ecocseg.methods import METHODS, build_method
from ecocseg.methods.base import Context, Method, summands

CELLS = [(method, encoding) for method in METHODS for encoding in ENCODINGS]


def step(run, batch, seed=0, autocast=False):
    """One step's losses, back-propagated: (values, logs), gradients in the student."""
    trainer = run.trainer
    trainer.student.train()
    if trainer.teacher is not None:
        trainer.method.prepare_teacher(trainer.teacher)
    context = Context(
        student=trainer.student,
        teacher=trainer.teacher,
        reference=trainer.reference,
        encoding=run.encoding,
        step=0,
        steps=10,
        random=torch.Generator().manual_seed(seed),
    )
    torch.manual_seed(seed)
    values, logs = [], {}
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        losses = list(summands([trainer.method.losses(context, batch)], context.group))
    for loss in losses:
        loss.value.backward()
        values.append(loss.value.detach())
        logs |= loss.logs
    return values, logs


@pytest.mark.parametrize(("method", "encoding"), CELLS)
class TestContract:
    @pytest.fixture
    def run(self, tiny_run, method, encoding):
        return tiny_run(method, encoding, quality=0.0 if encoding == "one-hot" else 0.5)

    @pytest.fixture
    def batch(self, run):
        found = StepBatches(run.streams, seed=3)[0]
        if run.trainer.method.restarts:
            # What its second stage reads: pseudo-labels that the first one stored.
            weak = found["unlabelled"]
            labels = torch.randint(0, 19, weak.labels.shape, generator=torch.Generator())
            targets = run.encoding.pack(run.encoding.encode(labels))
            found["unlabelled"] = replace(weak, targets=targets)
        return found

    def test_losses_are_finite_and_the_student_alone_learns(self, run, batch):
        trainer = run.trainer
        teacher = copy.deepcopy(trainer.teacher)
        values, _ = step(run, batch)
        assert values
        assert all(value.shape == () and torch.isfinite(value) and value > 0 for value in values)
        for name, parameter in trainer.student.named_parameters():
            assert parameter.grad is not None, name
            assert torch.isfinite(parameter.grad).all(), name
        # Inside residual branches that begin at zero the first gradient is zero.
        ends = [next(part.parameters()) for part in (trainer.student.head, trainer.student.encoder)]
        assert all((parameter.grad != 0).any() for parameter in ends)
        if teacher is not None:
            pairs = zip(trainer.teacher.parameters(), teacher.parameters(), strict=True)
            assert all(new.grad is None and torch.equal(new, old) for new, old in pairs)

    def test_logs_are_detached_scalars(self, run, batch):
        _, logs = step(run, batch)
        for name, value in logs.items():
            assert value.shape == (), name
            assert not value.requires_grad, name
            assert torch.isfinite(value), name
        assert "loss/labelled" in logs
        parts = {"ce"} if run.encoding.channels == 19 else {"bce", "distance", "contrast"}
        assert {n.removeprefix("labelled/") for n in logs if n.startswith("labelled/")} == parts
        if run.trainer.method.restarts:
            assert "pseudo/counted" in logs
        elif len(run.streams) > 1:
            assert {"pseudo/confidence", "pseudo/quality"} <= set(logs)

    def test_the_generator_and_the_seed_decide(self, run, batch):
        start = copy.deepcopy(run.trainer.state())
        first, logs = step(run, batch)
        run.trainer.restore(start)
        again, logs_again = step(run, batch)
        assert [float(v) for v in first] == [float(v) for v in again]
        assert {k: float(v) for k, v in logs.items()} == {
            k: float(v) for k, v in logs_again.items()
        }

    def test_networks_are_left_in_training_mode_without_changed_inputs(self, run, batch):
        before = copy.deepcopy(batch)
        step(run, batch)
        assert all(module.training for module in run.trainer.student.modules())
        for name, sample in batch.items():
            assert torch.equal(sample.images, before[name].images)
            assert torch.equal(sample.labels, before[name].labels)

    def test_every_parameter_learns_under_autocast(self, run, batch):
        """A forward pass without gradient must not leave cast weights without gradient behind."""
        values, _ = step(run, batch, autocast=True)
        assert all(torch.isfinite(value) for value in values)
        assert all(p.grad is not None for p in run.trainer.student.parameters())


def test_the_table_names_every_file_and_a_class_that_keeps_the_names():
    folder = Path(ecocseg.methods.__file__).parent
    shared = {"__init__", "base", "consistency", "reliability"}
    assert {p.stem for p in folder.glob("*.py")} - shared == set(METHODS)
    for name, kind in METHODS.items():
        method = getattr(import_module(f"ecocseg.methods.{name}"), kind)
        assert issubclass(method, Method)
        assert method.name == name


def test_unknown_methods_and_fields():
    with pytest.raises(ConfigError, match="did you mean 'dacs'"):
        build_method("dac", {})
    with pytest.raises(ConfigError, match=r"method \(dacs\)\.jitter_strength: got 0\.7"):
        build_method("dacs", {"jitter_strength": 0.7})
    with pytest.raises(ConfigError, match="cutmix_probability"):
        build_method("fixmatch", {"cutmix_probability": 2})


def test_the_daformer_teacher_has_batch_statistics_but_no_dropout(tiny_run):
    run = tiny_run("dacs", "one-hot")
    teacher = run.trainer.teacher
    run.trainer.method.prepare_teacher(teacher)
    for module in teacher.modules():
        if isinstance(module, nn.Dropout | nn.Dropout2d):
            assert not module.training
        if isinstance(module, nn.BatchNorm2d):
            assert module.training
