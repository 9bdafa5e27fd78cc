"""First weights of our decoders and heads, layer by layer, by the rules of their public code.

UniMatch, UniMatch V2 and the released ECOC head leave torch's default, uniform within 1 over the
root of the fan-in. mmcv 1.x draws a convolution before a norm from a normal distribution of
variance 2 over the fan-out, and mmsegmentation's heads a linear classifier from one of deviation
0.01 with bias 0. DAFormer's embeddings are linear layers with torch's default.
"""

import math

import pytest
import torch
from torch import nn

from ecocseg.engine.seed import seeded
from ecocseg.models.config import ModelConfig
from ecocseg.models.cost import network_cost
from ecocseg.models.decoders import DAFormerDecoder
from ecocseg.models.segmenter import build_head, build_model
from ecocseg.models.semi import DenseASPP, DPTDecoder, PyramidPooling, UNetDecoder, UNetEncoder

MIT = (64, 128, 320, 512)
PIXELS = {
    "embedding.layers.0": ("uniform", 64),
    "embedding.layers.1": ("uniform", 128),
    "embedding.layers.2": ("uniform", 320),
    "embedding.layers.3": ("uniform", 512),
}
LINEAR = {"1": ("normal", 0.01)}
# 3x3 of 256 channels, 1x1 of 128.
PROJECTION = {"0": ("uniform", 2304), "4": ("uniform", 128)}


def head(decoder, features, kind="linear"):
    encoder = "unet_slices" if decoder == "unet_slices" else "resnet50"
    return build_head(ModelConfig(encoder=encoder, decoder=decoder, head=kind), features, 21)


def hrda_attention(kind):
    config = ModelConfig(decoder="hrda", head=kind, encoder="tu-test_resnet", decoder_channels=256)
    return build_model(config, 21).attention


def attention(layers):
    channels = (32, 48, 192, 96)
    found = {f"embedding.layers.{i}": ("uniform", c) for i, c in enumerate(channels)}
    found["fusion.0"] = ("normal", math.sqrt(2 / 256))
    return found | {f"head.{name}": rule for name, rule in layers.items()}


