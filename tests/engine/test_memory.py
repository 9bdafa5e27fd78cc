"""The memory figure: what it counts equals what autograd keeps, and each setting does its part."""

import json
from contextlib import nullcontext
from dataclasses import asdict, fields, replace
from importlib import import_module

import pytest
import torch

from ecocseg.data.classes import CLASS_TABLES
from ecocseg.encodings import ENCODINGS
from ecocseg.engine import meter
from ecocseg.engine.footprint import _measure, footprint, weights
from ecocseg.engine.memory import Pass, _of_recipe, training_memory, training_passes
from ecocseg.engine.meter import Meter
from ecocseg.engine.optim import OptimConfig
from ecocseg.engine.recipe import SIZELESS, step_sizes
from ecocseg.engine.schedule import FitConfig
from ecocseg.methods import METHODS
from ecocseg.methods.unimatch import FeatureDropout
from ecocseg.methods.unimatch_v2 import ComplementaryDropout
from ecocseg.models.checkpointing import checkpoint_blocks
from ecocseg.models.config import ModelConfig
from ecocseg.models.cost import network_cost
from ecocseg.models.segmenter import build_model

MIT = ModelConfig(encoder="mit_b0", decoder="daformer", decoder_channels=32)
RESNET = ModelConfig(encoder="tu-test_resnet", decoder="fpn", decoder_channels=32)
NAMES = CLASS_TABLES["cityscapes19"].names
SCHEDULE = FitConfig(steps=1, precision="fp32")


def memory(model=MIT, encoding="one-hot", method="dacs", crop=(64, 96), **schedule):
    return training_memory(
        model=model,
        encoding={"name": encoding},
        method={"name": method},
        schedule=replace(SCHEDULE, **schedule),
        class_names=NAMES,
        labelled_crop=crop,
    )


