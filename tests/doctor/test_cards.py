import os
import stat
from pathlib import Path

import pytest

from pipeline.machine.cards import cards, holders_of, parse

# Two cards and two processes, as nvidia-smi prints them with --format=csv,noheader.
LISTED = """\
0, GPU-aaaa, NVIDIA GeForce RTX 3090, 24576 MiB, 20480 MiB, 550.54.15
1, GPU-bbbb, NVIDIA GeForce RTX 3090, 24576 MiB, 4 MiB, 550.54.15
"""
PROCESSES = """\
GPU-aaaa, 4711, 19456 MiB, /usr/bin/python3
GPU-aaaa, 4712, [N/A], name, with a comma
"""


def test_cards_know_their_memory_and_who_holds_it() -> None:
    first, second = parse(LISTED, PROCESSES)
    assert first.describe() == "NVIDIA GeForce RTX 3090, 4.3 of 25.8 GB free"
    assert first.holders == [
        "process 4711 (/usr/bin/python3) 20.4 GB",
        "process 4712 (name, with a comma) [N/A]",
    ]
    assert (second.index, second.holders, second.driver) == (1, [], "550.54.15")
    assert holders_of("GPU-bbbb", PROCESSES) == {}


@pytest.mark.parametrize("listed", ["", "No devices were found\n", "0, GPU-a\n"])
def test_what_is_no_table_is_no_card(listed: str) -> None:
    assert parse(listed, "") == []


def test_the_tool_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text(
        f"#!/bin/sh\ncase $1 in --query-gpu*) printf '{LISTED}';; *) printf '{PROCESSES}';; esac\n"
    )
    tool.chmod(tool.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert cards() == parse(LISTED, PROCESSES)
    tool.write_text("#!/bin/sh\nexit 9\n")
    assert cards() == []
    assert holders_of("GPU-aaaa") == {}
