"""Networks of semi-supervised learning that no library has as they were published.

DeepLabV3+ of LiheYoung/UniMatch (`model/semseg/deeplabv3plus.py`: its ASPP is not separable, unlike
segmentation-models-pytorch's), its pyramid pooling for pairs of images
(`more-scenarios/remote-sensing/model/semseg/pspnet.py`) and its U-Net for slices
(`more-scenarios/medical/model/unet.py`), and the DPT head of LiheYoung/UniMatch-V2
(`model/semseg/dpt.py`, `model/util/blocks.py`) on a ViT of timm's.

First weights are torch's default in all of them, as there.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ecocseg.models.decoders import conv_bn_relu
from ecocseg.models.network import Segmenter

RATES = (6, 12, 18)
POOLS = (1, 2, 3, 6)
UNET_WIDTHS = (16, 32, 64, 128, 256)
UNET_DROPOUT = (0.05, 0.1, 0.2, 0.3, 0.5)
MULTI_GRID = (2, 4, 8)
"""Dilations of the last three blocks of a ResNet at output stride 16: grids 2, 2, 4 of UniMatch's
first version, of which the first counts before the stride is replaced. The published configurations
have none."""
OFFSET = 0.1
"""DINOv2's, added to the number of patches against rounding; it moves the positions a little."""


class DenseASPP(nn.Module):
    """DeepLabV3+ with plain convolutions: maps at stride 4 and of the end to [B,width,H/4,W/4]."""

    def __init__(self, low: int, high: int, width: int = 256) -> None:
        super().__init__()
        self.first = conv_bn_relu(high, width, 1)
        self.dilated = nn.ModuleList(conv_bn_relu(high, width, 3, dilation=r) for r in RATES)
        self.pooled = nn.Sequential(nn.AdaptiveAvgPool2d(1), conv_bn_relu(high, width, 1))
        self.project = conv_bn_relu(width * (2 + len(RATES)), width, 1)
        self.reduce = conv_bn_relu(low, 48, 1)
        self.fuse = nn.Sequential(conv_bn_relu(width + 48, width, 3), conv_bn_relu(width, width, 3))

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """The image and the maps of the encoder; the one at stride 4 and the last are looked at."""
        low, high = at_stride_4(maps), maps[-1]
        pooled = _resized(self.pooled(high), high)
        branches = [self.first(high), *(branch(high) for branch in self.dilated), pooled]
        context = _resized(self.project(torch.cat(branches, dim=1)), low)
        fused: Tensor = self.fuse(torch.cat([self.reduce(low), context], dim=1))
        return fused


def at_stride_4(maps: Sequence[Any]) -> Any:
    """Of the image and maps for each halving, or the image and two maps (Xception)."""
    return maps[-min(4, len(maps) - 1)]


