"""The networks of semi-supervised learning against plain statements and published numbers."""

import itertools
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ecocseg.engine.memory import training_memory
from ecocseg.engine.schedule import FitConfig
from ecocseg.engine.seed import seeded
from ecocseg.errors import ConfigError
from ecocseg.methods.unimatch import FeatureDropout
from ecocseg.models.config import ModelConfig
from ecocseg.models.cost import network_cost
from ecocseg.models.segmenter import build_model

DENSE = ModelConfig(encoder="tu-resnet101s", decoder="deeplabv3plus_dense", dropout=0.0)
SMALL = {
    "deeplabv3plus_dense": "tu-test_resnet",
    "pspnet_siamese": "tu-test_resnet",
    "dpt_vit": "tu-test_vit",
    "unet_slices": "unet_slices",
}


def small(decoder, channels=5, **fields):
    with seeded(2):
        config = ModelConfig(encoder=SMALL[decoder], decoder=decoder, dropout=0.0, **fields)
        model = build_model(config, channels).eval()
    generator = torch.Generator().manual_seed(4)
    for buffer_name, buffer in model.named_buffers():
        # Small means: what is normalised must not vanish in the activations behind.
        if buffer_name.endswith("running_mean"):
            buffer.copy_(torch.rand(buffer.shape, generator=generator) * 0.01)
        if buffer_name.endswith("running_var"):
            buffer.copy_(torch.rand(buffer.shape, generator=generator) * 0.01 + 0.005)
    return model


def images(model, batch=2, height=64, width=96):
    generator = torch.Generator().manual_seed(5)
    return torch.rand(batch, 3 * model.frames, height, width, generator=generator)


def test_unimatchs_cost_is_the_papers():
    """Table 15: 96.16 G one-hot, 96.24 G with 40 bits; UniMatch's README: 59.5 M and 40.5 M."""
    costs = [network_cost(DENSE, channels, (512, 512)) for channels in (21, 40)]
    assert [round(cost.macs / 1e9, 2) for cost in costs] == [96.16, 96.24]
    assert round(costs[0].parameters / 1e6, 1) == 59.5
    half = network_cost(replace(DENSE, encoder="tu-resnet50s"), 21, (512, 512))
    assert round(half.parameters / 1e6, 1) == 40.5


def test_dinov2_s_has_unimatch_v2s_parameters():
    config = ModelConfig(encoder="tu-vit_small_patch14_dinov2", decoder="dpt_vit", dropout=0.0)
    assert round(network_cost(config, 21, (518, 518)).parameters / 1e6, 1) == 24.8


