"""Training and evaluation mode of networks, not all of whose modules need have the same one."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import nn


def modes(network: nn.Module) -> list[bool]:
    """Whether each of the network's modules, itself first, is in training mode."""
    return [module.training for module in network.modules()]


def set_modes(network: nn.Module, wanted: Sequence[bool]) -> None:
    """Give the modules of a network what `modes` said of it, or of one of the same structure."""
    # Some networks do more than set the flag when their mode changes.
    network.train(wanted[0])
    for module, mode in zip(network.modules(), wanted, strict=True):
        module.training = mode


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Evaluation mode within the block; after it every module has the mode that it had."""
    before = modes(network)
    network.eval()
    try:
        yield
    finally:
        set_modes(network, before)
