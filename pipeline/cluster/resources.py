"""What a run asks of a machine, and whether any live node could ever give it.

Ray leaves a task pending without a word when no node can take it; `why_impossible` says it at
once instead, with what was asked and what there is.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ecocseg.errors import ConfigError

_MEGABYTE = 1 << 20
GPU_LABEL, GPU_MEMORY_LABEL = "gpu", "gpu-memory-gb"
"""Labels of a node for the kind of its GPUs and the memory of one; `ecocseg labels` prints both."""
# A derived memory figure is right to about a tenth: a card that is that much too small is tried,
# and runs share one only when there is room for as much on top.
_MARGIN = 1.1


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What each process of a run asks: CPU cores, GPUs, memory, and a node label.

    `label` is `key=value` as given to `ray start --labels`; `key=!value` and `key=in(a,b)` work
    too. The kind of a GPU is asked for by such a label of our own, never by Ray's name for it,
    which has changed between releases. `gpu_memory_gb` is what the run takes of a card (10^9
    bytes), None when nobody knows; up to `runs_per_gpu` runs share a card that has room for as
    many. With several `processes` each of them gets as much.
    """

    cpus: float = 1.0
    gpus: float = 0.0
    memory_mb: int | None = None
    label: str | None = None
    gpu_memory_gb: float | None = None
    runs_per_gpu: int = 1
    processes: int = 1

    def __post_init__(self) -> None:
        if self.cpus <= 0:
            raise ConfigError(f"cpus: got {self.cpus}, allowed above 0; give each run a core")
        if self.gpus < 0 or (self.gpus > 1 and self.gpus != int(self.gpus)):
            raise ConfigError(
                f"gpus: got {self.gpus}, allowed 0, a fraction up to 1, or a whole number"
            )
        if self.memory_mb is not None and self.memory_mb <= 0:
            raise ConfigError(f"memory_mb: got {self.memory_mb}, allowed above 0, or null")
        for name in ("runs_per_gpu", "processes"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}: got {getattr(self, name)}, allowed 1 or more")
        if self.label is not None:
            key, separator, value = self.label.partition("=")
            if not (key and separator and value) or key.startswith("ray.io/"):
                raise ConfigError(
                    f"label: got {self.label!r}, allowed key=value with a key of your own, "
                    "as given to `ray start --labels`"
                )

    @property
    def threads(self) -> int:
        """Threads for the arithmetic libraries: the whole cores, at least one."""
        return max(1, int(self.cpus))

    def ray_options(self) -> dict[str, Any]:
        """The same as options of a Ray task."""
        options: dict[str, Any] = {"num_cpus": self.cpus, "num_gpus": self.gpus}
        if self.memory_mb is not None:
            options["memory"] = self.memory_mb * _MEGABYTE
        if self.label is not None:
            key, _, value = self.label.partition("=")
            options["label_selector"] = {key: value}
        return options

    def describe(self) -> str:
        """In words, for messages."""
        parts = [f"{self.cpus:g} CPU"]
        if self.gpus:
            parts.append(f"{self.gpus:g} GPU")
        if self.gpus and self.gpu_memory_gb is not None:
            parts[-1] += f" with {self.gpu_memory_gb:.1f} GB"
        if self.memory_mb is not None:
            parts.append(f"{self.memory_mb:,} MB memory")
        if self.label is not None:
            parts.append(f"label {self.label}")
        text = ", ".join(parts)
        return f"{self.processes} times {text}" if self.processes > 1 else text


@dataclass(frozen=True, kw_only=True)
class Node:
    """A live machine: what it has in all, its name and Ray's id for it."""

    id: str
    name: str = "?"
    cpus: float = 0.0
    gpus: int = 0
    memory_mb: float = 0.0
    labels: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, node: Mapping[str, Any]) -> "Node":
        """From an entry of `ray.nodes()`; a resource that a node lacks is not listed there."""
        total = node.get("Resources", {})
        return cls(
            id=str(node.get("NodeID", "")),
            name=str(node.get("NodeManagerHostname", "?")),
            cpus=float(total.get("CPU", 0)),
            gpus=int(total.get("GPU", 0)),
            memory_mb=total.get("memory", 0) / _MEGABYTE,
            labels=dict(node.get("Labels", {})),
        )

    @property
    def gpu_memory_gb(self) -> float | None:
        """Memory of one of its cards as its label has it; None without one."""
        try:
            return float(self.labels[GPU_MEMORY_LABEL])
        except (KeyError, ValueError):
            return None

    def describe(self) -> str:
        """Name and totals, in words: `host: 2 CPU, 0 GPU, 24,000 MB memory`."""
        labels = [
            f"{key}={value}"
            for key, value in sorted(self.labels.items())
            if not key.startswith("ray.io/node-id")
        ]
        text = f"{self.name}: {self.cpus:g} CPU, {self.gpus:g} GPU, {self.memory_mb:,.0f} MB memory"
        return f"{text}, labels {', '.join(labels)}" if labels else text


