import pytest
import torch
from torch import nn

from ecocseg.models.config import ModelConfig
from ecocseg.models.cost import network_cost
from ecocseg.models.segmenter import build_model


@pytest.mark.parametrize(("channels", "published"), [(19, 116.64), (40, 116.72)])
def test_daformer_costs_what_table_15_says(channels, published):
    cost = network_cost(
        ModelConfig(encoder="mit_b5", decoder="daformer", weights="imagenet"), channels, (512, 512)
    )
    assert f"{cost.macs / 1e9:.2f}" == str(published)
    # SegFormer's Table 1: 81.4 million in the encoder. Above it, by hand: embeddings, the pyramid
    # (pointwise 1024 -> 256 four times, depthwise 9 x 1024 three times), the bottleneck, norms, and
    # the classifier.
    embeddings = 256 * (64 + 128 + 320 + 512 + 4)
    pyramid = 4 * 1024 * 256 + 3 * 9 * 1024
    bottleneck = 9 * 1024 * 256
    norms = 2 * (4 * 256 + 3 * 1024 + 256)
    decoder = embeddings + pyramid + bottleneck + norms + channels * 257
    assert (cost.parameters - decoder) / 1e6 == pytest.approx(81.4, abs=0.05)


def test_the_released_head_costs_its_two_convolutions_more():
    """On 128x128 pixels 3x3 from 256 to 128, norm and 1x1 to K, instead of 1x1 from 256 to K."""
    fields = {"encoder": "mit_b0", "decoder": "daformer"}
    linear, projection = (
        network_cost(ModelConfig(head=head, **fields), 19, (512, 512))
        for head in ("linear", "projection")
    )
    more = 9 * 256 * 128 + 4 * 128 + 128 * 19 - 256 * 19
    assert projection.macs - linear.macs == 128 * 128 * more


def test_the_rule_by_hand():
    """Operations of a small network, layer by layer from the shapes of its parameters."""
    config = ModelConfig(encoder="tu-test_resnet", decoder="deeplabv2", dropout=0)
    cost = network_cost(config, 7, (64, 96))
    model = build_model(config, 7).eval()
    assert cost.parameters == sum(p.numel() for p in model.parameters())
    total = 0
    outputs = {}
    for module in model.modules():
        module.register_forward_hook(lambda m, _, output: outputs.__setitem__(m, output))
    with torch.no_grad():
        model(torch.rand(1, 3, 64, 96))
    for module, output in outputs.items():
        pixels = output[0, 0].numel() if isinstance(output, torch.Tensor) else 0
        if isinstance(module, nn.Conv2d):
            total += pixels * module.weight.numel()
        elif isinstance(module, nn.BatchNorm2d):
            total += 4 * pixels * module.num_features
    assert cost.macs == total


def test_hrda_costs_a_context_and_its_windows():
    """At twice the crop: the context, once the crop's area, and 3 x 3 windows of that area."""
    fields = {"encoder": "tu-test_resnet", "decoder_channels": 32}
    single = network_cost(ModelConfig(decoder="daformer", **fields), 9, (64, 64))
    both = network_cost(ModelConfig(decoder="hrda", hr_crop=(64, 64), **fields), 9, (128, 128))
    # The attention: embeddings of the four maps, a fusion 128 -> 32 with its norm, a classifier.
    cells = [256 * 32, 64 * 48, 16 * 192, 4 * 96]
    attention = 32 * sum(cells) + 256 * (128 * 32 + 4 * 32 + 32 * 9)
    assert both.macs == 10 * single.macs + attention
