"""Which images a step sees, as a pure function of the step."""

import torch

from ecocseg.config import require
from ecocseg.engine.seed import generator


class EpochSampler:
    """Reshuffled passes over `length` items, cut into batches; batches may span two passes.

    Every pass holds each item once. The order of a pass depends on the seed and its number only,
    so `indices(step)` needs no history: that is the whole sampler state of a checkpoint.
    """

    def __init__(self, length: int, batch_size: int, seed: int) -> None:
        require(length > 0, "length", length, "1 or more images")
        require(batch_size > 0, "batch_size", batch_size, "1 or more")
        self.length, self.batch_size, self.seed = length, batch_size, seed
        self._pass_number = -1
        self._order: list[int] = []

    def indices(self, step: int) -> list[int]:
        """Indices of the batch of 0-based `step`."""
        start = step * self.batch_size
        return [self._item(position) for position in range(start, start + self.batch_size)]

    def _item(self, position: int) -> int:
        number, place = divmod(position, self.length)
        if number != self._pass_number:
            order = torch.randperm(self.length, generator=generator(self.seed, "pass", number))
            self._order, self._pass_number = order.tolist(), number
        return self._order[place]
