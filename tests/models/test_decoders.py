import pytest
import torch
from torch import nn

from ecocseg.engine.seed import seeded
from ecocseg.models.config import ModelConfig
from ecocseg.models.decoders import DAFormerDecoder, DilatedSum, ScaleAttention
from ecocseg.models.segmenter import build_model

CHANNELS, WIDTH = (3, 4, 5, 6), 4


@pytest.fixture(scope="module")
def maps():
    """What an encoder gives of a 72x104 image: the image, stride 2, then 4 to 32."""
    random = torch.Generator().manual_seed(0)
    sizes = [(3, 72, 104), (2, 36, 52), (3, 18, 26), (4, 9, 13), (5, 5, 7), (6, 3, 4)]
    return [torch.randn(2, *size, generator=random, dtype=torch.float64) for size in sizes]


def unsettled(module):
    """`module` in evaluation, with norms that do something."""
    random = torch.Generator().manual_seed(1)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            for value in (part.weight.data, part.bias.data, part.running_mean, part.running_var):
                value.copy_(torch.rand(value.shape, generator=random) + 0.5)
    return module.double().eval()


def embedded(literal, embedding, maps):
    """Linear embeddings of the last four maps at the size of the first of them, side by side."""
    height, width = maps[2].shape[-2:]
    parts = []
    for layer, x in zip(embedding.layers, maps[2:], strict=True):
        tokens = x.flatten(2).transpose(1, 2) @ layer.weight.flatten(1).T + layer.bias
        tokens = tokens.transpose(1, 2).unflatten(2, x.shape[-2:])
        parts.append(literal.bilinear(tokens, height, width))
    return torch.cat(parts, dim=1)


def conv_bn_relu(literal, x, block, dilation=1):
    conv, norm, _ = block
    weight = conv.weight
    if conv.groups > 1:
        # A kernel for each channel is a full kernel that is zero off the diagonal.
        weight = torch.diag_embed(weight[:, 0].permute(1, 2, 0)).permute(2, 3, 0, 1)
    return literal.normalised(literal.convolution(x, weight, dilation), norm).clamp(min=0)


def test_daformer_is_the_published_fusion(literal, maps):
    with seeded(3):
        decoder = unsettled(DAFormerDecoder(CHANNELS, WIDTH))
    fused = embedded(literal, decoder.embedding, maps)
    first, *others = decoder.pyramid
    branches = [conv_bn_relu(literal, fused, first)]
    for (depthwise, pointwise), rate in zip(others, (6, 12, 18), strict=True):
        seen = conv_bn_relu(literal, fused, depthwise, rate)
        branches.append(conv_bn_relu(literal, seen, pointwise))
    expected = conv_bn_relu(literal, torch.cat(branches, dim=1), decoder.bottleneck)
    assert first[0].kernel_size == (1, 1)
    assert decoder.bottleneck[0].kernel_size == (3, 3)
    assert (expected > 0).any()
    torch.testing.assert_close(decoder(maps), expected)


def test_scale_attention_is_a_share_for_each_channel(literal, maps):
    with seeded(4):
        head = nn.Sequential(nn.Dropout2d(0.5), nn.Conv2d(WIDTH, 7, 1))
        attention = unsettled(ScaleAttention(CHANNELS, WIDTH, head))
    fused = conv_bn_relu(literal, embedded(literal, attention.embedding, maps), attention.fusion)
    classifier = attention.head[1]
    logits = torch.einsum("kc,bchw->bkhw", classifier.weight[..., 0, 0], fused)
    logits = logits + classifier.bias.view(1, -1, 1, 1)
    expected = 1 / (1 + torch.exp(-logits))
    assert expected.shape == (2, 7, 18, 26)
    torch.testing.assert_close(attention(maps), expected)


def test_deeplabv2_is_a_sum_of_dilated_convolutions(literal):
    with seeded(5):
        head = DilatedSum(6, 5, (6, 12)).double()
    image = torch.randn(2, 6, 20, 30, dtype=torch.float64)
    for branch in head.branches:
        nn.init.normal_(branch.bias)
    expected = sum(
        literal.convolution(image, branch.weight, rate) + branch.bias.view(1, -1, 1, 1)
        for branch, rate in zip(head.branches, (6, 12), strict=True)
    )
    torch.testing.assert_close(head(image), expected)


def test_deeplabv2_takes_the_last_map_at_stride_8(literal):
    config = ModelConfig(encoder="tu-test_resnet", decoder="deeplabv2", dropout=0, dilations=(2,))
    model = build_model(config, 5).eval()
    image = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        last = model.encoder(model.normalise(image))[-1]
        logits = literal.convolution(last, model.head[-1].branches[0].weight, 2)
        assert last.shape[-2:] == (8, 12)
        torch.testing.assert_close(
            model(image), literal.bilinear(logits, 64, 96), rtol=1e-4, atol=1e-5
        )


def test_the_resnet_of_deeplabv2_is_resnet_v1c_with_contracted_dilation():
    """ResNetV1c, dilations (1, 1, 2, 4), strides (1, 2, 1, 1): what mmsegmentation's makes of it.

    The first block of a dilated stage has the dilation of the stage before.
    """
    from segmentation_models_pytorch.encoders import get_encoder

    from ecocseg.models.blank import Blank

    with Blank():
        encoder = get_encoder("tu-resnet101c", output_stride=8).model
    stem = [m for m in encoder.conv1 if isinstance(m, nn.Conv2d)]
    assert [(c.out_channels, c.stride[0], c.kernel_size[0]) for c in stem] == [
        (32, 2, 3),
        (32, 1, 3),
        (64, 1, 3),
    ]
    stages = [encoder[f"layer{i}"] for i in (1, 2, 3, 4)]
    assert [len(stage) for stage in stages] == [3, 4, 23, 3]
    first = [(s[0].conv2.stride[0], s[0].conv2.dilation[0]) for s in stages]
    assert first == [(1, 1), (2, 1), (1, 1), (1, 2)]
    later = {
        (i, block.conv2.stride[0], block.conv2.dilation[0])
        for i, stage in enumerate(stages)
        for block in stage[1:]
    }
    assert later == {(0, 1, 1), (1, 1, 1), (2, 1, 2), (3, 1, 4)}
    # A plain strided convolution leads around each stage, not an average pooling (ResNetV1d).
    around = [[type(m) for m in s[0].downsample] for s in stages]
    assert around == [[nn.Conv2d, nn.BatchNorm2d]] * 4
