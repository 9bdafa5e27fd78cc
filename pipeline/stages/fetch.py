"""Stage `fetch`: brings the raw files of each data set, and writes a receipt for each.

What is the user's (a folder or archive named in `data.sources`, or put into the raw folder) is
never moved, changed or removed. What was fetched carries a marker file; only that is ever replaced.
"""

import errno
import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ecocseg.data.config import DatasetConfig, RemoteFile
from ecocseg.data.layouts import LAYOUTS, find_root
from ecocseg.errors import ConfigError, DataError, UserError
from ecocseg.files import atomic_path, require_space, sha256_file
from pipeline.sources.archive import is_archive, replace_folder, unpack
from pipeline.sources.download import Unreachable, download, file_name
from pipeline.sources.progress import show_progress
from pipeline.sources.raw import (
    MARKER,
    digest_of,
    how_to_place,
    is_complete,
    read_marker,
    write_marker,
)
from pipeline.sources.receipts import Receipt, fingerprint_raw, relative_to_root, write_receipt

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Brought:
    """Where raw files lie now and how they came."""

    folder: Path
    kind: str
    downloads: Mapping[str, str]


class _Fetcher:
    """Brings data sets below one data root."""

    def __init__(self, data: Mapping[str, Any]) -> None:
        self.root = Path(data["root"]).expanduser()
        self.sources = {name: path for name, path in (data.get("sources") or {}).items() if path}
        self.mirrors = data.get("mirrors") or {}
        self.workers = data.get("workers")
        self.checksums = self.root / "downloads" / "checksums.json"

    def bring(self, config: DatasetConfig) -> _Brought:
        """Bring the raw files of one data set; what is there already is left as it is."""
        target = self.root / "raw" / config.raw_name
        given = self.sources.get(config.raw_name) or self.sources.get(config.name)
        field = f"data.sources.{config.raw_name}"
        if given is None and config.raw.get("path"):
            given, field = config.raw["path"], "raw.path"
        if given is not None:
            return self._from_source(config, Path(given).expanduser().absolute(), field, target)
        if config.kind == "generate":
            return self._generate(config, target)
        if target.is_dir() and not (target / MARKER).is_file() and any(target.iterdir()):
            return self._from_placed(config, target)
        if config.kind == "url":
            return self._from_url(config, target)
        raise UserError(how_to_place(config, self.root, "is not here and cannot be downloaded"))

    def _from_source(
        self, config: DatasetConfig, source: Path, field: str, target: Path
    ) -> _Brought:
        layout = LAYOUTS[config.layout]
        if source.is_file() and is_archive(source):
            return self._from_archives(config, [source], target)
        if source.is_dir():
            top = find_root(source, layout, config.splits)
            if top is not None:
                return _Brought(top, "local", {})
            archives = sorted(path for path in source.iterdir() if is_archive(path))
            if archives:
                return self._from_archives(config, archives, target)
        what = "is not there" if not source.exists() else "is neither the data set nor its archive"
        raise DataError(
            f"{field}: {source} {what}; give the folder that holds\n{layout.TREE}\n"
            "or an archive of it (zip or tar)"
        )

    def _from_placed(self, config: DatasetConfig, target: Path) -> _Brought:
        """What the user put into the raw folder: used in place, archives unpacked beside."""
        layout = LAYOUTS[config.layout]
        archives = sorted(path for path in target.iterdir() if is_archive(path))
        top = find_root(target, layout, config.splits)
        if top is not None and not (archives and top.is_relative_to(target / "unpacked")):
            return _Brought(top, "local", {})
        if archives:
            return self._from_archives(config, archives, target / "unpacked")
        raise DataError(
            how_to_place(config, self.root, f"is not complete: {target} holds something else")
        )

    def _from_archives(
        self, config: DatasetConfig, archives: Sequence[Path], target: Path
    ) -> _Brought:
        state = [[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in archives]
        digest = digest_of(state)
        if not is_complete(target, digest):
            self._may_replace(target)
            staging = self._staging(config)
            for archive in archives:
                with show_progress(f"unpacking {archive.name}", "bytes") as progress:
                    unpack(archive, staging, progress=progress)
            self._finish(staging, target, digest, {})
        top = find_root(target, LAYOUTS[config.layout], config.splits)
        if top is None:
            names = ", ".join(path.name for path in archives)
            raise DataError(
                f"{names}: unpacked into {target}, and the data set is not in there; expected:\n"
                f"{LAYOUTS[config.layout].TREE}"
            )
        return _Brought(top, "archive", {})

    def _from_url(self, config: DatasetConfig, target: Path) -> _Brought:
        files = config.remote_files()
        digest = digest_of([[f.url, f.sha256, f.to, f.unpack, f.subfolder] for f in files])
        marker = read_marker(target)
        if not is_complete(target, digest):
            self._may_replace(target)
            folder = self.root / "downloads" / config.raw_name
            instead = how_to_place(config, self.root, "cannot be downloaded")
            brought: list[tuple[RemoteFile, Path, str]] = []
            for file in files:
                path, checksum = self._download(file, folder, instead)
                brought.append((file, path, checksum))
            staging = self._staging(config)
            for file, path, _ in brought:
                if file.unpack:
                    with show_progress(f"unpacking {path.name}", "bytes") as progress:
                        unpack(path, staging / file.to, file.subfolder, progress)
                else:
                    require_space(staging, path.stat().st_size)
                    (staging / file.to).mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(path, staging / file.to / file_name(file.url))
            sums = {file.url: checksum for file, _, checksum in brought}
            marker = self._finish(staging, target, digest, sums)
            shutil.rmtree(folder, ignore_errors=True)
        top = find_root(target, LAYOUTS[config.layout], config.splits) or target
        return _Brought(top, "url", marker.get("downloads", {}))

    def _download(self, file: RemoteFile, folder: Path, instead: str) -> tuple[Path, str]:
        with show_progress(f"downloading {file_name(file.url)}", "bytes") as progress:
            return download(
                file,
                folder,
                self.checksums,
                mirrors=self.mirrors,
                progress=progress,
                instead=instead,
            )

    def _generate(self, config: DatasetConfig, target: Path) -> _Brought:
        raw = config.raw
        if raw["generator"] != "streets":
            raise ConfigError(f"raw.generator: got {raw['generator']!r}, allowed: streets")
        from ecocseg.data import streets

        code = [sha256_file(path) for path in sorted(Path(streets.__file__).parent.glob("*.py"))]
        wanted = {key: raw[key] for key in ("domain", "counts", "height", "width", "seed")}
        digest = digest_of([wanted, code])
        marker = read_marker(target)
        if marker.get("digest") != digest:
            self._may_replace(target)
            shutil.rmtree(target, ignore_errors=True)
            write_marker(target, {"digest": digest, "complete": False})
        if not is_complete(target, digest):
            pixels = sum(raw["counts"].values()) * raw["height"] * raw["width"]
            require_space(target, 3 * pixels)
            with show_progress(f"rendering {config.raw_name}", "images") as progress:
                streets.write_dataset(target, **wanted, progress=progress, workers=self.workers)
            write_marker(target, {"digest": digest, "complete": True})
        return _Brought(target, "generate", {})

    def lists(self, config: DatasetConfig) -> tuple[dict[str, str], dict[str, str]]:
        """Bring the partition lists; return their files by name and checksums by address.

        One that cannot be had now is left out with a warning: only runs on it need it, and they
        say so.
        """
        files, sums = {}, {}
        missing: dict[str, Unreachable] = {}
        for name, file in config.partition_files().items():
            path = self.root / "partitions" / config.name / f"{name}.txt"
            if not (path.is_file() and file.sha256 == sha256_file(path)):
                folder = self.root / "downloads" / config.name / name
                instead = (
                    f"Without a connection, get the file elsewhere and set `data.mirrors` in "
                    f"params.yaml: {{{file.url.rpartition('/')[0]}: <folder that holds "
                    f"{file_name(file.url)}>}}"
                )
                try:
                    brought, _ = self._download(file, folder, instead)
                except Unreachable as error:
                    missing[name] = error
                    continue
                with atomic_path(path) as temporary:
                    shutil.copyfile(brought, temporary)
                shutil.rmtree(folder, ignore_errors=True)
            files[name] = relative_to_root(path, self.root)
            sums[file.url] = sha256_file(path)
        if missing:
            reason = next(iter(missing.values()))
            named = ", ".join(missing)
            log.warning("%s: partition %s is left out: %s", config.name, named, reason)
        return files, sums

    def _staging(self, config: DatasetConfig) -> Path:
        """Return an empty folder beside the raw folders, for what is not complete yet."""
        staging = self.root / "raw" / f".{config.raw_name}.tmp"
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(parents=True)
        return staging

    def _finish(
        self, staging: Path, target: Path, digest: str, sums: Mapping[str, str]
    ) -> dict[str, Any]:
        marker = {"digest": digest, "complete": True, "downloads": dict(sums)}
        write_marker(staging, marker)
        replace_folder(staging, target)
        return marker

    def _may_replace(self, target: Path) -> None:
        """Refuse to replace a folder that was not made here."""
        if target.is_symlink() or (
            target.exists() and not (target / MARKER).is_file() and any(target.iterdir())
        ):
            raise DataError(
                f"{target}: holds files that were not fetched, they are left alone; move them "
                f"away, or name their folder in `data.sources.{target.name}`"
            )


def fetch(params: Mapping[str, Any], datasets: Sequence[DatasetConfig]) -> None:
    """Bring the raw files of all data sets and write their receipts.

    `params["data"]` holds root, sources {name: folder or archive}, mirrors {start of an address:
    folder} and workers. All data sets are tried; UserError tells of all that failed.
    """
    fetcher = _Fetcher(params["data"])
    origins: dict[str, DatasetConfig] = {}
    failed: list[UserError] = []
    for config in datasets:
        other = origins.setdefault(config.raw_name, config)
        if dict(other.raw) != dict(config.raw):
            raise ConfigError(
                f"raw: the data sets {other.name!r} and {config.name!r} share the source "
                f"{config.raw_name!r} and bring it in different ways; make `raw` the same in both"
            )
        try:
            brought = fetcher.bring(config)
            lists, sums = fetcher.lists(config)
        except UserError as error:
            failed.append(error)
            continue
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise UserError(
                f"{fetcher.root}: the disk is full ({error.strerror}); free some space, or point "
                "`data.root` (params.yaml) to another disk, and run again: what is done is kept"
            ) from error
        in_place = brought.kind == "local"
        digest, files, size = fingerprint_raw(config, brought.folder, times=in_place)
        receipt = Receipt(
            name=config.name,
            kind=brought.kind,
            root=relative_to_root(brought.folder, fetcher.root),
            files=files,
            bytes=size,
            fingerprint=digest,
            partitions=lists,
            downloads={**brought.downloads, **sums},
        )
        write_receipt(fetcher.root, receipt)
        log.info(
            "%s: %d files, %.1f MB in %s (%s)",
            config.name,
            files,
            size / 1e6,
            brought.folder,
            brought.kind,
        )
    if failed:
        raise type(failed[0])("\n\n".join(str(error) for error in failed))
