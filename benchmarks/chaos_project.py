"""A copy of the project with a grid of short runs, driven by `dvc repro` as a user types it."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import yaml
from small_project import copy_project

LOG_EVERY, STEPS = 2, 40
OVERRIDES = [
    "schedule.labelled_batch=2",
    "schedule.unlabelled_batch=2",
    f"schedule.log_every={LOG_EVERY}",
    "schedule.evaluate_every=20",
    "schedule.checkpoint_every=4",
    "model=small",
    "model.decoder_channels=16",
    "benchmark.labelled_transform.crop=[32,64]",
    "benchmark.unlabelled_transform.crop=[32,64]",
]
CELLS = {
    "dacs_ecoc": ["method=dacs", "encoding=ecoc"],
    "stpp_ecoc": ["method=stpp", "method.stage_shares=[0.4,0.3,0.3]", "encoding=ecoc"],
    "source-only": ["method=supervised", "encoding=one-hot"],
    "fixmatch_one-hot": ["method=fixmatch", "encoding=one-hot"],
    "dacs_one-hot": ["method=dacs", "encoding=one-hot"],
    "fixmatch_ecoc": ["method=fixmatch", "encoding=ecoc"],
}
_REFERENCE = """
import json, sys
from pathlib import Path
import torch
from pipeline.runner.run import execute_run
torch.set_num_threads(1)
settings = json.loads(sys.argv[1])
for line in sys.stdin:
    execute_run(json.loads(line), settings)
"""


class Project:
    """The copy in `folder`, whose commands run in `environment`."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.folder, self.environment = folder, environment
        copy_project(folder)
        self.run("git", "init", "-q")

    def configure(
        self,
        runs: int,
        steps: int,
        address: str,
        tracking: str,
        overrides: Sequence[str] = OVERRIDES,
    ) -> None:
        """An experiment with the first cells of CELLS, and seeds, that make `runs` runs."""
        cells = min(runs, len(CELLS))
        base = (self.folder / "pipeline/conf/experiment/streets_uda.yaml").read_text()
        experiment = yaml.safe_load(base)
        experiment["experiment"] |= {
            "name": "chaos",
            "title": "chaos",
            "cells": {
                name: {"label": name, "overrides": CELLS[name]} for name in list(CELLS)[:cells]
            },
        }
        text = "# @package _global_\n" + yaml.safe_dump(experiment, sort_keys=False)
        (self.folder / "pipeline/conf/experiment/chaos.yaml").write_text(text)
        params = yaml.safe_load((self.folder / "params.yaml").read_text())
        params["experiments"] = ["chaos"]
        params["seeds"] = list(range(-(-runs // cells)))
        params["overrides"] = [*overrides, f"schedule.steps={steps}"]
        params["cluster"] |= {"address": address, "device": "cpu"}
        params["tracking"] |= {"uri": tracking}
        params["search"] |= {"experiment": "chaos", "cell": "dacs_ecoc"}
        (self.folder / "params.yaml").write_text(yaml.safe_dump(params))

    def start(self, *command: str, log: Path) -> subprocess.Popen[bytes]:
        # As `make repro` does: a dvc that was killed while it wrote this file left it empty.
        lock = self.folder / ".dvc/tmp/rwlock"
        with suppress(OSError):
            if lock.stat().st_size == 0:
                lock.unlink()
        with log.open("ab") as file:
            file.write(f"\n--- {time.strftime('%H:%M:%S')} {' '.join(command)}\n".encode())
            file.flush()
            return subprocess.Popen(
                command,
                cwd=self.folder,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                start_new_session=True,
            )

    def run(self, *command: str) -> None:
        """Run a command that has to succeed."""
        log = self.folder / "command.log"
        if self.start(*command, log=log).wait(400):
            raise RuntimeError(f"{command}:\n{log.read_text()}")

    def rows(self) -> list[dict[str, Any]]:
        lines = (self.folder / "results/plan.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]

    def reference(self, results: Path) -> None:
        """Train every run undisturbed, one after the other; many in two processes."""
        processes = 1 if len(self.rows()) < 6 else 2
        settings = {
            "data_root": str(self.folder / "data"),
            "results": str(results),
            "device": "cpu",
            "git": "none",
            "tracking": {"enabled": False, "uri": None, "folder": str(results)},
        }
        started = []
        for place in range(processes):
            process = subprocess.Popen(
                [sys.executable, "-c", _REFERENCE, json.dumps(settings)],
                cwd=results,
                env=self.environment,
                stdin=subprocess.PIPE,
                text=True,
            )
            rows = self.rows()[place::processes]
            assert process.stdin is not None
            process.stdin.write("".join(json.dumps(row) + "\n" for row in rows))
            process.stdin.close()
            started.append(process)
        codes = [process.wait() for process in started]
        if any(codes):
            raise RuntimeError("the undisturbed runs failed")

    def tracked(self) -> bool:
        """Whether every run says that MLflow has all of it."""
        files = [self.run_folder(row["run_id"]) / "tracking.json" for row in self.rows()]
        return all(path.is_file() and json.loads(path.read_text())["delivered"] for path in files)

    def run_folder(self, run_id: str) -> Path:
        return self.folder / "results/runs" / run_id

    def record(self, run_id: str) -> Path:
        return self.folder / "results/records" / f"{run_id}.json"

    def status(self, run_id: str) -> dict[str, Any]:
        try:
            return dict(json.loads((self.run_folder(run_id) / "status.json").read_text()))
        except (OSError, ValueError):
            return {}

    def workers(self) -> dict[str, psutil.Process]:
        """Run id -> the living process that trains it."""
        found = {}
        for row in self.rows():
            status = self.status(row["run_id"])
            if status.get("state") == "running":
                with suppress(psutil.Error):
                    process = psutil.Process(status["pid"])
                    if "ray::" in " ".join(process.cmdline()):
                        found[row["run_id"]] = process
        return found


class Repro:
    """`dvc repro train`, started again whenever it has ended, until it succeeds."""

    def __init__(self, project: Project, log: Path) -> None:
        self.project, self.log = project, log
        self.log.touch()
        self.started = 0
        self.succeeded = False
        self.process: subprocess.Popen[bytes] | None = None

    def keep_going(self) -> None:
        if self.process is not None:
            if self.process.poll() is None:
                return
            self.succeeded = self.process.returncode == 0
        if not self.succeeded:
            self.started += 1
            self.process = self.project.start("dvc", "repro", "train", log=self.log)

    def driver(self) -> psutil.Process | None:
        """The `ecocseg grid` below it."""
        if self.process is None or self.process.poll() is not None:
            return None
        with suppress(psutil.Error):
            for process in psutil.Process(self.process.pid).children(recursive=True):
                command = process.cmdline()
                if "grid" in command and any(os.path.basename(w) == "ecocseg" for w in command):
                    return process
        return None

    def text(self) -> str:
        return self.log.read_text(errors="replace")

    def failures(self) -> list[tuple[str, str]]:
        """(run id, cause) of every run that a grid said has failed."""
        ids = {row["run_id"] for row in self.project.rows()}
        lines = re.findall(r"^  ([\w.=-]+)(?: \([^()]*\))?: (.+)$", self.text(), re.MULTILINE)
        return [(run_id, cause) for run_id, cause in lines if run_id in ids]

    def announced(self) -> int:
        """How many failed runs the grids counted themselves."""
        counts = re.findall(r"^ecocseg grid: (\d+) of \d+ .*runs failed", self.text(), re.MULTILINE)
        return sum(map(int, counts))
