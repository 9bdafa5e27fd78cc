"""What the doctor has to say: lines of a state, and how they are written."""

import json
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

from rich.console import Console
from rich.text import Text

OK, WARNING, FAULT = "ok", "warning", "fault"
_STYLES = {OK: "green", WARNING: "yellow", FAULT: "bold red"}
_STATE, _SUBJECT = 8, 11
_PIPE_WIDTH = 120


@dataclass(frozen=True)
class Finding:
    """One line: `state` is ok, warning or fault; what was found, and how to mend it."""

    state: str
    subject: str
    text: str
    remedy: str = ""


def print_lines(findings: Iterable[Finding], console: Console | None = None) -> list[Finding]:
    """Print each finding as it comes; all of them."""
    console = console or Console(highlight=False)
    if not console.is_terminal:
        console.width = _PIPE_WIDTH
    found = []
    for finding in findings:
        found.append(finding)
        indent = _STATE + 1 + _SUBJECT + 1
        room = max(30, console.width - indent)
        body = textwrap.wrap(finding.text, room, break_on_hyphens=False) or [""]
        if finding.remedy:
            body += textwrap.wrap(
                f"-> {finding.remedy}", room, subsequent_indent="   ", break_on_hyphens=False
            )
        line = Text(f"{finding.state:{_STATE}} ", style=_STYLES[finding.state])
        line.append(f"{finding.subject:{_SUBJECT}} " + f"\n{' ' * indent}".join(body), style="")
        console.print(line, soft_wrap=True)
    return found


def to_json(findings: Sequence[Finding]) -> str:
    """For scripts: `worst` state and the findings."""
    order = (OK, WARNING, FAULT)
    worst = max((finding.state for finding in findings), key=order.index, default=OK)
    return json.dumps({"worst": worst, "findings": [asdict(f) for f in findings]}, indent=1)
