import copy
import itertools
from contextlib import nullcontext

import pytest
import torch

from ecocseg.engine.seed import seeded
from ecocseg.models.checkpointing import checkpoint_blocks
from ecocseg.models.config import ModelConfig
from ecocseg.models.segmenter import build_model

NETWORKS = {
    "mit": ModelConfig(encoder="mit_b0", decoder="daformer", decoder_channels=16),
    "timm": ModelConfig(encoder="tu-test_resnet", decoder="deeplabv2"),
    "torchvision": ModelConfig(encoder="resnet18", decoder="fpn", decoder_channels=32),
    # Its encoder runs twice before the backward pass.
    "hrda": ModelConfig(
        encoder="tu-test_resnet", decoder="hrda", decoder_channels=16, hr_crop=(32, 32)
    ),
}
BLOCKS = {"mit": 8, "timm": 4, "torchvision": 8, "hrda": 4}


def trained(model, *, autocast=False):
    """Losses of two steps' forward and backward passes, gradients and buffers after them."""
    losses = []
    with seeded(5):
        for _ in range(2):
            images = torch.rand(2, 3, 64, 128)
            with torch.autocast("cpu", torch.bfloat16) if autocast else nullcontext():
                outputs = model.outputs(images, torch.Generator().manual_seed(6))
                loss = sum(head.logits.square().mean() for head in outputs.heads)
                loss = loss + outputs.features.square().mean()
            # Random numbers between the passes must not reach the second run of a block.
            torch.rand(3)
            loss.backward()
            losses.append(loss.detach())
        losses.append(torch.rand(1))
    gradients = [p.grad for p in model.parameters()]
    return losses, gradients, list(model.buffers())


def kept_numbers(model):
    """How many numbers autograd keeps for the backward pass."""
    sizes = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda tensor: sizes.append(tensor.numel()), lambda tensor: tensor
    ):
        model.outputs(torch.rand(2, 3, 64, 64), torch.Generator())
    return sum(sizes)


@pytest.mark.parametrize(
    ("name", "autocast"), [*((name, False) for name in NETWORKS), ("mit", True), ("timm", True)]
)
def test_nothing_changes_but_the_memory(name, autocast):
    with seeded(1):
        plain = build_model(NETWORKS[name], 5).train()
    wrapped = copy.deepcopy(plain)
    assert checkpoint_blocks(wrapped.encoder) == BLOCKS[name]
    assert list(wrapped.state_dict()) == list(plain.state_dict())
    assert kept_numbers(copy.deepcopy(wrapped)) < kept_numbers(copy.deepcopy(plain))
    for expected, found in zip(
        trained(plain, autocast=autocast), trained(wrapped, autocast=autocast), strict=True
    ):
        assert len(expected) == len(found)
        for one, other in zip(expected, found, strict=True):
            assert torch.equal(one, other)


def test_copies_are_checkpointed_too_and_a_second_call_changes_nothing():
    with seeded(1):
        plain = build_model(NETWORKS["timm"], 5).train()
    wrapped = copy.deepcopy(plain)
    for _ in range(2):
        assert checkpoint_blocks(wrapped.encoder) == 4
    copied = copy.deepcopy(wrapped)
    for parameter in wrapped.parameters():
        parameter.data.zero_()
    runs = []
    for module in copied.encoder.modules():
        if type(module).__name__ in ("BasicBlock", "Bottleneck"):
            module.register_forward_hook(lambda *_: runs.append("block"))
            module.conv2.register_forward_hook(lambda *_: runs.append("inside"))
    expected, found = trained(plain), trained(copied)
    for one, other in zip(itertools.chain(*expected), itertools.chain(*found), strict=True):
        assert torch.equal(one, other)
    # Two steps, each block twice in them.
    assert (runs.count("block"), runs.count("inside")) == (2 * 4, 2 * 2 * 4)


def test_without_gradients_a_block_runs_once():
    model = build_model(NETWORKS["timm"], 5).eval()
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        expected = model(image)
        checkpoint_blocks(model.encoder)
        runs = []
        for module in model.encoder.modules():
            module.register_forward_hook(lambda module, *_: runs.append(module))
        assert torch.equal(model(image), expected)
    assert len(runs) == len(set(runs))


def test_an_encoder_without_blocks_is_told():
    assert checkpoint_blocks(torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU())) == 0
