"""Several processes compute a run as one would.

The rule: `size` processes give what one process gives for the same batch, up to rounding. Process
`rank` of them has every `size`-th image of the batch, from number `rank` on. So whatever samples
are put together in one pass, number j of a process is number `rank + size * j` of what one process
has there; every random draw is made for the whole batch in each of them, from equal generators,
and each takes its own (`per_image`). Sums that run over the batch (valid pixels, batch statistics)
are taken over all processes, and gradients are averaged. A single process pays for none of it.
"""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch import distributed as dist

from ecocseg.engine.seed import derive
from ecocseg.errors import ConfigError, LostProcess

T = TypeVar("T")
_LOST_SIGNS = ("onnection", "imed out", "imeout", "remote process exited", "was aborted")
"""In the words of gloo and NCCL for another process that does not answer."""
NEW_FILE_S = 60.0
"""How long a file that another machine has made may stay unseen on a network disk."""
_BUCKET = 1 << 23
"""Numbers that are sent at a time: enough to be fast, few enough to be held twice."""


class Group:
    """The processes that compute a run; this class is the group of a single one."""

    rank = 0
    size = 1
    device = torch.device("cpu")
    """Where what is sent lies."""

    @property
    def first(self) -> bool:
        """Whether this is the process that writes what is written once."""
        return self.rank == 0

    def __deepcopy__(self, memo: Any) -> "Group":
        # Networks hold their group and are copied; the processes are not.
        return self

    def part(self, items: Sequence[T]) -> Sequence[T]:
        """This process's items of those of the whole batch."""
        return items[self.rank :: self.size] if self.size > 1 else items

    def generator(self, seed: int, *names: str | int) -> torch.Generator:
        """As `ecocseg.engine.seed.generator`, and known to `per_image`."""
        return BatchGenerator(self).manual_seed(derive(seed, *names))

    def sum(self, values: Tensor) -> Tensor:
        """The sum over all processes; a gradient goes back to each of them."""
        return values

    def divisor(self, count: Tensor) -> Tensor:
        """What a sum over a process's images is divided by for a mean over all `count`ed ones.

        The mean over processes of these quotients is the mean over the batch; a batch in which
        nothing counts is divided by 1.
        """
        return count.clamp(min=1)

    def gather(self, part: Tensor) -> Tensor:
        """Parts [b,...] of all processes, of equal shapes, as the whole batch [size * b,...]."""
        return part

    def mirrored(self, part: Tensor) -> Tensor:
        """This process's part [b,...] of the whole batch in reversed order."""
        return part.flip(0)

    def average_(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors by their means over all processes."""

    def broadcast(self, value: T) -> T:
        """The first process's `value`, which can be pickled."""
        return value


class Processes(Group):
    """The processes of torch's default process group, each with its own device."""

    def __init__(self) -> None:
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        if dist.get_backend() == "nccl":
            self.device = torch.device("cuda", torch.cuda.current_device())

    def sum(self, values: Tensor) -> Tensor:
        """As in `Group`."""
        total: Tensor = _Sum.apply(values)
        return total

    def divisor(self, count: Tensor) -> Tensor:
        """As in `Group`."""
        return self.sum(count).clamp(min=1) / self.size

    @torch.no_grad()
    def gather(self, part: Tensor) -> Tensor:
        """As in `Group`; without gradient."""
        sent = _plain(part)
        parts = [torch.empty_like(sent) for _ in range(self.size)]
        with _answered():
            dist.all_gather(parts, sent)
        return torch.stack(parts, 1).flatten(0, 1).view(part.dtype)

    @torch.no_grad()
    def mirrored(self, part: Tensor) -> Tensor:
        """As in `Group`; without gradient."""
        # Number `rank + size * j` from the front has this remainder from the back.
        other = self.size - 1 - self.rank
        if other == self.rank:
            return part.flip(0)
        sent = _plain(part)
        received = torch.empty_like(sent)
        exchange = [dist.P2POp(dist.isend, sent, other), dist.P2POp(dist.irecv, received, other)]
        with _answered():
            for work in dist.batch_isend_irecv(exchange):
                work.wait()
        return received.view(part.dtype).flip(0)

    @torch.no_grad()
    def average_(self, tensors: Sequence[Tensor]) -> None:
        """As in `Group`; in buckets, so that few messages go and little memory is needed."""
        for bucket in _buckets(tensors):
            flat = torch.cat([tensor.reshape(-1) for tensor in bucket])
            with _answered():
                dist.all_reduce(flat)
            flat.div_(self.size)
            parts = flat.split([tensor.numel() for tensor in bucket])
            for tensor, mean in zip(bucket, parts, strict=True):
                tensor.copy_(mean.view_as(tensor))

    def broadcast(self, value: T) -> T:
        """As in `Group`."""
        box = [value]
        with _answered():
            dist.broadcast_object_list(box, src=0)
        return box[0]


SINGLE = Group()
"""The group of a process that computes a run alone."""


class BatchGenerator(torch.Generator):
    """A generator that all processes of a group hold in the same state."""

    group: Group

    def __new__(cls, group: Group) -> "BatchGenerator":
        """On the CPU."""
        made = super().__new__(cls)
        made.group = group
        return made


def per_image(
    draw: Callable[[int], Tensor],
    images: int,
    random: torch.Generator,
    *,
    dim: int = 0,
    each: int = 1,
) -> Tensor:
    """What `draw(n)` gives along `dim` for `images` images of this process.

    `draw` uses `random` alone, and n is how much the whole batch takes: `each` for an image. All
    processes draw the same and keep their own.
    """
    group = group_of(random)
    drawn = draw(group.size * images * each)
    if group.size == 1:
        return drawn
    first = torch.arange(group.rank, group.size * images, group.size) * each
    return drawn.index_select(dim, (first[:, None] + torch.arange(each)).flatten())


def group_of(random: torch.Generator) -> Group:
    """The processes that draw from generators of the same state."""
    return random.group if isinstance(random, BatchGenerator) else SINGLE


def require_shared(folder: Path, group: Group) -> None:
    """Raise ConfigError unless all processes see one `folder`, which is made."""
    if group.size == 1:
        return
    mark = folder / f".seen_by_{group.broadcast(os.getpid())}"
    if group.first:
        folder.mkdir(parents=True, exist_ok=True)
        mark.touch()
    group.broadcast(None)
    seen = group.sum(torch.tensor(int(_appears(mark)), device=group.device))
    if group.first:
        mark.unlink(missing_ok=True)
    if int(seen) < group.size:
        raise ConfigError(
            f"{folder}: only {int(seen)} of the {group.size} processes of this run see the folder, "
            "in which a stage leaves weights and labels to the next one; put results on storage "
            "that all machines share, or compute the run on one GPU (schedule.gpus=1)"
        )


def _appears(path: Path) -> bool:
    """Whether `path` is there, or comes within the time for which NFS may deny a new file."""
    deadline = time.monotonic() + NEW_FILE_S
    while not path.is_file():
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.2)
        # Listing a folder makes the file system look again.
        with suppress(OSError):
            os.listdir(path.parent)
    return True


