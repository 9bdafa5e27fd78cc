"""Which network: encoder, decoder and head by name."""

import re
from dataclasses import dataclass
from typing import Literal

from ecocseg.config import require, unknown
from ecocseg.errors import ConfigError
from ecocseg.models.packaged import packaged

OWN_DECODERS = (
    "daformer",
    "deeplabv2",
    "deeplabv3plus_dense",
    "dpt_vit",
    "hrda",
    "pspnet_siamese",
    "unet_slices",
)
"""Those of `ecocseg.models.decoders` and `semi`; the others are segmentation-models-pytorch's."""
DECODERS = (
    "daformer",
    "deeplabv2",
    "deeplabv3",
    "deeplabv3plus",
    "deeplabv3plus_dense",
    "dpt_vit",
    "fpn",
    "hrda",
    "linknet",
    "pan",
    "pspnet",
    "pspnet_siamese",
    "segformer",
    "unet",
    "unet_slices",
)


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """A network by name."""

    encoder: str = "resnet18"
    """An encoder of segmentation-models-pytorch; "tu-" before the name takes timm's."""
    decoder: str = "deeplabv3plus"
    """segmentation-models-pytorch's, or one of our own: daformer, deeplabv2, hrda (domain
    adaptation), deeplabv3plus_dense (UniMatch), dpt_vit (UniMatch V2), pspnet_siamese (pairs of
    images), unet_slices (one channel, its own encoder)."""
    weights: str = "none"
    """Encoder weights: "none" from scratch, a name that the encoder knows ("imagenet"), a path to a
    .pth or .safetensors file, or "package:NAME" for those of `ecocseg.models.packaged`
    ("package:efficientnet-lite0" for tu-tf_efficientnet_lite0), by whose mean and deviation images
    are then normalised."""
    weights_sha256: str | None = None
    """What the weights must be: SHA-256 of the file, or for a library's weights of the loaded
    encoder (both are logged); None for no check. Not looked at without weights."""
    head: Literal["linear", "projection"] = "linear"
    """linear: one 1x1 convolution (what the paper's cost of ECOC, +0.08 GFLOPs, implies);
    projection: 3x3 to 128, BN, ReLU, dropout, 1x1 (the released code, for one-hot too; of hrda's
    attention as well). deeplabv2 is its own head and is linear."""
    decoder_channels: int | None = None
    """Width of the decoder where it has one width; None for the library's (daformer, hrda,
    deeplabv3plus_dense: 256; dpt_vit: 64)."""
    output_stride: Literal[8, 16] | None = None
    """Of the deeplab decoders and pspnet_siamese; None for 8 (deeplabv3plus and its dense form:
    16)."""
    dropout: float = 0.1
    """Before the last convolution."""
    multi_grid: bool = False
    """Dilations 2, 4, 8 in the last blocks of a ResNet below deeplabv3plus_dense (UniMatch)."""
    dilations: tuple[int, ...] | None = None
    """Of the convolutions that deeplabv2 adds up; None for 6 and 12."""
    hr_crop: tuple[int, int] | None = None
    """Height and width in pixels of hrda's detail crop and windows; None for 512x512."""
    hr_loss_weight: float = 0.1
    """Share of hrda's detail crop in the loss; the fused prediction has the rest."""
    hr_windows: int = 18
    """hrda's detail windows at a time: fewer take less memory. The default holds all of two
    1024x1024 images, over which the batch statistics of a network in training mode are taken."""

    def __post_init__(self) -> None:
        if self.decoder not in DECODERS:
            raise ConfigError(unknown("decoder", "value", self.decoder, DECODERS))
        require(0 <= self.dropout < 1, "dropout", self.dropout, "0 to below 1")
        require(
            self.weights_sha256 is None or bool(re.fullmatch("[0-9a-f]{64}", self.weights_sha256)),
            "weights_sha256",
            self.weights_sha256,
            "null or 64 digits of 0-9 and a-f",
        )
        require(
            self.decoder_channels is None or self.decoder_channels > 0,
            "decoder_channels",
            self.decoder_channels,
            "null or 1 or more",
        )
        self._only(
            "output_stride",
            "deeplabv2",
            "deeplabv3",
            "deeplabv3plus",
            "deeplabv3plus_dense",
            "pspnet_siamese",
        )
        require(
            not self.multi_grid
            or (self.decoder == "deeplabv3plus_dense" and "resnet" in self.encoder),
            "multi_grid",
            self.multi_grid,
            "false, but for a ResNet below decoder deeplabv3plus_dense",
        )
        if self.decoder in ("unet_slices", "pspnet_siamese"):
            require(
                self.decoder_channels is None,
                "decoder_channels",
                self.decoder_channels,
                f"null for decoder {self.decoder}, whose widths follow from its encoder",
            )
        if self.decoder == "unet_slices":
            require(
                self.weights == "none" and self.encoder == "unet_slices",
                "encoder",
                f"{self.encoder} with weights {self.weights}",
                "unet_slices with weights none for decoder unet_slices, which has its own encoder",
            )
        source = packaged(self.weights)
        require(
            source is None or self.encoder.partition(".")[0] == source.encoder,
            "encoder",
            self.encoder,
            f"{source and source.encoder} with weights {self.weights}",
        )
        self._only("dilations", "deeplabv2")
        self._only("hr_crop", "hrda")
        if self.decoder == "deeplabv2":
            require(
                self.head == "linear",
                "head",
                self.head,
                "linear for decoder deeplabv2, whose convolutions give the logits themselves",
            )
            require(
                self.decoder_channels is None,
                "decoder_channels",
                self.decoder_channels,
                "null for decoder deeplabv2",
            )
        if self.dilations is not None:
            require(
                bool(self.dilations) and min(self.dilations) > 0,
                "dilations",
                self.dilations,
                "one or more whole numbers above 0",
            )
        if self.hr_crop is not None:
            require(
                min(self.hr_crop) > 0 and all(side % 8 == 0 for side in self.hr_crop),
                "hr_crop",
                self.hr_crop,
                "two multiples of 8 above 0",
            )
        require(0 <= self.hr_loss_weight <= 1, "hr_loss_weight", self.hr_loss_weight, "0 to 1")
        require(self.hr_windows > 0, "hr_windows", self.hr_windows, "1 or more")

    @property
    def image_channels(self) -> int:
        """Channels of the images that the network takes: three of each frame."""
        return 6 if self.decoder == "pspnet_siamese" else 3

    def _only(self, field: str, *decoders: str) -> None:
        value = getattr(self, field)
        require(
            value is None or self.decoder in decoders,
            field,
            value,
            f"null for decoder {self.decoder}",
        )
