"""Archives unpacked so that no file lands outside the target, and all of them or none."""

import lzma
import os
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from ecocseg.errors import DataError
from ecocseg.files import require_space

SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
_BLOCK = 1 << 20
_DAMAGED = (
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    OSError,
    RuntimeError,
)
"""What the readers raise for a bad archive (RuntimeError: a zip that wants a password)."""


@dataclass(frozen=True)
class _Member:
    name: str
    size: int
    kind: str
    """file, folder, or what else it is (a link, a device)."""
    open: Callable[[], IO[bytes]]


def is_archive(path: Path) -> bool:
    """Whether a file's name says that it is an archive which `unpack` reads."""
    return path.name.lower().endswith(SUFFIXES) and not path.name.startswith(".")


def unpack(
    archive: Path,
    target: Path,
    subfolder: str = "",
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Unpack into the folder `target`; of `subfolder` only its content, if given.

    Every name is checked before the first byte is written: DataError for a member outside of the
    target, a link, a device, an encrypted or damaged archive, or a `subfolder` that it lacks;
    UserError when the disk is too small. `progress` is called with bytes done and bytes in all.
    """
    prefix = PurePosixPath(subfolder).parts
    try:
        with _members(archive) as members:
            wanted = []
            for member in members:
                parts = _checked(archive, member)
                if parts[: len(prefix)] != prefix or len(parts) == len(prefix):
                    continue
                if member.kind == "file":
                    wanted.append((member, Path(*parts[len(prefix) :])))
            if not wanted:
                where = f" below {subfolder}" if subfolder else ""
                raise DataError(f"{archive}: holds no file{where}; is it the right archive?")
            total = sum(member.size for member, _ in wanted)
            require_space(target, total)
            done = 0
            for member, relative in wanted:
                path = target / relative
                path.parent.mkdir(parents=True, exist_ok=True)
                with member.open() as source, path.open("wb") as sink:
                    shutil.copyfileobj(source, sink, _BLOCK)
                done += member.size
                if progress:
                    progress(done, total)
    except _DAMAGED as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise DataError(
            f"{archive}: cannot be unpacked ({error}); the archive is damaged, cut short or locked "
            "by a password: download it again"
        ) from error


def _checked(archive: Path, member: _Member) -> tuple[str, ...]:
    """The parts of a member's name; DataError when it must not be written."""
    path = PurePosixPath(member.name.replace("\\", "/"))
    parts = tuple(part for part in path.parts if part != ".")
    if path.is_absolute() or ".." in parts or "\0" in member.name or ":" in (parts or ("",))[0]:
        raise DataError(
            f"{archive}: its member {member.name!r} would be written outside of the target folder; "
            "nothing was unpacked, do not trust this archive"
        )
    if member.kind not in ("file", "folder"):
        raise DataError(
            f"{archive}: its member {member.name!r} is {member.kind}, only files and folders are "
            "unpacked; unpack it yourself and give the folder in `data.sources`"
        )
    return parts


@contextmanager
def _members(archive: Path) -> Iterator[list[_Member]]:
    if archive.name.lower().endswith(".zip"):
        with zipfile.ZipFile(archive) as opened:
            yield [_zip_member(opened, info) for info in opened.infolist()]
    else:
        with tarfile.open(archive) as opened_tar:
            yield [_tar_member(opened_tar, info) for info in opened_tar.getmembers()]


def _zip_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> _Member:
    mode = info.external_attr >> 16
    kind = "folder" if info.is_dir() else "file"
    if stat.S_ISLNK(mode):
        kind = "a link"
    return _Member(info.filename, info.file_size, kind, lambda: archive.open(info))


def _tar_member(archive: tarfile.TarFile, info: tarfile.TarInfo) -> _Member:
    def opened() -> IO[bytes]:
        stream = archive.extractfile(info)
        if stream is None:
            raise tarfile.TarError(f"no content for {info.name}")
        return stream

    kind = "a device"
    if info.isfile():
        kind = "file"
    elif info.isdir():
        kind = "folder"
    elif info.issym() or info.islnk():
        kind = "a link"
    return _Member(info.name, info.size, kind, opened)


def replace_folder(staging: Path, target: Path) -> None:
    """Put the finished folder `staging` in the place of `target` (which is ours to remove)."""
    if target.exists():
        shutil.rmtree(target)
    os.replace(staging, target)
