"""Encoder and decoder from segmentation-models-pytorch, with the heads of the method."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ecocseg.config import require, unknown
from ecocseg.errors import ConfigError, UserError
from ecocseg.files import sha256_file

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

    mean: Tensor
    deviation: Tensor

    def __init__(self, network: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.encoder, self.decoder, self.head = network.encoder, network.decoder, head
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

    Raises ConfigError for an unknown encoder, UserError when the weights cannot be had or do not
    fit. New parameters are drawn from torch's global generator.
    """
    # Imported here: it takes seconds, and configurations are validated without it.
    import segmentation_models_pytorch as smp

    options: dict[str, Any] = {}
    if config.decoder_channels is not None:
        options[_width_name(config.decoder)] = config.decoder_channels
    if config.output_stride is not None:
        options["encoder_output_stride"] = config.output_stride
    named = config.weights if config.weights != "none" and not is_file(config.weights) else None
    try:
        network = smp.create_model(
            config.decoder,
            encoder_name=config.encoder,
            encoder_weights=named,
            classes=channels,
            **options,
        )
    except KeyError as error:
        raise ConfigError(f"model.encoder: {error.args[0]}") from error
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"model.weights: {config.weights!r} for the encoder {config.encoder!r} could not be "
            f"had ({_first_line(error)}). Connect once so that they are downloaded, or give a "
            "local file (model.weights=/path/to/file.pth), or train from scratch "
            "(model.weights=none)"
        ) from error
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


def is_file(weights: str) -> bool:
    """Whether `weights` names a file rather than a set of weights the library knows."""
    return weights.endswith((".pth", ".pt", ".bin", ".safetensors")) or "/" in weights


def load_encoder_weights(encoder: nn.Module, path: Path) -> str:
    """Load a file's weights into `encoder` and return the file's SHA-256.

    The classifier of the pre-training task may be left over; every parameter of the encoder must
    be found, in its shape. Raises UserError otherwise, naming what is missing.
    """
    if not path.is_file():
        raise UserError(f"model.weights: {path} is not there; give the path of an existing file")
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        state = load_file(path)
    else:
        state = torch.load(path, map_location="cpu", weights_only=True)
    for wrapper in ("state_dict", "model"):
        if isinstance(state.get(wrapper), dict):
            state = state[wrapper]
    wanted = encoder.state_dict()
    wrong = [
        f"{name}: shape {tuple(state[name].shape)} instead of {tuple(value.shape)}"
        if name in state
        else f"{name}: missing"
        for name, value in wanted.items()
        if not name.endswith("num_batches_tracked")
        and (name not in state or state[name].shape != value.shape)
    ]
    if wrong:
        raise UserError(
            f"model.weights: {path} does not fit the encoder: {len(wrong)} of {len(wanted)} "
            f"entries do not match, the first is {wrong[0]!r}. Choose the encoder that the file "
            "was made for, or another file"
        )
    # Given whole rather than with strict=False: the encoders of the library drop their classifier
    # by popping its entries, and nothing else may be left out.
    encoder.load_state_dict({k: state.get(k, v) for k, v in wanted.items()}, strict=False)
    return sha256_file(path)


def parameter_groups(model: Segmenter) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Parameters of the encoder and the others, in a fixed order."""
    encoder = list(model.encoder.parameters())
    inside = {id(p) for p in encoder}
    return encoder, [p for p in model.parameters() if id(p) not in inside]


def _width_name(decoder: str) -> str:
    names = {"fpn": "decoder_segmentation_channels", "pspnet": "psp_out_channels"}
    if decoder in ("unet", "linknet"):
        raise ConfigError(
            f"model.decoder_channels: not for the decoder {decoder!r}, which has one width for "
            "each level; leave it null"
        )
    if decoder == "segformer":
        return "decoder_segmentation_channels"
    return names.get(decoder, "decoder_channels")


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else repr(error)
