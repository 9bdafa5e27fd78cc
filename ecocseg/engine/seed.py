"""Randomness as a pure function of (run seed, stream, step).

No generator lives longer than one step or one sample, so a run that resumes at step t draws what
an uninterrupted run draws there, whatever was prefetched and however many loader workers there
are.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def derive(seed: int, *names: str | int) -> int:
    """A 63-bit seed for the stream `names` of a run; distinct names give independent seeds."""
    text = "/".join([str(seed), *map(str, names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *names: str | int) -> torch.Generator:
    """A CPU generator seeded with `derive(seed, *names)`."""
    return torch.Generator().manual_seed(derive(seed, *names))


@contextmanager
def seeded(seed: int, *names: str | int, device: torch.device | None = None) -> Iterator[None]:
    """Seed torch's global generators inside the block, for code that takes no generator.

    That of the CPU and, where it is a GPU, that of `device`; both have their states of before the
    block after it, and no other one is touched.
    """
    gpu = device if device is not None and device.type == "cuda" else None
    value = derive(seed, *names)
    with torch.random.fork_rng([] if gpu is None else [gpu]):
        torch.default_generator.manual_seed(value)
        if gpu is not None:
            with torch.cuda.device(gpu):
                torch.cuda.manual_seed(value)
        yield
