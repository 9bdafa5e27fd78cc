import io
import json

import pytest
from rich.console import Console

from pipeline.doctor.finding import FAULT, OK, WARNING, Finding, print_lines, to_json

SOME = [
    Finding(OK, "python", "3.11.7"),
    Finding(FAULT, "data set", "word " * 60 + "end", "mend " * 40 + "it"),
]


@pytest.mark.parametrize("width", [80, 120])
def test_lines_fit_the_terminal_and_name_the_remedy(width: int) -> None:
    out = io.StringIO()
    console = Console(file=out, width=width, force_terminal=True, color_system=None)
    assert print_lines(SOME, console) == SOME
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    assert lines[0] == "ok       python      3.11.7"
    assert lines[1].startswith("fault    data set    word word")
    # What belongs to a finding stands below its text.
    assert all(line.startswith(" " * 21) for line in lines[2:])
    text = " ".join(" ".join(lines[1:]).split())
    assert text.endswith(f"end -> {'mend ' * 40}it")


@pytest.mark.parametrize(
    ("states", "worst"), [([], OK), ([OK, WARNING], WARNING), ([FAULT, OK], FAULT)]
)
def test_json_says_the_worst(states: list[str], worst: str) -> None:
    found = json.loads(to_json([Finding(state, "a", "b", "c") for state in states]))
    assert found["worst"] == worst
    assert found["findings"] == [
        {"state": state, "subject": "a", "text": "b", "remedy": "c"} for state in states
    ]