# What is built, and of each of its convolutions ("uniform", fan-in) or ("normal", deviation).
CASES = {
    "UniMatch's DeepLabV3+": (
        lambda: DenseASPP(256, 2048),
        {
            "first.0": ("uniform", 2048),
            "dilated.0.0": ("uniform", 9 * 2048),
            "dilated.1.0": ("uniform", 9 * 2048),
            "dilated.2.0": ("uniform", 9 * 2048),
            "pooled.1.0": ("uniform", 2048),
            "project.0": ("uniform", 5 * 256),
            "reduce.0": ("uniform", 256),
            "fuse.0.0": ("uniform", 9 * 304),
            "fuse.1.0": ("uniform", 9 * 256),
        },
    ),
    "its classifier": (lambda: head("deeplabv3plus_dense", 256), {"1": ("uniform", 256)}),
    "UniMatch's PSPNet": (
        lambda: PyramidPooling(2048),
        {f"branches.{i}.1.0": ("uniform", 2048) for i in range(4)}
        | {"fuse.0": ("uniform", 9 * 4096)},
    ),
    "PSPNet's classifier": (lambda: head("pspnet_siamese", 512), {"1": ("uniform", 512)}),
    "UniMatch's U-Net, down": (
        UNetEncoder,
        {
            "levels.0.0": ("uniform", 9),
            "levels.0.4": ("uniform", 144),
            "levels.1.0": ("uniform", 144),
            "levels.1.4": ("uniform", 288),
            "levels.2.0": ("uniform", 288),
            "levels.2.4": ("uniform", 576),
            "levels.3.0": ("uniform", 576),
            "levels.3.4": ("uniform", 1152),
            "levels.4.0": ("uniform", 1152),
            "levels.4.4": ("uniform", 2304),
        },
    ),
    "UniMatch's U-Net, up": (
        UNetDecoder,
        {
            "narrow.0": ("uniform", 256),
            "narrow.1": ("uniform", 128),
            "narrow.2": ("uniform", 64),
            "narrow.3": ("uniform", 32),
            "levels.0.0": ("uniform", 2304),
            "levels.0.4": ("uniform", 1152),
            "levels.1.0": ("uniform", 1152),
            "levels.1.4": ("uniform", 576),
            "levels.2.0": ("uniform", 576),
            "levels.2.4": ("uniform", 288),
            "levels.3.0": ("uniform", 288),
            "levels.3.4": ("uniform", 144),
        },
    ),
    "U-Net's classifier": (lambda: head("unet_slices", 16), {"1": ("uniform", 144)}),
    "UniMatch V2's DPT": (
        lambda: DPTDecoder(384, (48, 96, 192, 384), 64),
        {f"project.{i}": ("uniform", 384) for i in range(4)}
        # Torch's fan-in of a transposed convolution is of its outputs.
        | {"resize.0": ("uniform", 16 * 48), "resize.1": ("uniform", 4 * 96)}
        | {"resize.3": ("uniform", 9 * 384)}
        | {f"lateral.{i}": ("uniform", 9 * c) for i, c in enumerate((48, 96, 192, 384))}
        | {
            f"fusion.{i}.{part}.{place}": ("uniform", 576)
            for i in range(4)
            for part in ("level", "both")
            for place in ("first", "second")
        }
        | {f"fusion.{i}.out": ("uniform", 64) for i in range(4)}
        | {"out.0": ("uniform", 576)},
    ),
    "DPT's classifier": (lambda: head("dpt_vit", 64), {"1": ("uniform", 64)}),
    "DAFormer": (
        lambda: DAFormerDecoder(MIT),
        PIXELS
        | {"pyramid.0.0": ("normal", math.sqrt(2 / 256))}
        | {f"pyramid.{i}.0.0": ("normal", math.sqrt(2 / (9 * 1024))) for i in (1, 2, 3)}
        | {f"pyramid.{i}.1.0": ("normal", math.sqrt(2 / 256)) for i in (1, 2, 3)}
        | {"bottleneck.0": ("normal", math.sqrt(2 / (9 * 256)))},
    ),
    "DAFormer's classifier": (lambda: head("daformer", 256), LINEAR),
    "the released head": (lambda: head("daformer", 256, "projection"), PROJECTION),
    "HRDA's classifier": (lambda: head("hrda", 256), LINEAR),
    "HRDA's released head": (lambda: head("hrda", 256, "projection"), PROJECTION),
    "HRDA's attention": (lambda: hrda_attention("linear"), attention(LINEAR)),
    "HRDA's attention as released": (lambda: hrda_attention("projection"), attention(PROJECTION)),
    "DeepLabV2": (
        lambda: head("deeplabv2", 512),
        {f"1.branches.{i}": ("normal", 0.01) for i in range(2)},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_first_weights_are_the_published_ones(case):
    build, rules = CASES[case]
    with seeded(6):
        module = build()
    layers = dict(module.named_modules())
    convolutions = {
        n: m for n, m in layers.items() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)
    }
    assert set(convolutions) == set(rules)
    for name, (kind, number) in rules.items():
        weight, bias = convolutions[name].weight, convolutions[name].bias
        # Three to four standard errors of a deviation.
        error = 2.5 / math.sqrt(weight.numel())
        if kind == "uniform":
            bound = 1 / math.sqrt(number)
            assert weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=error), name
            assert weight.abs().max() <= bound, name
            assert bias is None or 0.5 * bound < bias.abs().max() <= bound, name
        else:
            assert weight.std().item() == pytest.approx(number, rel=error), name
            # No uniform distribution of that deviation has such values.
            assert weight.abs().max() > 2 * number, name
            assert bias is None or not bias.any(), name
    for norm in (m for m in layers.values() if isinstance(m, nn.BatchNorm2d)):
        assert torch.equal(norm.weight, torch.ones_like(norm.weight))
        assert not norm.bias.any()


def test_parameters_of_the_published_networks():
    """UniMatch's DeepLabV3+ on ResNet-50 as its code builds it, and what the released head adds."""
    dense = ModelConfig(encoder="tu-resnet50s", decoder="deeplabv3plus_dense", dropout=0.0)
    assert network_cost(dense, 21, (64, 64)).parameters == 40_475_957
    counts = {
        kind: sum(p.numel() for p in head("daformer", 256, kind).parameters())
        for kind in ("linear", "projection")
    }
    assert counts == {
        "linear": 257 * 21,
        "projection": 9 * 256 * 128 + 2 * 128 + 129 * 21,
    }
