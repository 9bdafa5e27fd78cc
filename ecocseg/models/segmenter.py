"""Encoder and decoder from segmentation-models-pytorch, with the heads of the method."""

import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ecocseg.config import require, unknown
from ecocseg.errors import ConfigError, UserError
from ecocseg.models.weights import is_file, load_encoder_weights

DECODERS = ("deeplabv3", "deeplabv3plus", "fpn", "linknet", "pan", "pspnet", "segformer", "unet")


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """A network by name."""

    encoder: str = "resnet18"
    """An encoder of segmentation-models-pytorch; "tu-" before the name takes timm's."""
    decoder: str = "deeplabv3plus"
    weights: str = "none"
    """Encoder weights: "none" from scratch, a name that the encoder knows ("imagenet"), or a
    path to a .pth or .safetensors file."""
    head: Literal["linear", "projection"] = "linear"
    """linear: one 1x1 convolution (the paper); projection: 3x3 to 128, BN, ReLU, dropout, 1x1
    (the released code)."""
    decoder_channels: int | None = None
    """Width of the decoder where it has one width; None for the library's."""
    output_stride: Literal[8, 16] | None = None
    """Of deeplabv3 and deeplabv3plus; None for the library's 16 (deeplabv3: 8)."""
    dropout: float = 0.1
    """Before the last convolution."""

    def __post_init__(self) -> None:
        if self.decoder not in DECODERS:
            raise ConfigError(unknown("decoder", "value", self.decoder, DECODERS))
        require(0 <= self.dropout < 1, "dropout", self.dropout, "0 to below 1")
        require(
            self.decoder_channels is None or self.decoder_channels > 0,
            "decoder_channels",
            self.decoder_channels,
            "null or 1 or more",
        )
        require(
            self.output_stride is None or self.decoder.startswith("deeplabv3"),
            "output_stride",
            self.output_stride,
            f"null for decoder {self.decoder}",
        )


class Segmenter(nn.Module):
    """Images in 0..1 to logits of `channels` channels at the size of the images.

    The images are normalised by ImageNet's mean and deviation and padded to a multiple of 32
    inside; logits are upsampled bilinearly, so that bits and classes are decided at full size
    (method.md, section 2).
    """

    encoder: nn.Module
    decoder: nn.Module
    head: nn.Module
    mean: Tensor
    deviation: Tensor

    def __init__(self, network: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.encoder = network.get_submodule("encoder")
        self.decoder = network.get_submodule("decoder")
        self.head = head
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1), False)
        self.register_buffer(
            "deviation", torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1), False
        )

    def forward(self, images: Tensor) -> Tensor:
        """[B,3,H,W] in 0..1 to logits [B,K,H,W]."""
        height, width = images.shape[-2:]
        normal = (images - self.mean) / self.deviation
        bottom, right = -height % 32, -width % 32
        if bottom or right:
            normal = F.pad(normal, (0, right, 0, bottom), mode="replicate")
        logits: Tensor = self.head(self.decoder(self.encoder(normal)))
        padded = (height + bottom, width + right)
        if logits.shape[-2:] != padded:
            logits = F.interpolate(logits, padded, mode="bilinear", align_corners=False)
        return logits[..., :height, :width]


def build_model(config: ModelConfig, channels: int) -> Segmenter:
    """A segmenter with `channels` output channels.

    Raises ConfigError for an unknown encoder or set of weights and for parts that do not go
    together, UserError when the weights cannot be had or do not fit. New parameters are drawn from
    torch's global generator.
    """
    # Imported here: it takes seconds, and configurations are validated without it.
    import segmentation_models_pytorch as smp

    options: dict[str, Any] = {}
    if config.decoder_channels is not None:
        options |= dict.fromkeys(_width_names(config.decoder), config.decoder_channels)
    if config.output_stride is not None:
        options["encoder_output_stride"] = config.output_stride
    try:
        network = smp.create_model(
            config.decoder,
            encoder_name=config.encoder,
            encoder_weights=_library_weights(config),
            classes=channels,
            **options,
        )
    except KeyError as error:
        raise ConfigError(f"model.weights: {error.args[0]}") from error
    except (OSError, RuntimeError, ValueError) as error:
        raise _explained(error, config) from error
    if is_file(config.weights):
        load_encoder_weights(network.encoder, Path(config.weights))
    features = next(m for m in network.segmentation_head if isinstance(m, nn.Conv2d)).in_channels
    return Segmenter(network, build_head(config, features, channels))