@pytest.mark.parametrize("decoder", list(SMALL))
def test_a_change_of_nothing_changes_nothing_and_two_views_are_two_passes(decoder):
    model = small(decoder)
    batch = images(model)
    with torch.no_grad():
        plain = model(batch)
        assert torch.equal(model(batch, list), plain)
        both = model(batch, lambda maps: [torch.cat([m, m * 0.5]) for m in maps])
        alone = model(batch, lambda maps: [m * 0.5 for m in maps])
    torch.testing.assert_close(both[:2], plain, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(both[2:], alone, atol=1e-5, rtol=1e-4)
    assert not torch.equal(alone, plain)


def maps_of(model, batch):
    seen = []
    model(batch, lambda maps: seen.extend(maps) or maps)
    return seen


def test_maps_that_a_method_may_change():
    shapes = {
        name: [m.shape[1:] for m in maps_of(small(name), images(small(name)))] for name in SMALL
    }
    assert len(shapes["pspnet_siamese"]) == 1
    assert [tuple(s) for s in shapes["dpt_vit"]] == [(64, 4, 6)] * 4
    assert [s[0] for s in shapes["unet_slices"]] == [16, 32, 64, 128, 256]
    assert all(s[0] != 3 for s in shapes["deeplabv3plus_dense"])


def norm(x, layer):
    return F.batch_norm(x, layer.running_mean, layer.running_var, layer.weight, layer.bias)


def block(x, part):
    """Convolution, norm and ReLU from their own weights."""
    conv = part[0]
    x = F.conv2d(x, conv.weight, None, 1, conv.padding, conv.dilation)
    return norm(x, part[1]).relu()


def corners(x, size):
    return F.interpolate(x, size, mode="bilinear", align_corners=True)


def test_deeplab_is_unimatchs():
    model = small("deeplabv3plus_dense", decoder_channels=16)
    batch, decoder = images(model), model.decoder
    with torch.no_grad():
        maps = maps_of(model, batch)
        c1, c4 = maps[-4], maps[-1]
        assert (c1.shape[2], c4.shape[2]) == (16, 4)
        pooled = block(c4.mean((2, 3), keepdim=True), decoder.pooled[1])
        parts = [block(c4, decoder.first)]
        for rate, part in zip((6, 12, 18), decoder.dilated, strict=True):
            assert part[0].dilation == part[0].padding == (rate, rate)
            parts.append(block(c4, part))
        parts.append(pooled.expand_as(parts[0]))
        context = corners(block(torch.cat(parts, 1), decoder.project), c1.shape[2:])
        features = torch.cat([block(c1, decoder.reduce), context], 1)
        for part in decoder.fuse:
            features = block(features, part)
        logits = F.conv2d(features, model.head[1].weight, model.head[1].bias)
        torch.testing.assert_close(model(batch), corners(logits, batch.shape[2:]))


def test_multi_grid_dilates_the_last_blocks():
    with seeded(0):
        model = build_model(replace(DENSE, encoder="tu-resnet50s", multi_grid=True), 3)
    layer = model.encoder.get_submodule("model.layer4")
    assert [b.conv2.dilation for b in layer] == [(2, 2), (4, 4), (8, 8)]
    assert [b.conv2.padding for b in layer] == [(2, 2), (4, 4), (8, 8)]
    assert layer[0].conv2.stride == (1, 1)
    with pytest.raises(ConfigError, match="multi_grid"):
        ModelConfig(encoder="resnet50", decoder="fpn", multi_grid=True)


def test_siamese_sees_the_difference_alone():
    model = small("pspnet_siamese")
    batch = images(model)
    swapped = torch.cat([batch[:, 3:], batch[:, :3]], 1)
    with torch.no_grad():
        torch.testing.assert_close(model(batch), model(swapped))
        same = model(torch.cat([batch[:, :3], batch[:, :3]], 1))
        nothing = torch.zeros_like(maps_of(model, batch)[0])
        expected = model.head(model.decoder([nothing]))
        assert (same - same[..., :1, :1]).abs().max() < 1e-4 + (expected.max() - expected.min())
        assert torch.equal(maps_of(model, torch.cat([batch[:, :3]] * 2, 1))[0], nothing)
        # The pyramid against its statement.
        (last,) = maps_of(model, batch)
        parts = [last]
        for side, branch in zip((1, 2, 3, 6), model.decoder.branches, strict=True):
            pooled = F.adaptive_avg_pool2d(last, side)
            parts.append(corners(block(pooled, branch[1]), last.shape[2:]))
        features = block(torch.cat(parts, 1), model.decoder.fuse)
        logits = model.head(features)
        torch.testing.assert_close(
            model(batch), corners(logits, batch.shape[2:]), atol=1e-5, rtol=1e-4
        )
    assert type(model.head[0]) is nn.Dropout


def test_unet_is_ssl4miss():
    model = small("unet_slices", channels=4)
    # SSL4MIS and its followers say 1.81 million. By hand, 1 and 16 to 256 channels: two 3x3
    # convolutions with bias and norm a level, then up again behind a 1x1 convolution.
    total = 0
    widths = [1, 16, 32, 64, 128, 256]
    for a, b in itertools.pairwise(widths):
        total += 9 * a * b + b + 9 * b * b + b + 4 * b
    for a, b in zip(widths[:1:-1], widths[-2:0:-1], strict=True):
        total += a * b + b + 9 * 2 * b * b + b + 9 * b * b + b + 4 * b
    assert sum(p.numel() for p in model.parameters()) == total + 9 * 16 * 4 + 4
    assert round(sum(p.numel() for p in model.parameters()) / 1e6, 2) == 1.81
    batch = images(model)

    def double(x, part):
        for first in (0, 4):
            conv = part[first]
            x = F.conv2d(x, conv.weight, conv.bias, padding=1)
            x = F.leaky_relu(norm(x, part[first + 1]), 0.01)
        return x

    with torch.no_grad():
        x, levels = batch[:, :1], []
        for place, part in enumerate(model.encoder.levels):
            x = double(F.max_pool2d(x, 2) if place else x, part)
            levels.append(x)
        for place, narrow in enumerate(model.decoder.narrow):
            x = corners(F.conv2d(x, narrow.weight, narrow.bias), levels[3 - place].shape[2:])
            x = double(torch.cat([levels[3 - place], x], 1), model.decoder.levels[place])
        expected = F.conv2d(x, model.head[1].weight, model.head[1].bias, padding=1)
        torch.testing.assert_close(model(batch), expected, atol=1e-5, rtol=1e-4)
        # The other channels are copies that nobody looks at.
        other = batch.clone()
        other[:, 1:] = 0
        assert torch.equal(model(other), model(batch))
    shares = [m.p for m in model.encoder.modules() if isinstance(m, nn.Dropout)]
    assert shares == [0.05, 0.1, 0.2, 0.3, 0.5]


def test_dpt_is_unimatch_v2s():
    model = small("dpt_vit", decoder_channels=16)
    batch, decoder = images(model), model.decoder
    with torch.no_grad():
        tokens = maps_of(model, batch)
        assert model.encoder.layers == [0, 2, 3, 5]
        levels = []
        for place, each in enumerate(tokens):
            x = decoder.resize[place](decoder.project[place](each))
            levels.append(F.conv2d(x, decoder.lateral[place].weight, padding=1))
        assert [x.shape[2] for x in levels] == [16, 8, 4, 2]

        def residual(x, unit):
            y = F.conv2d(x.relu(), unit.first.weight, unit.first.bias, padding=1)
            return x + F.conv2d(y.relu(), unit.second.weight, unit.second.bias, padding=1)

        path = residual(levels[3], decoder.fusion[3].both)
        path = decoder.fusion[3].out(corners(path, levels[2].shape[2:]))
        for place in (2, 1, 0):
            unit = decoder.fusion[place]
            path = residual(path + residual(levels[place], unit.level), unit.both)
            size = levels[place - 1].shape[2:] if place else [32, 48]
            path = unit.out(corners(path, size))
        path = F.conv2d(path, decoder.out[0].weight, decoder.out[0].bias, padding=1).relu()
        expected = corners(model.head(path), batch.shape[2:])
        torch.testing.assert_close(model(batch), expected, atol=1e-4, rtol=1e-3)


def test_a_vit_takes_other_sizes_by_padding():
    model = small("dpt_vit")
    assert model.multiple == 16
    batch = images(model, height=50, width=70)
    padded = F.pad(batch, (0, 10, 0, 14), mode="replicate")
    with torch.no_grad():
        torch.testing.assert_close(model(batch), model(padded)[..., :50, :70])


def test_unimatchs_file_of_a_resnet_loads_completely(tmp_path):
    """Torchvision's names with a stem of three convolutions and norms in conv1, then bn1."""
    config = ModelConfig(encoder="tu-resnet50s", decoder="deeplabv3plus_dense")
    with seeded(1):
        encoder = build_model(config, 3).encoder
    state = {name.removeprefix("model."): v for name, v in encoder.state_dict().items()}
    assert {"conv1.0.weight", "conv1.6.weight", "bn1.weight", "layer4.2.conv3.weight"} <= set(state)
    assert state["conv1.6.weight"].shape == (128, 64, 3, 3)
    state |= {"fc.weight": torch.zeros(1000, 2048), "fc.bias": torch.zeros(1000)}
    torch.save(state, tmp_path / "resnet50.pth")
    with seeded(2):
        model = build_model(replace(config, weights=str(tmp_path / "resnet50.pth")), 3)
    for name, value in model.encoder.state_dict().items():
        assert torch.equal(value, state[name.removeprefix("model.")]), name


@pytest.mark.parametrize("decoder", ["deeplabv3plus_dense", "pspnet_siamese"])
def test_crops_of_semi_supervised_learning_get_no_border(decoder):
    """321, 513 and 801 are 16 n + 1: corners of the maps lie on corners of the images."""
    model = small(decoder)
    seen = []
    model.encoder.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape[2:]))
    with torch.no_grad():
        assert model(images(model, height=65, width=97)).shape == (2, 5, 65, 97)
    assert set(seen) == {(65, 97)}
    stride = {"deeplabv3plus_dense": 16, "pspnet_siamese": 8}[decoder]
    outputs = model.outputs(images(model, height=65, width=97), torch.Generator())
    assert outputs.stride == stride
    assert outputs.features.shape[2:] == (64 // stride + 1, 96 // stride + 1)


@pytest.mark.parametrize("decoder", list(SMALL))
@pytest.mark.parametrize("method", ["unimatch", "unimatch_v2"])
def test_memory_is_derived_for_every_network(decoder, method):
    estimate = training_memory(
        model=ModelConfig(encoder=SMALL[decoder], decoder=decoder),
        encoding={"name": "one-hot"},
        method={"name": method},
        schedule=FitConfig(steps=1, precision="fp32"),
        class_names=["a", "b", "c"],
        labelled_crop=(64, 64),
    )
    assert estimate.activations > 0
    assert estimate.weights > 0


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"encoder": "resnet18", "decoder": "unet_slices"}, "which has its own encoder"),
        ({"encoder": "unet_slices", "decoder": "unet_slices", "weights": "imagenet"}, "none"),
        ({"decoder": "pspnet_siamese", "decoder_channels": 8}, "follow from its encoder"),
    ],
)
def test_parts_that_do_not_go_together(fields, words):
    with pytest.raises(ConfigError, match=words):
        ModelConfig(**fields)


def test_a_vit_is_wanted_below_dpt():
    with pytest.raises(ConfigError, match="takes a ViT of timm's"):
        build_model(ModelConfig(encoder="resnet18", decoder="dpt_vit"), 3)


def test_dropped_features_train_in_a_pass_of_two_views():
    model = small("deeplabv3plus_dense").train()
    found = model(images(model), FeatureDropout(0.5, torch.Generator()))
    assert found.shape == (4, 5, 64, 96)
    found.square().mean().backward()
    assert all(p.grad is not None for p in model.parameters())
