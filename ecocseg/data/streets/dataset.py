"""Writes scenes in the file layouts of the data sets that they stand in for."""

import json
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from PIL import Image

from ecocseg.data.streets import labels
from ecocseg.data.streets.scene import render_scene
from ecocseg.data.streets.style import STYLES, Domain
from ecocseg.errors import ConfigError, DataError
from ecocseg.files import atomic_path, atomic_write, require_space

# Part of the marker file: raise it when the same seed no longer gives the same picture.
VERSION = 2
MARKER = "streets.json"
_SPLITS = {"game": ("train",), "camera": ("train", "val")}
# Training and validation come from different cities, as in Cityscapes.
_CITIES = {"train": ("ahornstadt", "birkenau", "eschenburg"), "val": ("lindenfurt", "ulmenhagen")}
_BATCH = 8  # scenes per message to a worker process
_WORTH_A_WORKER = 24  # starting a process takes as long as rendering about that many scenes


@dataclass(frozen=True, kw_only=True)
class _Job:
    """One scene to write; paths are relative to the root."""

    seed: int
    domain: Domain
    height: int
    width: int
    image: str
    label: str


def write_dataset(
    root: Path,
    domain: Domain,
    counts: Mapping[str, int],
    height: int,
    width: int,
    seed: int,
    progress: Callable[[int, int], None] | None = None,
    workers: int | None = None,
) -> None:
    """Render counts[split] scenes per split, at [height, width], below `root`.

    `game` has GTAv's layout (split "train" only): `images/00001.png` and `labels/00001.png`, a
    palette PNG of Cityscapes label ids. `camera` has Cityscapes' ("train", "val"):
    `leftImg8bit/<split>/<city>/*_leftImg8bit.png`, `gtFine/<split>/<city>/*_gtFine_labelIds.png`.

    A scene depends on (seed, domain, split, its number) alone: not on the counts, nor on `workers`
    (processes; None takes the cores there are). Files that are there are kept, so an interrupted
    call goes on where it stopped; files of other settings are replaced. `progress(done, total)` is
    called in this process. Processes are spawned: a script that calls this needs the usual
    `if __name__ == "__main__":`. Raises ConfigError for a value out of range, DataError when
    `root` holds such files from elsewhere, UserError when the disk is too small.
    """
    root = Path(root)
    jobs = _jobs(domain, counts, height, width, seed)
    if workers is not None and workers < 1:
        raise ConfigError(f"workers: got {workers}, allowed 1 or more; leave it out for all cores")
    settings: dict[str, object] = {
        "version": VERSION,
        "domain": domain,
        "counts": {split: counts[split] for split in sorted(counts)},
        "height": height,
        "width": width,
        "seed": seed,
    }
    _claim(root, settings, jobs)
    missing = [job for job in jobs if not _complete(root, job)]
    require_space(root, len(missing) * height * width * 4)
    done = len(jobs) - len(missing)
    if progress:
        progress(done, len(jobs))
    for count in _render(root, missing, workers):
        done += count
        if progress:
            progress(done, len(jobs))


def _jobs(
    domain: Domain, counts: Mapping[str, int], height: int, width: int, seed: int
) -> list[_Job]:
    if domain not in STYLES:
        raise ConfigError(f"domain: got {domain!r}, allowed {sorted(STYLES)}; choose one of them")
    for split, count in counts.items():
        if split not in _SPLITS[domain]:
            raise ConfigError(
                f"counts: got split {split!r}, allowed {list(_SPLITS[domain])} for {domain}; "
                f"rename or remove it"
            )
        if count < 0:
            raise ConfigError(f"counts.{split}: got {count}, allowed 0 or more; raise it")
    if min(height, width) < 32:
        raise ConfigError(f"height, width: got {height}, {width}, allowed 32 or more; enlarge them")
    if seed < 0:
        raise ConfigError(f"seed: got {seed}, allowed 0 or more; give a whole number")
    jobs = []
    for split in sorted(counts):
        for index in range(counts[split]):
            image, label = _names(domain, split, index)
            digest = sha256(f"{seed}/{domain}/{split}/{index}".encode()).digest()
            jobs.append(
                _Job(
                    seed=int.from_bytes(digest[:8], "big"),
                    domain=domain,
                    height=height,
                    width=width,
                    image=image,
                    label=label,
                )
            )
    return jobs


def _names(domain: str, split: str, index: int) -> tuple[str, str]:
    if domain == "game":
        name = f"{index + 1:05d}.png"
        return f"images/{name}", f"labels/{name}"
    cities = _CITIES[split]
    city = cities[index % len(cities)]
    stem = f"{split}/{city}/{city}_{index // len(cities):06d}_000019"
    return f"leftImg8bit/{stem}_leftImg8bit.png", f"gtFine/{stem}_gtFine_labelIds.png"


def _complete(root: Path, job: _Job) -> bool:
    # Files appear by renaming, so one that is there is whole.
    return (root / job.image).is_file() and (root / job.label).is_file()


def _claim(root: Path, settings: dict[str, object], jobs: list[_Job]) -> None:
    """Make the marker say what this folder holds, and remove our files that do not belong."""
    marker = root / MARKER
    if marker.is_file():
        try:
            held = json.loads(marker.read_text())
            counts = {str(split): int(count) for split, count in held["counts"].items()}
            old = [
                name
                for split, count in counts.items()
                for index in range(count)
                for name in _names(held["domain"], split, index)
            ]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(
                f"{marker}: not a marker file of streets ({error!r}); remove the folder {root}"
            ) from error
        if held != settings:
            same = {**held, "counts": None} == {**settings, "counts": None}
            keep = {name for job in jobs for name in (job.image, job.label)} if same else set()
            # The marker changes last: killed in between, the next call removes the rest.
            for name in old:
                if name not in keep:
                    (root / name).unlink(missing_ok=True)
    else:
        foreign = next((job for job in jobs if (root / job.image).exists()), None)
        if foreign:
            raise DataError(
                f"{root / foreign.image}: exists, but {MARKER} is not there, so streets did not "
                f"write it; choose another folder, or move these files away"
            )
    for folder in {(root / name).parent for job in jobs for name in (job.image, job.label)}:
        for stale in folder.glob(".*.tmp.png"):  # of a killed process; readers would find them
            stale.unlink(missing_ok=True)
    atomic_write(marker, json.dumps(settings, indent=1, sort_keys=True) + "\n")


def _render(root: Path, jobs: list[_Job], workers: int | None) -> Iterator[int]:
    """Write the scenes; yields how many each time some are finished."""
    if workers is None:
        workers = min(len(os.sched_getaffinity(0)), len(jobs) // _WORTH_A_WORKER)
    batches = [jobs[i : i + _BATCH] for i in range(0, len(jobs), _BATCH)]
    if workers <= 1:
        for job in jobs:
            yield _write(root, [job])
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker) as pool:
        try:
            for future in as_completed([pool.submit(_write, root, batch) for batch in batches]):
                yield future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _start_worker() -> None:
    """Leave Ctrl-C to the parent, and do not outlive it when it is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_follow_parent, daemon=True).start()


def _follow_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _write(root: Path, jobs: list[_Job]) -> int:
    for job in jobs:
        scene = render_scene(job.seed, job.domain, job.height, job.width)
        label = Image.fromarray(scene.label_ids)
        if job.domain == "game":
            label.putpalette(labels.palette())
        for name, picture in ((job.label, label), (job.image, Image.fromarray(scene.image))):
            with atomic_path(root / name) as path:
                picture.save(path, compress_level=4)
    return len(jobs)
