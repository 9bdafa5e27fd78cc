"""Encoder weights from a local file."""

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ecocseg.errors import UserError
from ecocseg.files import sha256_file


def is_file(weights: str) -> bool:
    """Whether `weights` names a file rather than a set of weights the library knows."""
    return weights.endswith((".pth", ".pt", ".bin", ".safetensors")) or "/" in weights


def load_encoder_weights(encoder: nn.Module, path: Path) -> str:
    """Load a file's weights into `encoder` and return the file's SHA-256.

    The classifier of the pre-training task may be left over; every parameter of the encoder must
    be found, in its shape. Raises UserError otherwise, naming what is missing.
    """
    state = _read(path)
    wanted = encoder.state_dict()
    found = {name: _entry(state, name) for name in wanted}
    wrong = []
    for name, value in wanted.items():
        entry = found[name]
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
    # strict=False only because the encoders of the library pop the entries of their classifier
    # from what they are given; the names are complete by construction.
    encoder.load_state_dict(
        {name: value if found[name] is None else found[name] for name, value in wanted.items()},
        strict=False,
    )
    return sha256_file(path)


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise UserError(f"model.weights: {path} is not there; give the path of an existing file")
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


def _entry(state: dict[str, Tensor], name: str) -> Tensor | None:
    """The file's tensor for the encoder's `name`.

    Around timm's networks the library puts "model.", and timm writes the stages of some networks
    as "stages_0" where its weight files have "stages.0".
    """
    bare = name.removeprefix("model.")
    for candidate in (name, bare, re.sub(r"^(\w+?)_(\d+)\.", r"\1.\2.", bare)):
        if candidate in state:
            return state[candidate]
    return None
