"""Encoder weights: from a file, and the proof that a library's were loaded."""

import hashlib
import logging
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ecocseg.errors import UserError
from ecocseg.files import sha256_file
from ecocseg.models.packaged import PREFIX

log = logging.getLogger(__name__)

CLASSIFIERS = (
    *("head.", "fc.", "classifier.", "last_linear."),
    *("_conv_head.", "_bn1.", "_fc."),
)
"""What the classifier of the pre-training task is called; the encoder has none."""
_LITE0_DEPTHS = (1, 2, 2, 3, 3, 4, 1)


def is_file(weights: str) -> bool:
    """Whether `weights` is the path of a file."""
    if weights.startswith(PREFIX):
        return False
    return weights.endswith((".pth", ".pt", ".bin", ".safetensors")) or "/" in weights


def is_of_library(weights: str) -> bool:
    """Whether `weights` is a name that a library has to know."""
    return weights != "none" and not weights.startswith(PREFIX) and not is_file(weights)


def load_encoder_weights(encoder: nn.Module, path: Path, sha256: str | None = None) -> str:
    """Load a file's weights into `encoder` and return the file's SHA-256.

    The classifier of the pre-training task may be left over, and other left-over entries are named
    in the log; every parameter of the encoder must be found, in its shape. Raises UserError
    otherwise, naming what is missing, and when the file's checksum is not `sha256`.
    """
    if not path.is_file():
        raise UserError(f"model.weights: {path} is not there; give the path of an existing file")
    checksum = sha256_file(path)
    if sha256 is not None and checksum != sha256:
        raise UserError(
            f"model.weights_sha256: {path} has {checksum} instead of {sha256}; get the file that "
            "the checksum belongs to, or correct the checksum"
        )
    state = _read(path)
    wanted = encoder.state_dict()
    names = {name: _name_in_file(state, name) for name in wanted}
    found = {name: state[entry] for name, entry in names.items() if entry is not None}
    wrong = []
    for name, value in wanted.items():
        entry = found.get(name)
        if entry is None and not name.endswith("num_batches_tracked"):
            wrong.append(f"{name}: missing")
        elif entry is not None and entry.shape != value.shape:
            wrong.append(f"{name}: shape {tuple(entry.shape)} instead of {tuple(value.shape)}")
    if wrong:
        raise UserError(
            f"model.weights: {path} does not fit the encoder: {len(wrong)} of {len(wanted)} "
            f"entries do not match, the first is {wrong[0]!r}. Choose the encoder that the file "
            "was made for, or another file"
        )
    # Not the encoder's own method: those of the library take other arguments and rename entries.
    nn.Module.load_state_dict(encoder, {**wanted, **found})
    log.info(
        "encoder weights: %s, SHA-256 %s, %d of %d entries of the encoder found",
        path,
        checksum,
        len(found),
        len(wanted),
    )
    used = set(names.values())
    left = [name for name in state if name not in used and not name.startswith(CLASSIFIERS)]
    if left:
        log.warning(
            "encoder weights: %d entries of %s have no place in the encoder: %s",
            len(left),
            path,
            ", ".join(left[:5]) + (", ..." if len(left) > 5 else ""),
        )
    return checksum


def check_library_weights(
    encoder: nn.Module, untrained: nn.Module, name: str, sha256: str | None = None
) -> str:
    """Make sure that a library did load weights into `encoder`; return their SHA-256.

    `untrained` is the same encoder with first weights drawn from the same state of the random
    generator, so that a tensor that was not loaded is equal in both. Tensors of one dimension are
    left out: a loaded bias may well be 0. `name` is that of the weights, for messages. Raises
    UserError when some were not loaded or the checksum is not `sha256`.
    """
    first = untrained.state_dict()
    weights = {key: value for key, value in encoder.state_dict().items() if value.ndim > 1}
    missed = [key for key, value in weights.items() if torch.equal(value, first[key])]
    if missed:
        raise UserError(
            f"model.weights: {name} left {len(missed)} of {len(weights)} weight tensors as they "
            f"were, the first is {missed[0]!r}; give a local file (model.weights=/path/to/file.pth)"
        )
    checksum = state_sha256(encoder)
    if sha256 is not None and checksum != sha256:
        raise UserError(
            f"model.weights_sha256: {name} give an encoder with {checksum} instead of {sha256}; "
            "the library's file has changed: correct the checksum, or give a local file"
        )
    log.info(
        "encoder weights: %s, SHA-256 of the encoder %s, %d of %d weight tensors loaded",
        name,
        checksum,
        len(weights),
        len(weights),
    )
    return checksum