def live_nodes(nodes: Iterable[Mapping[str, Any]]) -> list[Node]:
    """The live ones among the entries of `ray.nodes()`."""
    return [Node.of(node) for node in nodes if node.get("Alive")]


def share_of_gpu(asked: Resources, node: Node) -> float:
    """The share of a card that a process gets on `node`, or its number of whole cards."""
    card, needed = node.gpu_memory_gb, asked.gpu_memory_gb
    if asked.gpus != 1 or asked.runs_per_gpu == 1 or not card or not needed:
        return asked.gpus
    if asked.processes > 1:
        # NCCL refuses two processes of a run on one card.
        return asked.gpus
    return _floor(1 / max(1, min(asked.runs_per_gpu, math.floor(card / (needed * _MARGIN)))))


def cpus_on(asked: Resources, node: Node) -> float:
    """The cores that a process takes of `node`: with a GPU never so many that others idle."""
    if not asked.gpus or not node.gpus:
        return asked.cpus
    return min(asked.cpus, _floor(node.cpus / node.gpus * share_of_gpu(asked, node)))


def _floor(amount: float) -> float:
    """As Ray counts, in ten-thousandths; rounded up, three thirds would be more than one."""
    return math.floor(amount * 10_000 + 1e-6) / 10_000


def suits(asked: Resources, node: Node) -> bool:
    """Whether `node`, when idle, could take one process of a run."""
    card, needed = node.gpu_memory_gb, asked.gpu_memory_gb
    too_small = asked.gpus and card and needed and needed > card * _MARGIN
    return bool(
        node.gpus >= asked.gpus
        and not too_small
        and node.cpus >= cpus_on(asked, node) > 0
        and node.memory_mb >= (asked.memory_mb or 0)
        and matches(asked.label, node.labels)
    )


def room_for(asked: Resources, node: Node) -> int:
    """How many processes of such runs `node`, when idle, can take at the same time."""
    if not suits(asked, node):
        return 0
    limits = [node.cpus / cpus_on(asked, node)]
    if asked.gpus:
        share = share_of_gpu(asked, node)
        limits.append(node.gpus * int(1 / share) if share < 1 else node.gpus // share)
    if asked.memory_mb:
        limits.append(node.memory_mb / asked.memory_mb)
    return int(min(limits) + 1e-9)


def impossible(asked: Resources, nodes: Iterable[Node]) -> str | None:
    """None when the live `nodes` could take the run, else the message for its owner."""
    nodes = list(nodes)
    if sum(room_for(asked, node) for node in nodes) >= asked.processes:
        return None
    available = "; ".join(node.describe() for node in nodes) or "no live node"
    return (
        f"asked for {asked.describe()}, which no live node can give; available: {available}. "
        f"{_remedy(asked, nodes)}, or start a node that has them (`ray start --address=... "
        "--labels=...`)"
    )


def _remedy(asked: Resources, nodes: Iterable[Node]) -> str:
    """The setting that would let the run in."""
    if asked.processes > 1 and any(suits(asked, node) for node in nodes):
        return "Set cluster.processes_per_run=1, which computes the whole batch on one card"
    if asked.gpu_memory_gb and any(suits(replace(asked, gpu_memory_gb=None), n) for n in nodes):
        return (
            "Set schedule.activation_checkpointing=true or a smaller batch; where the derived "
            "figure is too high, say the true one with cluster.gpu_memory_gb_per_run"
        )
    return (
        "Lower what a run asks for (`cluster` in params.yaml: cpus_per_run, memory_gb_per_run, gpu)"
    )


def why_impossible(resources: Resources, nodes: Iterable[Mapping[str, Any]]) -> str | None:
    """`impossible` for entries of `ray.nodes()`."""
    return impossible(resources, live_nodes(nodes))


def matches(label: str | None, labels: Mapping[str, str]) -> bool:
    """Whether a node's labels are what `label` asks for, by Ray's rules for label selectors."""
    if label is None:
        return True
    key, _, wanted = label.partition("=")
    negated = wanted.startswith("!")
    wanted = wanted.removeprefix("!")
    if wanted.startswith("in(") and wanted.endswith(")"):
        allowed = {value.strip() for value in wanted[3:-1].split(",")}
    else:
        allowed = {wanted}
    return (labels.get(key) in allowed) != negated
