import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from torch import nn

from ecocseg.config import from_mapping
from ecocseg.engine.seed import seeded
from ecocseg.errors import ConfigError
from ecocseg.models.config import DECODERS, ModelConfig
from ecocseg.models.segmenter import build_model

FILES = sorted((Path(__file__).parents[2] / "pipeline" / "conf" / "model").glob("*.yaml"))
CELLS = [
    (decoder, head)
    for decoder in DECODERS
    for head in ("linear", "projection")
    if (decoder, head) != ("deeplabv2", "projection")
]


ENCODERS = {"dpt_vit": "tu-test_vit", "unet_slices": "unet_slices"}
"""Of the decoders that do not take any encoder."""


def network(decoder, head="linear"):
    wide = ("daformer", "hrda", "deeplabv3plus_dense", "dpt_vit")
    fields = {"decoder_channels": 32} if decoder in wide else {}
    if decoder == "hrda":
        fields["hr_crop"] = (48, 48)
    encoder = ENCODERS.get(decoder, "tu-test_resnet")
    config = ModelConfig(encoder=encoder, decoder=decoder, head=head, **fields)
    with seeded(1):
        return build_model(config, 7)


@pytest.mark.parametrize(("decoder", "head"), CELLS)
def test_contract(decoder, head):
    """What methods rely on: shapes, shares, features, gradients, copies, names, precision."""
    model = network(decoder, head)
    names = list(model.state_dict())
    assert not {"mean", "deviation"} & set(names)
    assert {name.partition(".")[0] for name in names} <= {
        "encoder",
        "decoder",
        "head",
        "attention",
    }
    # Not divisible by 32; PAN's attention wants at least four cells of stride 32.
    height, width = 101, 130
    channels = 3 * model.frames
    images = torch.rand(2, channels, height, width, generator=torch.Generator().manual_seed(2))
    outputs = model.train().outputs(images, torch.Generator().manual_seed(3))
    assert sum(h.weight for h in outputs.heads) == pytest.approx(1)
    for part in outputs.heads:
        rows, columns = part.rows, part.columns
        assert 0 <= rows.start < rows.stop <= height
        assert 0 <= columns.start < columns.stop <= width
        inside = (rows.stop - rows.start, columns.stop - columns.start)
        assert part.logits.shape == (2, 7, *inside)
    multiple = 64 if decoder == "hrda" else model.multiple
    padded = [side + -side % multiple for side in (height, width)]
    cells = [-(-side // outputs.stride) for side in padded]
    assert list(outputs.features.shape[-2:]) == cells
    if model.multiple > 1:
        assert [outputs.stride * side for side in cells] == padded
    whole = outputs.heads[0]
    assert (whole.rows, whole.columns) == (slice(0, height), slice(0, width))
    loss = sum(h.weight * h.logits.square().mean() for h in outputs.heads)
    (loss + outputs.features.square().mean()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.head.parameters())
    first = next(model.encoder.parameters())
    assert first.grad is not None
    assert first.grad.abs().sum() > 0

    model.eval()
    twin = copy.deepcopy(model).requires_grad_(False)
    assert list(twin.state_dict()) == names
    with torch.no_grad():
        logits = model(images)
        assert logits.shape == (2, 7, height, width)
        assert torch.equal(twin(images), logits)
        same = model.outputs(images, torch.Generator().manual_seed(3))
        assert torch.equal(model.features(images), same.features)
        if len(same.heads) == 1:
            assert torch.equal(same.heads[0].logits, logits)
        with torch.autocast("cpu", torch.bfloat16):
            rough = model(images)
            rough_heads = model.outputs(images, torch.Generator().manual_seed(3)).heads
    spread = logits.std()
    assert (rough - logits).abs().max() < 0.5 * spread
    for one, other in zip(rough_heads, same.heads, strict=True):
        assert (one.logits - other.logits).abs().max() < 0.5 * spread


@pytest.mark.parametrize("decoder", ["daformer", "deeplabv2", "hrda"])
def test_training_mode_predicts_too(decoder):
    """The teacher of domain adaptation normalises by its own batches."""
    model = network(decoder).train()
    images = torch.rand(2, 3, 96, 192)
    with torch.no_grad():
        assert model(images).shape == (2, 7, 96, 192)


@pytest.mark.parametrize("decoder", ["daformer", "hrda"])
def test_mit_with_the_decoders_of_domain_adaptation(decoder):
    model = build_model(ModelConfig(encoder="mit_b0", decoder=decoder, decoder_channels=16), 7)
    with torch.no_grad():
        assert model.eval()(torch.rand(1, 3, 64, 96)).shape == (1, 7, 64, 96)
        assert model.features(torch.rand(1, 3, 512, 512)).shape[1] == 256


@pytest.mark.parametrize("decoder", ["daformer", "deeplabv2", "hrda"])
def test_the_seed_decides_the_first_weights(decoder):
    first, second = network(decoder).state_dict(), network(decoder).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_files_name_networks(path):
    config = from_mapping(ModelConfig, yaml.safe_load(path.read_text()), "model")
    if path.stem.startswith("small"):
        assert config.weights == "none"
        model = build_model(config, 19)
        assert sum(p.numel() for p in model.parameters()) < 2e6
    elif path.stem.startswith("lite0"):
        assert config.weights == "package:efficientnet-lite0"
    else:
        # Nobody has weights for the U-Net.
        assert config.weights == ("none" if path.stem == "unet_acdc" else "imagenet")


def test_the_files_are_the_published_networks():
    found = {
        path.stem: from_mapping(ModelConfig, yaml.safe_load(path.read_text()), "model")
        for path in FILES
    }
    daformer = found["daformer_mitb5"]
    assert replace(daformer, decoder="hrda", hr_crop=(512, 512)) == found["hrda_mitb5"]
    assert (daformer.encoder, daformer.decoder_channels, daformer.dropout) == ("mit_b5", 256, 0.1)
    deeplab = found["deeplabv2_resnet101"]
    assert (deeplab.output_stride, deeplab.dilations, deeplab.dropout) == (8, (6, 12), 0)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"decoder": "daformr"}, "model.decoder: unknown value 'daformr'; did you mean 'daformer'"),
        (
            {"decoder": "deeplabv2", "head": "projection"},
            "model.head: got 'projection', allowed is linear for decoder deeplabv2",
        ),
        ({"decoder": "deeplabv2", "decoder_channels": 64}, "model.decoder_channels: got 64"),
        ({"decoder": "deeplabv2", "dilations": []}, "model.dilations: got ()"),
        ({"decoder": "deeplabv2", "dilations": [6, 0]}, "model.dilations: got (6, 0)"),
        ({"decoder": "daformer", "dilations": [6]}, "allowed is null for decoder daformer"),
        (
            {"decoder": "daformer", "hr_crop": [64, 64]},
            "model.hr_crop: got (64, 64)",
        ),
        ({"decoder": "hrda", "hr_crop": [64, 60]}, "allowed is two multiples of 8 above 0"),
        ({"decoder": "hrda", "hr_crop": [64]}, "expected a list of 2 values"),
        ({"decoder": "hrda", "output_stride": 8}, "model.output_stride: got 8"),
        ({"decoder": "hrda", "hr_loss_weight": 1.5}, "model.hr_loss_weight: got 1.5"),
        ({"decoder": "hrda", "hr_windows": 0}, "model.hr_windows: got 0"),
        ({"weights_sha256": "abc"}, "model.weights_sha256: got 'abc', allowed is null or 64"),
    ],
)
def test_values_out_of_range(values, words):
    with pytest.raises(ConfigError) as caught:
        from_mapping(ModelConfig, values, "model")
    assert words in str(caught.value)


def test_an_encoder_without_four_maps_is_named():
    config = ModelConfig(encoder="tu-convnextv2_atto", decoder="daformer")
    assert isinstance(build_model(config, 3).decoder, nn.Module)
    for name in ("tu-vit_tiny_patch16_224", "mobileone_s0_nope"):
        with pytest.raises(ConfigError, match="model"):
            build_model(replace(config, encoder=name), 3)