def state_sha256(module: nn.Module) -> str:
    """SHA-256 of names, types, shapes and values of a module's parameters and buffers."""
    total = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        total.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        total.update(value.detach().cpu().contiguous().numpy().tobytes())
    return total.hexdigest()


def _read(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state: Any = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    # Damaged files make the two readers raise nearly anything.
    except Exception as error:
        raise UserError(
            f"model.weights: {path} cannot be read as weights ({type(error).__name__}: "
            f"{str(error).strip()[:200]}); download it again, or save the state dict alone"
        ) from error
    for wrapper in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(wrapper), dict):
            state = state[wrapper]
    if not isinstance(state, dict):
        raise UserError(
            f"model.weights: {path} holds a {type(state).__name__}, expected is a state dict: "
            "names and tensors"
        )
    return {name: value for name, value in state.items() if isinstance(value, Tensor)}


def _name_in_file(state: dict[str, Tensor], name: str) -> str | None:
    """What the file calls the encoder's `name`.

    Around timm's networks the library puts "model." (we around a ViT "vit."), and timm writes the
    stages of some networks as "stages_0" where its weight files have "stages.0". mmsegmentation's
    ResNetV1c calls the three convolutions of the stem and their norms "stem" as a whole, timm
    "conv1" and, after the last convolution, "bn1". UniMatch's Xception and the port of
    EfficientNet-Lite0 have their own names.
    """
    bare = name.removeprefix("model.").removeprefix("vit.")
    candidates = [name, bare, re.sub(r"^(\w+?)_(\d+)\.", r"\1.\2.", bare)]
    if "stem.0.weight" in state:
        candidates += [re.sub(r"^conv1\.", "stem.", bare), re.sub(r"^bn1\.", "stem.7.", bare)]
    if "block1.sepconv1.depthwise.weight" in state:
        candidates.append(_name_in_xception(bare))
    if "_blocks.0._depthwise_conv.weight" in state:
        candidates.append(_name_in_lite0(bare))
    return next((candidate for candidate in candidates if candidate in state), None)


def _name_in_xception(name: str) -> str:
    """What UniMatch's Xception calls an entry of timm's: the last block is conv3 to conv5 there."""
    parts = name.split(".")
    if parts[0] == "stem":
        number = int(parts[1]) + 1
        return f"{'conv' if parts[2] == 'conv' else 'bn'}{number}.{parts[-1]}"
    block = f"block{int(parts[1]) + 1}"
    if parts[2] == "shortcut":
        return f"{block}.{'skip' if parts[3] == 'conv' else 'skipbn'}.{parts[-1]}"
    place = int(parts[3].removeprefix("conv"))
    layer = {"conv_dw": "depthwise", "bn_dw": "bn1", "conv_pw": "pointwise", "bn_pw": "bn2"}
    where = f"conv{place + 2}" if block == "block21" else f"{block}.sepconv{place}"
    return f"{where}.{layer[parts[4]]}.{parts[-1]}"


def _name_in_lite0(name: str) -> str:
    """What the port of EfficientNet-Lite0 calls an entry of timm's: blocks are counted through."""
    parts = name.split(".")
    if parts[0] != "blocks":
        return "_bn0." + parts[-1] if parts[0] == "bn1" else f"_{name}"
    stage, place = int(parts[1]), int(parts[2])
    names = ["_depthwise_conv", "_project_conv", "_bn1", "_bn2"]
    layers = ["conv_dw", "conv_pw", "bn1", "bn2"]
    # The first block alone widens nothing.
    if stage > 0:
        names = ["_expand_conv", "_depthwise_conv", "_project_conv", "_bn0", "_bn1", "_bn2"]
        layers = ["conv_pw", "conv_dw", "conv_pwl", "bn1", "bn2", "bn3"]
    layer = dict(zip(layers, names, strict=True)).get(parts[3], parts[3])
    return f"_blocks.{sum(_LITE0_DEPTHS[:stage]) + place}.{layer}.{parts[-1]}"
