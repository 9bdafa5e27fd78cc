"""A network by name: encoder and decoder from libraries or our own, and the head of the method."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ecocseg.errors import ConfigError
from ecocseg.models.config import DECODERS, OWN_DECODERS, ModelConfig
from ecocseg.models.decoders import (
    DEFAULT_DILATIONS,
    DEFAULT_WIDTH,
    DAFormerDecoder,
    DilatedSum,
    LastMap,
    ScaleAttention,
    as_classifier,
)
from ecocseg.models.encoders import (
    build_encoder,
    explained,
    level_channels,
    library_weights,
    output_stride,
)
from ecocseg.models.hrda import HRDA
from ecocseg.models.network import Segmenter
from ecocseg.models.packaged import packaged
from ecocseg.models.semi import (
    DenseASPP,
    DPTDecoder,
    GreySegmenter,
    PyramidPooling,
    Siamese,
    UNetDecoder,
    at_stride_4,
)
from ecocseg.models.weights import check_library_weights, is_file, load_encoder_weights

__all__ = ["DECODERS", "ModelConfig", "Segmenter", "build_head", "build_model", "parameter_groups"]


def build_model(config: ModelConfig, channels: int, *, load: bool = True) -> Segmenter:
    """A network with `channels` output channels.

    Without `load` the encoder's weights are neither fetched nor read, but what follows from them
    stays: the mean and deviation that images are normalised by.
    Raises ConfigError for an unknown encoder or set of weights and for parts that do not go
    together, UserError when the weights cannot be had or do not fit. New parameters are drawn from
    torch's global generator.
    """
    of_package = packaged(config.weights)
    if not load:
        config = replace(config, weights="none", weights_sha256=None)
    source = library_weights(config)
    drawn_from = torch.get_rng_state()
    build = _own_parts if config.decoder in OWN_DECODERS else _library_parts
    with explained(config):
        encoder, decoder, features = build(config, channels, source)
        if source is not None:
            with torch.random.fork_rng(devices=[]):
                torch.set_rng_state(drawn_from)
                untrained = build_encoder(config, None)
            name = f"{config.weights} of the library for {config.encoder}"
            check_library_weights(encoder, untrained, name, config.weights_sha256)
    if is_file(config.weights):
        load_encoder_weights(encoder, Path(config.weights), config.weights_sha256)
    elif load and of_package is not None:
        load_encoder_weights(encoder, of_package.path(), config.weights_sha256)
    network = _network(config, channels, encoder, decoder, features)
    if of_package is not None:
        network.set_normalisation(of_package.mean, of_package.deviation)
    return network


def _network(
    config: ModelConfig, channels: int, encoder: nn.Module, decoder: nn.Module, features: int
) -> Segmenter:
    """The parts as one network; `features` are the channels between decoder and head."""
    head = build_head(config, features, channels)
    if config.decoder != "hrda":
        kind = {"pspnet_siamese": Siamese, "unet_slices": GreySegmenter}.get(
            config.decoder, Segmenter
        )
        # As in UniMatch's code: crops of 321, 513 and 801 go through without a border.
        any_size = config.decoder in ("deeplabv3plus_dense", "pspnet_siamese")
        return kind(
            encoder,
            decoder,
            head,
            cell=output_stride(config) if any_size else None,
            align_corners=any_size or config.decoder == "dpt_vit",
        )
    # Both are heads of one class in MIC's code, so that the released head is the attention's too.
    attention = ScaleAttention(
        level_channels(encoder, config), features, build_head(config, features, channels)
    )
    return HRDA(
        encoder,
        decoder,
        head,
        attention,
        crop=config.hr_crop or (512, 512),
        loss_weight=config.hr_loss_weight,
        windows=config.hr_windows,
    )


def build_head(config: ModelConfig, features: int, channels: int) -> nn.Sequential:
    """The classifier [B,features,h,w] -> [B,channels,h,w] of method.md, section 2.

    The linear heads of domain adaptation have mmsegmentation's first weights; UniMatch's and the
    released projection keep torch's.
    """
    if config.decoder == "deeplabv2":
        dilations = config.dilations or DEFAULT_DILATIONS
        return nn.Sequential(
            nn.Dropout2d(config.dropout), DilatedSum(features, channels, dilations)
        )
    if config.head == "linear":
        # UniMatch's U-Net decides from a pixel's neighbours.
        size = 3 if config.decoder == "unet_slices" else 1
        classifier = nn.Conv2d(features, channels, size, padding=size // 2)
        if config.decoder in ("daformer", "hrda"):
            classifier = as_classifier(classifier)
        # UniMatch's PSPNet drops numbers, not channels.
        dropout = nn.Dropout if config.decoder == "pspnet_siamese" else nn.Dropout2d
        return nn.Sequential(dropout(config.dropout), classifier)
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


def _own_parts(
    config: ModelConfig, channels: int, weights: str | bool | None
) -> tuple[nn.Module, nn.Module, int]:
    """Encoder, decoder of `ecocseg.models.decoders` and the channels between decoder and head."""
    encoder = build_encoder(config, weights)
    everything: Any = encoder.out_channels
    if config.decoder == "deeplabv2":
        return encoder, LastMap(), everything[-1]
    if config.decoder == "unet_slices":
        return encoder, UNetDecoder(everything[1:]), everything[1]
    if config.decoder == "pspnet_siamese":
        return encoder, PyramidPooling(everything[-1]), everything[-1] // 4
    if config.decoder == "dpt_vit":
        width = config.decoder_channels or 64
        # As wide as 1/8 to 1/1 of the tokens: 48, 96, 192, 384 of a ViT-S.
        widths = [everything[-1] // share for share in (8, 4, 2, 1)]
        return encoder, DPTDecoder(everything[-1], widths, width), width
    width = config.decoder_channels or DEFAULT_WIDTH
    if config.decoder == "deeplabv3plus_dense":
        return encoder, DenseASPP(at_stride_4(everything), everything[-1], width), width
    return encoder, DAFormerDecoder(level_channels(encoder, config), width), width


def _library_parts(
    config: ModelConfig, channels: int, weights: str | bool | None
) -> tuple[nn.Module, nn.Module, int]:
    """Encoder, decoder of the library and the channels between decoder and head."""
    # Imported here: it takes seconds, and configurations are validated without it.
    import segmentation_models_pytorch as smp

    options: dict[str, Any] = {}
    if config.decoder_channels is not None:
        options |= dict.fromkeys(_width_names(config.decoder), config.decoder_channels)
    if config.output_stride is not None:
        options["encoder_output_stride"] = config.output_stride
    network = smp.create_model(
        config.decoder,
        encoder_name=config.encoder,
        encoder_weights=weights,
        classes=channels,
        **options,
    )
    features = next(m for m in network.segmentation_head if isinstance(m, nn.Conv2d)).in_channels
    return network.encoder, network.decoder, features


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
