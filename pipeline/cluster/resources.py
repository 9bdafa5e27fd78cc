"""What a run asks of a machine, and whether any live node could ever give it.

Ray leaves a task pending without a word when no node can take it; `why_impossible` says it at
once instead, with what was asked and what there is.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ecocseg.errors import ConfigError

_MEGABYTE = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Resources:
    """CPU cores, GPUs (fractions share one card), host memory in MB, and a node label.

    `label` is `key=value` as given to `ray start --labels`; `key=!value` and `key=in(a,b)` work
    too. The kind of a GPU is asked for by such a label of our own, never by Ray's name for it,
    which has changed between releases.
    """

    cpus: float = 1.0
    gpus: float = 0.0
    memory_mb: int | None = None
    label: str | None = None

    def __post_init__(self) -> None:
        if self.cpus <= 0:
            raise ConfigError(f"cpus: got {self.cpus}, allowed above 0; give each run a core")
        if self.gpus < 0 or (self.gpus > 1 and self.gpus != int(self.gpus)):
            raise ConfigError(
                f"gpus: got {self.gpus}, allowed 0, a fraction up to 1, or a whole number"
            )
        if self.memory_mb is not None and self.memory_mb <= 0:
            raise ConfigError(f"memory_mb: got {self.memory_mb}, allowed above 0, or null")
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
        if self.memory_mb is not None:
            parts.append(f"{self.memory_mb:,} MB memory")
        if self.label is not None:
            parts.append(f"label {self.label}")
        return ", ".join(parts)


def fits(resources: Resources, node: Mapping[str, Any]) -> bool:
    """Whether one node of `ray.nodes()`, when idle, could take a run that asks for `resources`."""
    total = node.get("Resources", {})
    memory = (resources.memory_mb or 0) * _MEGABYTE
    return bool(
        node.get("Alive")
        and total.get("CPU", 0) >= resources.cpus
        and total.get("GPU", 0) >= resources.gpus
        and total.get("memory", 0) >= memory
        and _matches(resources.label, node.get("Labels", {}))
    )


def why_impossible(resources: Resources, nodes: Iterable[Mapping[str, Any]]) -> str | None:
    """None when some live node could take the run, else the message for its owner."""
    live = [node for node in nodes if node.get("Alive")]
    if any(fits(resources, node) for node in live):
        return None
    available = "; ".join(describe_node(node) for node in live) or "no live node"
    return (
        f"asked for {resources.describe()}, which no live node can give; available: {available}. "
        "Lower what a run asks for (`cluster` in params.yaml), or start a node that "
        "has them (`ray start --address=... --labels=...`)"
    )


def describe_node(node: Mapping[str, Any]) -> str:
    """A node's name and totals, in words: `host: 2 CPU, 0 GPU, 24,000 MB memory`."""
    total = node.get("Resources", {})
    labels = [
        f"{key}={value}"
        for key, value in sorted(node.get("Labels", {}).items())
        if not key.startswith("ray.io/node-id")
    ]
    text = (
        f"{node.get('NodeManagerHostname', '?')}: {total.get('CPU', 0):g} CPU, "
        f"{total.get('GPU', 0):g} GPU, {total.get('memory', 0) / _MEGABYTE:,.0f} MB memory"
    )
    return f"{text}, labels {', '.join(labels)}" if labels else text


def _matches(label: str | None, labels: Mapping[str, str]) -> bool:
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
