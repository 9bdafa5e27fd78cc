import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from pipeline.cluster.progress import Progress
from pipeline.monitor import live
from pipeline.monitor.live import duration, live_view, shorten
from pipeline.store.paths import run_directory
from pipeline.store.status import RunStatus, write_status

ROWS = [
    {"run_id": f"id{i}", "experiment": "streets_uda", "cell": cell, "seed": 0}
    for i, cell in enumerate(["source_only", "dacs_one_hot", "dacs_ecoc", "oracle"])
]


def console(width: int, terminal: bool, height: int = 24) -> Console:
    return Console(
        file=io.StringIO(), width=width, height=height, force_terminal=terminal, color_system=None
    )


def output(screen: Console) -> str:
    assert isinstance(screen.file, io.StringIO)
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", screen.file.getvalue())


def put(folder: Path, run_id: str, **values: Any) -> None:
    fields = {"steps": 300, "node": "gpu-box-01", "device": "cuda:0"} | values
    write_status(run_directory(folder, run_id), RunStatus(**fields))


def story(folder: Path, screen: Console, monkeypatch: pytest.MonkeyPatch) -> str:
    """Four runs: finished before, left behind by a killed driver, running, failing."""
    monkeypatch.setattr(live, "_READ_S", 0.0)
    put(folder, "id0", state="finished", step=300, loss=0.51)
    put(folder, "id1", state="running", step=120, loss=0.9)
    progress = Progress(rows=ROWS, results_dir=folder)
    progress.finished.add("id0")
    progress.active.update({"id1", "id2", "id3"})
    with live_view("train", screen) as update:
        update(progress)
        put(folder, "id2", state="running", step=45, loss=1.2345, steps_per_second=3, eta_s=85)
        update(progress)
        progress.active.discard("id3")
        progress.failed["id3"] = "labels/7.png: value 77\nremedy"
        update(progress)
    return output(screen)


@pytest.mark.parametrize("width", [80, 100, 120])
def test_the_table_fits_and_tells_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    text = story(tmp_path, console(width, terminal=True), monkeypatch)
    last = text[text.rindex("train: ") :].splitlines()
    assert all(len(line) <= width for line in last)
    assert last[0].startswith("train: 1/4 finished, 1 failed, 1 running, 1 queued; 0:00, about ")
    assert last[1].split() == ["run", "state", "step", "loss", "speed", "ETA", "node"]
    cells = {line.split()[1]: line.split() for line in last[2:6]}
    assert cells["source_only"][:5] == ["streets_uda", "source_only", "s0", "finished", "300/300"]
    # Left behind by an earlier driver: queued, with the step it will go on from.
    assert cells["dacs_one_hot"][3:5] == ["queued", "120/300"]
    assert cells["dacs_ecoc"][3:5] == ["running", "45/300"]
    assert cells["dacs_ecoc"][-4:-1] == ["1.23", "3.0/s", "1:25"]
    assert cells["oracle"][3] == "failed"
    assert "streets_uda oracle s0: labels/7.png: value 77" in last[6]


def test_plain_lines_without_a_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = story(tmp_path, console(80, terminal=False), monkeypatch)
    assert "\x1b" not in text
    assert text.splitlines() == [
        "train: 1/4 finished, 3 queued; 0:00",
        "train: streets_uda dacs_ecoc s0: running from step 45 on gpu-box-01",
        "train: streets_uda oracle s0: failed: labels/7.png: value 77",
        "remedy",
        "train: 1/4 finished, 1 failed, 1 running, 1 queued; 0:00, about 3:05 to go",
        "train:   streets_uda dacs_ecoc s0: 45/300  1.23  3.0/s  1:25  gpu-b…cuda:0",
    ]


def test_a_low_terminal_shows_the_running_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "_READ_S", 0.0)
    rows = [{"run_id": f"run{i:02d}"} for i in range(40)]
    progress = Progress(rows=rows, results_dir=tmp_path)
    progress.active.update(row["run_id"] for row in rows)
    screen = console(80, terminal=True, height=10)
    with live_view("train", screen) as update:
        update(progress)
        put(tmp_path, "run37", state="running", step=1)
        update(progress)
    last = output(screen)
    last = last[last.rindex("train: ") :]
    assert "run37" in last
    assert "and 35 more, finished or queued" in last
    assert len(last.splitlines()) <= 10


def test_a_half_written_or_odd_status_disturbs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "_READ_S", 0.0)
    folder = run_directory(tmp_path, "id0")
    folder.mkdir(parents=True)
    screen = console(80, terminal=True)
    progress = Progress(rows=ROWS, results_dir=tmp_path)
    progress.active.update(row["run_id"] for row in ROWS)
    with live_view("train", screen) as update:
        for content in ("{", json.dumps({"state": "running", "step": 1, "steps": 0}), "[]"):
            (folder / "status.json").write_text(content)
            update(progress)
    assert "0/4 finished" in output(screen)


@given(st.text(min_size=1, max_size=60), st.integers(3, 40))
def test_shortened_names_keep_both_ends(text: str, room: int) -> None:
    short = shorten(text, room)
    assert len(short) == min(len(text), room)
    head, mark, _ = short.partition("…")
    if len(text) > room:
        assert mark
        assert text.startswith(head)
        assert short[-1] == text[-1]


@pytest.mark.parametrize(
    "seconds, text", [(0, "0:00"), (42.4, "0:42"), (3909, "1:05:09"), (183600, "2d 03h")]
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text