class PyramidPooling(nn.Module):
    """PSPNet's head (Zhao et al., 2017) with a 3x3 convolution: the last map to [B,C/4,h,w]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        width = channels // 4
        self.branches = nn.ModuleList(
            nn.Sequential(nn.AdaptiveAvgPool2d(side), conv_bn_relu(channels, width, 1))
            for side in POOLS
        )
        self.fuse = conv_bn_relu(channels + len(POOLS) * width, width, 3)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """The last of the maps."""
        last = maps[-1]
        pooled = [_resized(branch(last), last) for branch in self.branches]
        fused: Tensor = self.fuse(torch.cat([last, *pooled], dim=1))
        return fused


class UNetEncoder(nn.Module):
    """Five levels of two convolutions each, halved by pooling: the image and maps at 1 to 1/16."""

    stride = 16

    def __init__(self, widths: Sequence[int] = UNET_WIDTHS) -> None:
        super().__init__()
        self.out_channels = (1, *widths)
        before = (1, *widths[:-1])
        self.levels = nn.ModuleList(
            _two_convolutions(*each) for each in zip(before, widths, UNET_DROPOUT, strict=True)
        )

    def forward(self, images: Tensor) -> list[Tensor]:
        """[B,1,H,W] to the image and five maps."""
        maps = [images]
        for place, level in enumerate(self.levels):
            maps.append(level(F.max_pool2d(maps[-1], 2) if place else images))
        return maps


class UNetDecoder(nn.Module):
    """From the coarsest map up, each level beside the encoder's: [B,C,H,W].

    A 1x1 convolution and bilinear enlarging: the public code sets `bilinear` to False, but its
    levels do not look at that and keep their default.
    """

    def __init__(self, widths: Sequence[int] = UNET_WIDTHS) -> None:
        super().__init__()
        pairs = list(zip(widths[:0:-1], widths[-2::-1], strict=True))
        self.narrow = nn.ModuleList(nn.Conv2d(a, b, 1) for a, b in pairs)
        self.levels = nn.ModuleList(_two_convolutions(2 * b, b, 0.0) for _, b in pairs)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """The image and five maps of the encoder; the image is not looked at."""
        features = maps[-1]
        for narrow, level, beside in zip(self.narrow, self.levels, maps[-2:0:-1], strict=True):
            features = level(torch.cat([beside, _resized(narrow(features), beside)], dim=1))
        return features


class ViTEncoder(nn.Module):
    """A ViT of timm's: the image and the normalised tokens of four of its blocks as maps."""

    def __init__(self, vit: Any) -> None:
        super().__init__()
        self.vit = vit
        depth = len(vit.blocks)
        self.layers = [(place + 1) * depth // 4 - 1 for place in range(4)]
        self.stride = int(vit.patch_embed.patch_size[0])
        self.out_channels = (3, *[int(vit.embed_dim)] * 4)

    def forward(self, images: Tensor) -> list[Tensor]:
        """[B,3,H,W] to the image and four maps [B,C,H/stride,W/stride]."""
        vit = self.vit
        patches = vit.patch_embed(images)
        size = patches.shape[1:3]
        tokens = vit.norm_pre(vit.pos_drop(self._placed(patches)))
        maps = [images]
        for place, block in enumerate(vit.blocks):
            tokens = block(tokens)
            if place in self.layers:
                seen = vit.norm(tokens)[:, vit.num_prefix_tokens :]
                maps.append(seen.mT.unflatten(2, size).contiguous())
        return maps

    def _placed(self, patches: Tensor) -> Tensor:
        """Patches [B,h,w,C] to tokens with their positions, resized as in DINOv2 (timm smooths)."""
        vit = self.vit
        positions, size = vit.pos_embed, patches.shape[1:3]
        old = vit.patch_embed.grid_size
        others = positions.shape[1] - old[0] * old[1]
        if size != old:
            grid = positions[:, others:].float().mT.unflatten(2, old)
            scale = [(new + OFFSET) / before for new, before in zip(size, old, strict=True)]
            grid = F.interpolate(grid, scale_factor=scale, mode="bicubic").flatten(2).mT
            positions = torch.cat([positions[:, :others], grid.to(positions.dtype)], dim=1)
        extra = [t for t in (vit.cls_token, vit.reg_token) if t is not None]
        tokens = [*(t.expand(len(patches), -1, -1) for t in extra), patches.flatten(1, 2)]
        if others:
            return torch.cat(tokens, dim=1) + positions
        return torch.cat([*tokens[:-1], tokens[-1] + positions], dim=1)


class DPTDecoder(nn.Module):
    """DPT (Ranftl et al., 2021): four maps of a ViT to [B,width,h,w] at 8 times their size."""

    def __init__(self, channels: int, widths: Sequence[int], width: int) -> None:
        super().__init__()
        one, two, _, four = widths
        self.project = nn.ModuleList(nn.Conv2d(channels, each, 1) for each in widths)
        self.resize = nn.ModuleList(
            [
                nn.ConvTranspose2d(one, one, 4, stride=4),
                nn.ConvTranspose2d(two, two, 2, stride=2),
                nn.Identity(),
                nn.Conv2d(four, four, 3, stride=2, padding=1),
            ]
        )
        self.lateral = nn.ModuleList(
            nn.Conv2d(each, width, 3, padding=1, bias=False) for each in widths
        )
        self.fusion = nn.ModuleList(_Fusion(width) for _ in widths)
        self.out = nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.ReLU(inplace=True))

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """The last four maps, of one size."""
        levels = [
            lateral(resize(project(each)))
            for lateral, resize, project, each in zip(
                self.lateral, self.resize, self.project, maps[-4:], strict=True
            )
        ]
        features: Tensor | None = None
        for place in (3, 2, 1, 0):
            size = levels[place - 1].shape[-2:] if place else None
            features = self.fusion[place](levels[place], features, size)
        fused: Tensor = self.out(features)
        return fused


class _Fusion(nn.Module):
    """A level added to what comes from below, refined and enlarged."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.level = _Residual(width)
        self.both = _Residual(width)
        self.out = nn.Conv2d(width, width, 1)

    def forward(self, level: Tensor, below: Tensor | None, size: torch.Size | None) -> Tensor:
        """To `size`, or to twice the size of `level`. The coarsest level is refined once."""
        features = level if below is None else below + self.level(level)
        features = self.both(features)
        target = size or [2 * side for side in level.shape[-2:]]
        features = F.interpolate(features, target, mode="bilinear", align_corners=True)
        fused: Tensor = self.out(features)
        return fused


class _Residual(nn.Module):
    """Two convolutions before which the activation comes."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, features: Tensor) -> Tensor:
        """[B,width,h,w] to its like."""
        found: Tensor = self.second(F.relu(self.first(F.relu(features))))
        return features + found


class Siamese(Segmenter):
    """One encoder for both images of a pair; the decoder sees how far their last maps differ.

    As in the public code each image has its own batch statistics.
    """

    frames = 2

    def normalise(self, images: Tensor) -> Tensor:
        """Each frame of [B,6,H,W] by mean and deviation."""
        mean, deviation = self.mean.repeat(1, 2, 1, 1), self.deviation.repeat(1, 2, 1, 1)
        return (images - mean) / deviation

    def maps(self, images: Tensor) -> list[Tensor]:
        """[B,6,H,W] to the images and the absolute difference of the last maps."""
        before, after = (self.encoder(frame)[-1] for frame in images.chunk(2, dim=1))
        return [images, (before - after).abs()]


class GreySegmenter(Segmenter):
    """A network of one channel, the first of the images' three, in 0..1 as it is."""

    def normalise(self, images: Tensor) -> Tensor:
        """The first channel of [B,3,H,W]."""
        return images[:, :1]


def multi_grid(encoder: nn.Module) -> None:
    """Give the last three blocks of a ResNet at output stride 16 the dilations of `MULTI_GRID`."""
    blocks = list(encoder.get_submodule("model.layer4").children())
    for block, dilation in zip(blocks, MULTI_GRID, strict=True):
        conv: Any = block.conv2
        conv.dilation = conv.padding = (dilation, dilation)


def _two_convolutions(before: int, width: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(before, width, 3, padding=1),
        nn.BatchNorm2d(width),
        nn.LeakyReLU(inplace=True),
        nn.Dropout(dropout),
        nn.Conv2d(width, width, 3, padding=1),
        nn.BatchNorm2d(width),
        nn.LeakyReLU(inplace=True),
    )


def _resized(features: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(features, like.shape[-2:], mode="bilinear", align_corners=True)
