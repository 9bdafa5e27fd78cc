"""Decoders of domain adaptation that no library has: DAFormer, DeepLabV2, HRDA's scale attention.

Sources: Hoyer et al., DAFormer (CVPR 2022), lhoyer/DAFormer `decode_heads/daformer_head.py` and
`dlv2_head.py`; Hoyer et al., HRDA (ECCV 2022), lhoyer/MIC `decode_heads/hrda_head.py`.

First weights are those of the published code (mmcv 1.x): convolutions before a batch norm are
Kaiming-normal over the fan-out, linear classifiers normal with deviation 0.01 and bias 0, and the
linear embeddings keep torch's default.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

DEFAULT_WIDTH = 256
DEFAULT_DILATIONS = (6, 12)
"""Of DeepLabV2: the released code of AdaptSegNet and its followers stops after two of four."""
RATES = (1, 6, 12, 18)


class Embedding(nn.Module):
    """Maps [B,C_i,h_i,w_i] to one [B,width * maps,h,w] at the size of the first.

    Each pixel of a map is embedded linearly, then upsampled bilinearly.
    """

    def __init__(self, channels: Sequence[int], width: int) -> None:
        super().__init__()
        # A 1x1 convolution is a linear layer of each pixel, without moving the channels.
        self.layers = nn.ModuleList(nn.Conv2d(count, width, 1) for count in channels)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """The maps side by side."""
        size = maps[0].shape[-2:]
        embedded = [layer(x) for layer, x in zip(self.layers, maps, strict=True)]
        return torch.cat(
            [
                x
                if x.shape[-2:] == size
                else F.interpolate(x, size, mode="bilinear", align_corners=False)
                for x in embedded
            ],
            dim=1,
        )


class DAFormerDecoder(nn.Module):
    """Context-aware fusion of four maps of an encoder into [B,width,H/4,W/4].

    Embeddings of all maps go through parallel depthwise separable convolutions of the `RATES`
    (rate 1: a 1x1 convolution; no image pooling) and a 3x3 convolution.
    """

    def __init__(self, channels: Sequence[int], width: int = DEFAULT_WIDTH) -> None:
        super().__init__()
        self.embedding = Embedding(channels, width)
        features = width * len(channels)
        self.pyramid = nn.ModuleList(
            _kaiming(features, width, 1) if rate == 1 else _separable(features, width, rate)
            for rate in RATES
        )
        self.bottleneck = _kaiming(width * len(RATES), width, 3)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """All maps of the encoder; the last four count."""
        features = self.embedding(maps[-4:])
        fused: Tensor = self.bottleneck(
            torch.cat([branch(features) for branch in self.pyramid], dim=1)
        )
        return fused


class ScaleAttention(nn.Module):
    """Trust in the detail over the context, in 0..1, for each channel and pixel [B,K,H/4,W/4].

    A light DAFormer decoder (embeddings, a 1x1 convolution) on the maps of the context image.
    With ECOC a channel is a bit, so that each bit has its own attention. `head` maps [B,width,h,w]
    to [B,K,h,w].
    """

    def __init__(self, channels: Sequence[int], width: int, head: nn.Module) -> None:
        super().__init__()
        self.embedding = Embedding(channels, width)
        self.fusion = _kaiming(width * len(channels), width, 1)
        self.head = head

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """All maps of the encoder; the last four count."""
        return torch.sigmoid(self.head(self.fusion(self.embedding(maps[-4:]))))


class LastMap(nn.Module):
    """The decoder of networks whose head works on the encoder's last map."""

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """The last of the maps."""
        return maps[-1]


class DilatedSum(nn.Module):
    """DeepLabV2's head: the sum of 3x3 convolutions of several dilations, each to K channels."""

    def __init__(self, features: int, channels: int, dilations: Sequence[int]) -> None:
        super().__init__()
        self.out_channels = channels
        self.branches = nn.ModuleList(
            as_classifier(nn.Conv2d(features, channels, 3, padding=rate, dilation=rate))
            for rate in dilations
        )

    def forward(self, features: Tensor) -> Tensor:
        """[B,features,h,w] to logits [B,K,h,w]."""
        logits: Tensor = self.branches[0](features)
        for branch in self.branches[1:]:
            logits = logits + branch(features)
        return logits


def as_classifier(conv: nn.Conv2d) -> nn.Conv2d:
    """`conv` with a classifier's first weights."""
    nn.init.normal_(conv.weight, std=0.01)
    assert conv.bias is not None
    nn.init.zeros_(conv.bias)
    return conv


def conv_bn_relu(
    features: int, channels: int, size: int, dilation: int = 1, groups: int = 1
) -> nn.Sequential:
    """A convolution that keeps the size of the map, batch normalisation and ReLU.

    First weights are torch's.
    """
    conv = nn.Conv2d(
        features,
        channels,
        size,
        padding=dilation * (size // 2),
        dilation=dilation,
        groups=groups,
        bias=False,
    )
    return nn.Sequential(conv, nn.BatchNorm2d(channels), nn.ReLU(inplace=True))


def _kaiming(
    features: int, channels: int, size: int, dilation: int = 1, groups: int = 1
) -> nn.Sequential:
    """`conv_bn_relu` with mmcv's first weights."""
    block = conv_bn_relu(features, channels, size, dilation, groups)
    conv = block[0]
    assert isinstance(conv, nn.Conv2d)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return block


def _separable(features: int, channels: int, rate: int) -> nn.Sequential:
    return nn.Sequential(
        _kaiming(features, features, 3, dilation=rate, groups=features),
        _kaiming(features, channels, 1),
    )