@contextmanager
def joined(
    rank: int, size: int, *, address: str, device: torch.device, timeout_s: float = 600.0
) -> Iterator[Group]:
    """Be process `rank` of `size` within the block.

    `address` is where they meet, as torch takes it (`tcp://host:port`, `file:///path`). A process
    that waits for another one longer than `timeout_s` fails.
    """
    if size == 1:
        yield SINGLE
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    backend = "nccl" if device.type == "cuda" else "gloo"
    wait = timedelta(seconds=timeout_s)
    dist.init_process_group(backend, init_method=address, rank=rank, world_size=size, timeout=wait)
    try:
        yield Processes()
    finally:
        dist.destroy_process_group()


def current_group() -> Group:
    """Those of the process group that is set up already, or this process alone."""
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        return Processes()
    return SINGLE


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        total = values.contiguous().clone()
        with _answered():
            dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        # Every process's loss depends on the sum, and the sum on every process's values.
        return _Sum.forward(ctx, gradient)


@contextmanager
def _answered() -> Iterator[None]:
    """Raise LostProcess when another process does not answer."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        if not any(sign in str(error) for sign in _LOST_SIGNS):
            raise
        reason = str(error).partition("\n")[0]
        raise LostProcess(f"another process of this run does not answer: {reason}") from error


def _plain(part: Tensor) -> Tensor:
    """A tensor as it can be sent: contiguous, truth values as bytes."""
    part = part.contiguous()
    return part.view(torch.uint8) if part.dtype == torch.bool else part


def _buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Consecutive tensors of one dtype, `_BUCKET` numbers at most unless one alone has more."""
    bucket: list[Tensor] = []
    for tensor in tensors:
        held = sum(each.numel() for each in bucket)
        if bucket and (tensor.dtype != bucket[0].dtype or held + tensor.numel() > _BUCKET):
            yield bucket
            bucket = []
        bucket.append(tensor)
    if bucket:
        yield bucket
