"""Optimiser groups and the learning rate as a function of the step."""

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import nn

from ecocseg.config import require
from ecocseg.models.segmenter import Segmenter, parameter_groups


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """Optimiser and learning rate schedule."""

    name: Literal["adamw", "sgd"] = "adamw"
    lr: float = 6e-5
    """Peak learning rate of the encoder."""
    lr_batch: int | None = None
    """Labelled images a step that `lr` is given for: a run with others has its rate in proportion.
    None takes `lr` as it is."""
    head_lr_factor: float = 10.0
    """Learning rate of decoder and head over that of the encoder."""
    weight_decay: float = 0.01
    undecayed: Literal["vectors", "layer_norms", "nothing"] = "vectors"
    """What weight decay leaves out: vectors (norms, biases and position embeddings), layer_norms
    (and position embeddings) or nothing (the published SSL recipes). DAFormer's and MIC's code
    leaves out what is called "norm" outside the head: a MiT's LayerNorms, no BatchNorm."""
    betas: tuple[float, float] = (0.9, 0.999)
    momentum: float = 0.9
    warmup_steps: int = 0
    """Linear from `warmup_ratio` of the rate."""
    warmup_ratio: float = 1e-6
    power: float = 1.0
    """Of the polynomial decay to 0: 1 is linear, 0 keeps the rate."""

    def __post_init__(self) -> None:
        require(self.lr > 0, "lr", self.lr, "above 0")
        require(
            self.lr_batch is None or self.lr_batch > 0, "lr_batch", self.lr_batch, "null, 1 or more"
        )
        require(self.head_lr_factor > 0, "head_lr_factor", self.head_lr_factor, "above 0")
        require(self.weight_decay >= 0, "weight_decay", self.weight_decay, "0 or more")
        require(all(0 <= b < 1 for b in self.betas), "betas", self.betas, "two numbers in 0..1")
        require(0 <= self.momentum < 1, "momentum", self.momentum, "0 to below 1")
        require(self.warmup_steps >= 0, "warmup_steps", self.warmup_steps, "0 or more")
        require(0 <= self.warmup_ratio <= 1, "warmup_ratio", self.warmup_ratio, "0 to 1")
        require(self.power >= 0, "power", self.power, "0 or more")

    def for_batch(self, labelled: int) -> "OptimConfig":
        """With the rate of a run that sees `labelled` labelled images a step, all GPUs together."""
        if self.lr_batch is None:
            return self
        return replace(self, lr=self.lr * labelled / self.lr_batch, lr_batch=None)


def build_optimizer(config: OptimConfig, model: Segmenter) -> torch.optim.Optimizer:
    """The optimiser, one group for each of {encoder, rest} x {decayed, not decayed}.

    Each group carries `scale`: its learning rate over the encoder's.
    """
    undecayed = {id(p) for p in _undecayed(model, config.undecayed)}
    groups = []
    for parameters, scale in zip(
        parameter_groups(model), (1.0, config.head_lr_factor), strict=True
    ):
        for decay in (True, False):
            members = [p for p in parameters if (id(p) not in undecayed) == decay]
            if members:
                groups.append(
                    {
                        "params": members,
                        "scale": scale,
                        "weight_decay": config.weight_decay if decay else 0.0,
                    }
                )
    if config.name == "adamw":
        return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas)
    return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum)


def learning_rate(config: OptimConfig, step: int, steps: int) -> float:
    """Learning rate of the encoder at 0-based `step` of `steps`.

    Polynomial decay (1 - step / steps) ** power; in the warm-up that value times a factor that
    grows linearly from `warmup_ratio`, as in mmsegmentation.
    """
    rate = config.lr * (1 - step / steps) ** config.power
    if step < config.warmup_steps:
        rate *= 1 - (1 - step / config.warmup_steps) * (1 - config.warmup_ratio)
    return rate


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every group `rate` times its scale."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["scale"]


def _undecayed(model: nn.Module, which: str) -> list[nn.Parameter]:
    if which == "nothing":
        return []
    layer_norms = {
        id(parameter)
        for module in model.modules()
        if isinstance(module, nn.LayerNorm)
        for parameter in module.parameters(recurse=False)
    }
    return [
        parameter
        for name, parameter in model.named_parameters()
        if id(parameter) in layer_norms
        or "pos_embed" in name
        or "absolute_pos" in name
        or (which == "vectors" and parameter.ndim <= 1)
    ]
