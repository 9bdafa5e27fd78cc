"""What a grid tells of itself while it runs, and when it has ended."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.cluster.usage import Usage

Row = Mapping[str, Any]
"""A run as the plan lists it."""


class Interrupted(KeyboardInterrupt):
    """Ctrl-C (or SIGTERM) ended the grid in good order; the text says how to go on."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Run ids with a record (those of earlier commands too), messages of the failed ones and what
    sort of failure each is, and the run ids of those that somebody stopped."""

    finished: list[str]
    failed: dict[str, str]
    stopped: list[str] = field(default_factory=list)
    kinds: dict[str, str] = field(default_factory=dict, compare=False)
    usage: Usage = field(default_factory=Usage, compare=False)


@dataclass(kw_only=True)
class Progress:
    """The grid as the driver sees it; what a run is doing stands in its status.json.

    `active` runs have been given a place on a node. `retries` counts the workers and nodes that a
    run has lost under this driver; `notice` says what the grid waits for, if it does.
    """

    rows: Sequence[Row]
    results_dir: Path
    finished: set[str] = field(default_factory=set)
    failed: dict[str, str] = field(default_factory=dict)
    stopped: set[str] = field(default_factory=set)
    active: set[str] = field(default_factory=set)
    retries: dict[str, int] = field(default_factory=dict)
    notice: str = ""