def kept(model, bf16=False, recompute=False, change=None):
    """Bytes that a real pass on the CPU keeps: what autograd saves, and the results."""
    torch.manual_seed(0)
    network = build_model(model, 19).train()
    if recompute:
        checkpoint_blocks(network.encoder)
    own = {t.untyped_storage().data_ptr() for t in [*network.parameters(), *network.buffers()]}
    found = {}

    def keep(tensor):
        found[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    autocast = torch.autocast("cpu", torch.bfloat16) if bf16 else nullcontext()
    with autocast, torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        if change is None:
            outputs = network.outputs(torch.rand(2, 3, 64, 96), torch.Generator())
            results = [outputs.features, *(head.logits for head in outputs.heads)]
        else:
            results = [network(torch.rand(2, 3, 64, 96), change)]
    for tensor in results:
        keep(tensor)
    return sum(storage.nbytes() for place, storage in found.items() if place not in own)


@pytest.mark.parametrize(
    "model",
    [
        MIT,
        RESNET,
        ModelConfig(encoder="tu-test_resnet", decoder="deeplabv3plus_dense", decoder_channels=32),
        ModelConfig(encoder="tu-xception41", decoder="deeplabv3plus_dense", decoder_channels=32),
        ModelConfig(encoder="tu-test_vit", decoder="dpt_vit"),
        ModelConfig(encoder="unet_slices", decoder="unet_slices"),
    ],
    ids=["mit_b0", "resnet", "deeplab", "xception", "dpt", "unet"],
)
def test_as_many_bytes_are_held_as_a_real_pass_keeps(model):
    assert footprint(model, 19, (2, 64, 96)).held == pytest.approx(kept(model), rel=0.02)


@pytest.mark.parametrize(
    ("change", "views"), [(FeatureDropout, 2), (ComplementaryDropout, 1)], ids=["two", "masked"]
)
def test_perturbed_features_are_held_as_in_a_real_pass(change, views):
    real = kept(RESNET, change=change(0.5, torch.Generator()))
    assert footprint(RESNET, 19, (2, 64, 96), views=views).held == pytest.approx(real, rel=0.03)
    assert real > 1.02 * kept(RESNET)


def test_a_pass_without_gradient_does_not_decide_for_those_with_one():
    size = (2, 64, 64)
    with torch.no_grad():
        first = footprint(replace(RESNET, decoder_channels=64), 19, size).held
    # A network as large that a pass with gradient asked for.
    assert first > 0.5 * footprint(RESNET, 19, size).held


def test_under_bf16_as_many_as_under_real_autocast():
    found = footprint(MIT, 19, (2, 64, 96), bf16=True).held
    assert found == pytest.approx(kept(MIT, bf16=True), rel=0.1)


@pytest.mark.parametrize("bf16", [False, True])
def test_checkpointing_takes_what_it_keeps_and_one_block_beside_it(bf16):
    found = footprint(MIT, 19, (2, 64, 96), bf16=bf16, recompute=True).held
    assert found >= 0.8 * kept(MIT, bf16=bf16, recompute=True)
    assert found < 0.8 * footprint(MIT, 19, (2, 64, 96), bf16=bf16).held


def test_the_meter_forgets_what_is_gone():
    with Meter() as meter:
        first = torch.empty(1000, device="meta")
        second = first + 1
        view = second[10:]
        del first, second
        assert (meter.live, meter.peak) == (4096, 8192)
        del view
    assert meter.live == 0


def test_weights_gradients_and_moments_follow_from_the_number_of_parameters():
    network = build_model(MIT, 19)
    parameters = 4 * sum(p.numel() for p in network.parameters())
    buffers = sum(b.numel() * b.element_size() for b in network.buffers())
    assert weights(MIT, 19) == (parameters + buffers, parameters)
    adamw, sgd = memory(), memory(optim=OptimConfig(name="sgd"))
    assert adamw.gradients == sgd.gradients == sgd.optimiser == parameters
    assert adamw.optimiser == 2 * parameters
    assert adamw.weights == adamw.teacher == parameters + buffers
    assert adamw.reference == memory(method="supervised").teacher == 0
    assert memory(method="daformer", crop=(160, 160)).reference == parameters + buffers


def test_each_setting_lowers_the_figure():
    # Large enough that the casts of the weights to bfloat16 count little.
    crop = (192, 256)
    full = memory(crop=crop)
    assert memory(crop=crop, precision="auto") == full
    assert memory(crop=crop, precision="bf16").total < full.total
    assert memory(crop=crop, activation_checkpointing=True).total < full.total
    halved = memory(crop=crop, micro_batches=2)
    assert halved.activations == full.activations // 2
    assert memory(crop=crop, gpus=2) == halved
    doubled = memory(crop=(192, 512)).activations
    assert doubled == pytest.approx(2 * full.activations, rel=0.15)


def test_ecoc_takes_hardly_more_than_its_channels():
    onehot, ecoc = memory(crop=(128, 128)), memory(encoding="ecoc", crop=(128, 128))
    pixels = 2 * 128 * 128
    # Logits and their gradient have 40 channels instead of 19; then bits, a byte for each. A tensor
    # of [B,N,K,H,W] would be 19 x 40 channels.
    assert 0 < ecoc.total - onehot.total < pixels * (40 - 19) * 4 * 8
    assert ecoc.total - onehot.total < pixels * 19 * 40


def test_the_passes_of_a_step():
    settings = {
        "model": RESNET,
        "encoding": {"name": "ecoc", "length": 24},
        "schedule": replace(SCHEDULE, labelled_batch=4, unlabelled_batch=4, micro_batches=2),
        "class_names": NAMES,
        "labelled_crop": (32, 64),
    }
    size = (4, 32, 64)
    macs = 4 * network_cost(RESNET, 24, (32, 64)).macs
    learnt = Pass(call="outputs", images=size, gradient=True, macs=macs)
    teacher = Pass(call="forward", images=size, gradient=False, macs=macs)
    passes = training_passes(method={"name": "dacs"}, **settings)
    assert passes == (learnt, teacher, learnt)
    passes = training_passes(method={"name": "fixmatch"}, **settings)
    assert [(p.images[0], p.gradient) for p in passes] == [(4, False), (8, True), (4, True)]


def test_it_leaves_no_trace_in_the_random_numbers():
    torch.manual_seed(3)
    memory(model=replace(RESNET, decoder_channels=64), crop=(32, 32))
    assert torch.rand(()) == torch.rand((), generator=torch.Generator().manual_seed(3))


MARGINS = {"margins": [2, 6, 0, 0]}
FITTING = {
    "daformer": MARGINS,
    "mic": {"inner": {"name": "daformer", **MARGINS}},
    "supervised": {"divisor": "valid"},
}
"""What the methods' options must be for crops of 32x64 and hard pixels."""


@pytest.mark.parametrize("method", sorted(METHODS))
@pytest.mark.parametrize("encoding", ["one-hot", "ecoc"])
def test_options_that_share_an_estimate_change_no_size(method, encoding):
    """With each of them at two values, a step holds as much and does as much."""
    config, found = import_module(f"ecocseg.methods.{method}").Config, []
    for value in (0.3, 0.9):
        values = {
            "model": asdict(RESNET),
            "encoding": {"name": encoding, **numbers(ENCODINGS[encoding][0], value)},
            "method": {"name": method, **numbers(config, value), **FITTING.get(method, {})},
            "sizes": step_sizes(SCHEDULE),
            "names": list(NAMES),
            "crops": [[32, 64], [32, 64]],
        }
        found.append(_of_recipe.__wrapped__(json.dumps(values, default=list)))
    assert found[0] == found[1]


def numbers(config, value):
    """Its options of `SIZELESS`, all at one value."""
    return {field.name: value for field in fields(config) if field.name in SIZELESS}


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize(
    "model",
    [MIT, RESNET, ModelConfig(encoder="tu-test_vit", decoder="dpt_vit", decoder_channels=16)],
)
def test_what_is_answered_at_once_is_what_pytorch_answers(model, bf16, recompute, monkeypatch):
    def found():
        measured = _measure.__wrapped__(model, 7, (2, 64, 64), bf16, recompute, 0)
        shapes = [(head.logits.shape, head.logits.dtype) for head in measured.outputs.heads]
        return measured.held, measured.macs, shapes, measured.outputs.features.shape

    quick = found()
    monkeypatch.setattr(meter, "_QUICK", {})
    assert found() == quick
