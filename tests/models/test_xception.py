"""Xception-65 against a plain statement of UniMatch's forward pass, by the names of its file."""

import logging
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ecocseg.errors import ConfigError
from ecocseg.models.config import ModelConfig
from ecocseg.models.segmenter import build_model


def xception(x, entry):
    """UniMatch's forward pass, from the names in its file; the maps at strides 4 and 16."""

    def normed(x, name):
        mean, var = entry[f"{name}.running_mean"], entry[f"{name}.running_var"]
        return F.batch_norm(x, mean, var, entry[f"{name}.weight"], entry[f"{name}.bias"], eps=1e-3)

    def separable(x, name, stride=1, inside=lambda x: x):
        weight = entry[f"{name}.depthwise.weight"]
        x = F.conv2d(x, weight, stride=stride, padding=1, groups=len(weight))
        x = inside(normed(x, f"{name}.bn1"))
        return inside(normed(F.conv2d(x, entry[f"{name}.pointwise.weight"]), f"{name}.bn2"))

    x = normed(F.conv2d(x, entry["conv1.weight"], stride=2, padding=1), "bn1").relu()
    x = normed(F.conv2d(x, entry["conv2.weight"], padding=1), "bn2").relu()
    for number in range(1, 21):
        block, stride = f"block{number}", 2 if number < 4 else 1
        first = x.relu()
        skip = first
        if f"{block}.skip.weight" in entry:
            skip = F.conv2d(x, entry[f"{block}.skip.weight"], stride=stride)
            skip = normed(skip, f"{block}.skipbn")
        middle = separable(separable(first, f"{block}.sepconv1").relu(), f"{block}.sepconv2")
        if number == 2:
            low = middle
        x = skip + separable(middle.relu(), f"{block}.sepconv3", stride)
    for number in (3, 4, 5):
        x = separable(x, f"conv{number}", inside=torch.relu)
    return low, x


def file_of_xception():
    """A state dict with UniMatch's names and shapes, and small random numbers."""
    generator, state = torch.Generator().manual_seed(3), {}

    def conv(name, *shape):
        scale = (2 / math.prod(shape[1:])) ** 0.5
        state[f"{name}.weight"] = torch.randn(shape, generator=generator) * scale

    def norm(name, width):
        for part in ("weight", "bias", "running_mean", "running_var"):
            shift = 0.5 if part in ("weight", "running_var") else 0.0
            state[f"{name}.{part}"] = torch.rand(width, generator=generator) * 0.5 + shift

    def separable(name, before, after):
        conv(f"{name}.depthwise", before, 1, 3, 3)
        norm(f"{name}.bn1", before)
        conv(f"{name}.pointwise", after, before, 1, 1)
        norm(f"{name}.bn2", after)

    conv("conv1", 32, 3, 3, 3)
    norm("bn1", 32)
    conv("conv2", 64, 32, 3, 3)
    norm("bn2", 64)
    widths = [(64, 128), (128, 256), (256, 728), *[(728, 728)] * 16, (728, 1024)]
    for number, (before, after) in enumerate(widths, start=1):
        block = f"block{number}"
        if before != after:
            conv(f"{block}.skip", after, before, 1, 1)
            norm(f"{block}.skipbn", after)
        separable(f"{block}.sepconv1", before, before if number == 20 else after)
        separable(f"{block}.sepconv2", before if number == 20 else after, after)
        separable(f"{block}.sepconv3", after, after)
    for number, before, after in ((3, 1024, 1536), (4, 1536, 1536), (5, 1536, 2048)):
        separable(f"conv{number}", before, after)
    return state


def test_xception_is_unimatchs_with_its_file(tmp_path, caplog):
    state = file_of_xception()
    path = tmp_path / "xception.pth"
    torch.save({**state, "fc.weight": torch.zeros(1000, 2048), "fc.bias": torch.zeros(1000)}, path)
    config = ModelConfig(
        encoder="tu-xception65", decoder="deeplabv3plus_dense", weights=str(path), dropout=0.0
    )
    with caplog.at_level(logging.INFO):
        model = build_model(config, 3).eval()
    assert len(caplog.messages) == 1  # nothing is left over
    inside = [v for v in state.values() if v.ndim != 1]
    assert sum(v.numel() for v in inside) == sum(
        p.numel() for p in model.encoder.parameters() if p.ndim > 1
    )
    batch = torch.rand(1, 3, 49, 65, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        expected = xception((batch - model.mean) / model.deviation, state)
        maps = []
        logits = model(batch, lambda found: maps.extend(found) or found)
        assert [tuple(m.shape[1:]) for m in maps] == [(256, 13, 17), (2048, 4, 5)]
        for ours, theirs in zip(maps, expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4 * float(theirs.std()))
        assert logits.shape == (1, 3, 49, 65)
    momenta = {m.momentum for m in model.encoder.modules() if isinstance(m, nn.BatchNorm2d)}
    assert momenta == {0.0003}


@pytest.mark.parametrize(
    ("encoder", "stride"), [("tu-xception65", 8), ("xception", 16), ("tu-xception65p", 16)]
)
def test_other_xceptions_are_refused(encoder, stride):
    config = ModelConfig(encoder=encoder, decoder="deeplabv3plus_dense", output_stride=stride)
    with pytest.raises(ConfigError, match="tu-xception41, tu-xception65"):
        build_model(config, 3)
