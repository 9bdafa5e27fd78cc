"""Encoders by name, from segmentation-models-pytorch and timm, and what is wrong with a name."""

import difflib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn

from ecocseg.errors import ConfigError, UserError
from ecocseg.models.config import ModelConfig
from ecocseg.models.semi import UNetEncoder, ViTEncoder, multi_grid
from ecocseg.models.weights import is_of_library
from ecocseg.models.xception import XceptionEncoder

LEVELS = 4
"""Maps, at strides 4, 8, 16 and 32, that DAFormer's decoder and HRDA's attention take."""


def library_weights(config: ModelConfig) -> str | bool | None:
    """What the library is asked for: the name of a set of weights, True for timm's one, or None.

    Raises ConfigError for an unknown encoder or set of weights.
    """
    import timm
    from segmentation_models_pytorch.encoders import get_encoder_names

    if config.decoder == "unet_slices":
        return None
    ours = get_encoder_names()
    timms = config.encoder.startswith("tu-")
    # Its "timm-" names are old aliases of "tu-" ones.
    if not timms and config.encoder not in ours and not config.encoder.startswith("timm-"):
        raise _unknown_encoder(config.encoder, ours)
    # What follows the dot is a tag: one of several sets of weights for an architecture.
    if timms and not timm.is_model(config.encoder[3:].partition(".")[0]):
        raise _unknown_encoder(config.encoder, [f"tu-{name}" for name in timm.list_models()])
    if not is_of_library(config.weights):
        return None
    if timms and config.weights != "imagenet":
        raise ConfigError(
            f"model.weights: got {config.weights!r}, allowed for timm's encoders is none, "
            "imagenet, a file or package:NAME; a tag of timm's goes with the encoder: "
            f"model.encoder={config.encoder}.TAG"
        )
    return True if timms else config.weights


def build_encoder(config: ModelConfig, weights: str | bool | None) -> nn.Module:
    """The encoder alone, with the library's `weights` and its decoder's output stride."""
    from segmentation_models_pytorch.encoders import get_encoder

    if config.decoder == "unet_slices":
        return UNetEncoder()
    if config.decoder == "dpt_vit":
        return ViTEncoder(_vit(config, bool(weights)))
    stride = output_stride(config)
    if config.decoder == "deeplabv3plus_dense" and "xception" in config.encoder:
        return _xception(config, stride, bool(weights))
    encoder: nn.Module = get_encoder(config.encoder, weights=weights, output_stride=stride)
    if config.multi_grid:
        multi_grid(encoder)
    return encoder


def output_stride(config: ModelConfig) -> int:
    """Of the encoder's last map."""
    usual = {"deeplabv2": 8, "pspnet_siamese": 8, "deeplabv3plus_dense": 16}.get(config.decoder, 32)
    return config.output_stride or usual


def _xception(config: ModelConfig, stride: int, weights: bool) -> nn.Module:
    """An aligned Xception of timm's at output stride 16; ConfigError for another one or stride."""
    import timm
    from timm.models.xception_aligned import XceptionModule

    name = config.encoder.removeprefix("tu-")
    xception: Any = None
    if config.encoder.startswith("tu-xception"):
        xception = timm.create_model(name, pretrained=weights, num_classes=0)
    if stride != 16 or not isinstance(getattr(xception, "blocks", [None])[0], XceptionModule):
        raise ConfigError(
            f"model.encoder: got {config.encoder!r} with output_stride {stride}; the "
            "decoder 'deeplabv3plus_dense' takes of the Xceptions tu-xception41, tu-xception65 and "
            "tu-xception71 with output_stride 16"
        )
    return XceptionEncoder(xception)


def _vit(config: ModelConfig, weights: bool) -> nn.Module:
    """A ViT of timm's for images of any size; ConfigError for another network."""
    import timm

    name = config.encoder.removeprefix("tu-")
    vit: Any = None
    if config.encoder.startswith("tu-") and "vit" in name:
        vit = timm.create_model(name, pretrained=weights, num_classes=0, dynamic_img_size=True)
    if getattr(vit, "pos_embed", None) is None or not hasattr(vit, "norm_pre"):
        raise ConfigError(
            f"model.encoder: got {config.encoder!r}; the decoder 'dpt_vit' takes a ViT of timm's "
            "with position embeddings, such as tu-vit_small_patch14_dinov2"
        )
    found: nn.Module = vit
    return found


def level_channels(encoder: nn.Module, config: ModelConfig) -> Sequence[int]:
    """Channels of the encoder's last four maps; ConfigError when it has fewer."""
    everything: Any = encoder.out_channels
    channels = list(everything)[-LEVELS:]
    if len(channels) < LEVELS or 0 in channels:
        raise ConfigError(
            f"model.encoder: got {config.encoder!r}, whose maps have {everything} channels; the "
            f"decoder {config.decoder!r} takes four maps at strides 4, 8, 16 and 32, as mit_b5 and "
            "the ResNets have them"
        )
    return channels


@contextmanager
def explained(config: ModelConfig) -> Iterator[None]:
    """Turn what the libraries raise while they build into errors for the user."""
    try:
        yield
    except UserError:
        raise
    except KeyError as error:
        raise ConfigError(f"model.weights: {error.args[0]}") from error
    except (OSError, RuntimeError, ValueError) as error:
        raise _explanation(error, config) from error


def _unknown_encoder(name: str, known: list[str]) -> ConfigError:
    near = difflib.get_close_matches(name, known, n=3)
    hint = f"did you mean {' or '.join(map(repr, near))}? " if near else ""
    return ConfigError(
        f"model.encoder: unknown encoder {name!r}; {hint}Allowed are the encoders of "
        'segmentation-models-pytorch, and with "tu-" in front those of timm'
    )


def _explanation(error: Exception, config: ModelConfig) -> UserError:
    reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else repr(error)
    asked = is_of_library(config.weights)
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