def build_head(config: ModelConfig, features: int, channels: int) -> nn.Sequential:
    """The classifier [B,features,h,w] -> [B,channels,h,w] of method.md, section 2."""
    if config.head == "linear":
        return nn.Sequential(nn.Dropout2d(config.dropout), nn.Conv2d(features, channels, 1))
    return nn.Sequential(
        nn.Conv2d(features, 128, 3, padding=1, bias=False),
        nn.BatchNorm2d(128),
        nn.ReLU(inplace=True),
        nn.Dropout2d(config.dropout),
        nn.Conv2d(128, channels, 1),
    )


def parameter_groups(model: Segmenter) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Parameters of the encoder and the others, in a fixed order."""
    encoder = list(model.encoder.parameters())
    inside = {id(p) for p in encoder}
    return encoder, [p for p in model.parameters() if id(p) not in inside]


def _width_names(decoder: str) -> tuple[str, ...]:
    """What the library calls the width of a decoder that has a single one."""
    if decoder in ("unet", "linknet"):
        raise ConfigError(
            f"model.decoder_channels: not for the decoder {decoder!r}, which has one width for "
            "each level; leave it null"
        )
    return {
        "fpn": ("decoder_pyramid_channels", "decoder_segmentation_channels"),
        "pspnet": ("psp_out_channels",),
        "segformer": ("decoder_segmentation_channels",),
    }.get(decoder, ("decoder_channels",))


def _library_weights(config: ModelConfig) -> str | bool | None:
    """What the library is asked for: the name of a set of weights, True for timm's one, or None."""
    import timm
    from segmentation_models_pytorch.encoders import get_encoder_names

    ours = get_encoder_names()
    timms = config.encoder.startswith("tu-")
    # Its "timm-" names are old aliases of "tu-" ones.
    if not timms and config.encoder not in ours and not config.encoder.startswith("timm-"):
        raise _unknown_encoder(config.encoder, ours)
    # What follows the dot is a tag: one of several sets of weights for an architecture.
    if timms and not timm.is_model(config.encoder[3:].partition(".")[0]):
        raise _unknown_encoder(config.encoder, [f"tu-{name}" for name in timm.list_models()])
    if config.weights == "none" or is_file(config.weights):
        return None
    if timms and config.weights != "imagenet":
        raise ConfigError(
            f"model.weights: got {config.weights!r}, allowed for timm's encoders is none, imagenet "
            f"or a file; a tag of timm's goes with the encoder: model.encoder={config.encoder}.TAG"
        )
    return True if timms else config.weights


def _unknown_encoder(name: str, known: list[str]) -> ConfigError:
    near = difflib.get_close_matches(name, known, n=3)
    hint = f"did you mean {' or '.join(map(repr, near))}? " if near else ""
    return ConfigError(
        f"model.encoder: unknown encoder {name!r}; {hint}Allowed are the encoders of "
        'segmentation-models-pytorch, and with "tu-" in front those of timm'
    )


def _explained(error: Exception, config: ModelConfig) -> UserError:
    reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else repr(error)
    asked = config.weights != "none" and not is_file(config.weights)
    # Hugging Face's error for a file that is not at hand offline is an OSError and a ValueError.
    if isinstance(error, OSError) or (asked and isinstance(error, RuntimeError)):
        return UserError(
            f"model.weights: {config.weights!r} for the encoder {config.encoder!r} could not be "
            f"had ({reason}). Connect once so that they are downloaded, or give a local file "
            "(model.weights=/path/to/file.pth), or train from scratch (model.weights=none)"
        )
    return ConfigError(
        f"model: encoder {config.encoder!r}, decoder {config.decoder!r}, decoder_channels "
        f"{config.decoder_channels} and output_stride {config.output_stride} do not go together "
        f"({reason}); change one of them"
    )
