"""Downloads by pooch: checked by SHA-256, resumed after an interruption, or read from a mirror."""

import json
import logging
import os
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pooch
import requests

from ecocseg.data.config import RemoteFile
from ecocseg.errors import DataError, UserError
from ecocseg.files import atomic_write, require_space, sha256_file

log = logging.getLogger(__name__)

Progress = Callable[[int, int], None]
"""Called with bytes done and bytes in all (0: the server does not say)."""
TIMEOUT = (10.0, 60.0)
"""Seconds to connect, and between two blocks."""
TRIES = 5
"""Connections in a row that bring no byte before a download is given up."""
_BLOCK = 1 << 16
_PAUSE = 1.0


class ResumingDownloader:
    """A pooch downloader that keeps what an interrupted download brought and asks for the rest.

    The part lies beside the target as `<name>.part`, with the server's tag in `<name>.part.tag`:
    the server continues it only if the file is still the same (`If-Range`), else it starts anew.
    """

    def __init__(self, part: Path, progress: Progress | None = None) -> None:
        self.part, self.progress = part, progress
        self.tag = part.with_name(part.name + ".tag")

    def __call__(self, url: str, output_file: Any, pooch: Any, check_only: bool = False) -> None:
        """Download `url` to `output_file`; raises requests' exceptions after `TRIES` failures."""
        self.part.parent.mkdir(parents=True, exist_ok=True)
        fruitless = 0
        while True:
            before = self._have()
            try:
                self._continue(url)
                break
            except (requests.ConnectionError, requests.Timeout, _CutShort) as error:
                # A refused connection says that nobody is there; a broken one may come back.
                fruitless = 0 if self._have() > before else fruitless + 1
                if fruitless >= TRIES or (before == 0 == self._have() and fruitless >= 2):
                    raise requests.ConnectionError(str(error)) from error
                time.sleep(_PAUSE * fruitless)
        os.replace(self.part, output_file)
        self.tag.unlink(missing_ok=True)

    def _have(self) -> int:
        return self.part.stat().st_size if self.part.is_file() else 0

    def _continue(self, url: str) -> None:
        have = self._have()
        headers = {"Accept-Encoding": "identity"}
        tag = self.tag.read_text() if have and self.tag.is_file() else ""
        if tag:
            headers |= {"Range": f"bytes={have}-", "If-Range": tag}
        with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as answer:
            if answer.status_code == 416:
                self.part.unlink()
                raise _CutShort("the server has less than was downloaded before: starting anew")
            answer.raise_for_status()
            start = have if answer.status_code == 206 and _starts_at(answer, have) else 0
            length = int(answer.headers.get("Content-Length", 0))
            total = start + length if length else 0
            require_space(self.part.parent, length)
            tag = answer.headers.get("ETag") or answer.headers.get("Last-Modified") or ""
            # A weak tag does not promise the same bytes, so it cannot carry a resumption.
            atomic_write(self.tag, "" if tag.startswith("W/") else tag)
            with self.part.open("r+b" if start else "wb") as file:
                file.seek(start)
                file.truncate()
                done = start
                try:
                    for block in answer.iter_content(_BLOCK):
                        file.write(block)
                        done += len(block)
                        if self.progress:
                            self.progress(done, total)
                except (requests.exceptions.ChunkedEncodingError, requests.ConnectionError) as e:
                    raise _CutShort(str(e)) from e
            if total and done < total:
                raise _CutShort(f"the connection ended after {done} of {total} bytes")


class Unreachable(UserError):
    """A server that does not answer, or does not have the file."""


class _CutShort(Exception):
    """The answer ended before the file did."""


def _starts_at(answer: requests.Response, offset: int) -> bool:
    return answer.headers.get("Content-Range", "").startswith(f"bytes {offset}-")


def file_name(url: str) -> str:
    """Name that a download gets on disk: the last part of the address' path."""
    return Path(unquote(urlsplit(url).path)).name


def mirrored(url: str, mirrors: Mapping[str, str | None]) -> Path | None:
    """Return the local file of an address by `data.mirrors`: {start of the address: folder}."""
    for start, folder in mirrors.items():
        if folder and (url == start or url.startswith(start.rstrip("/") + "/")):
            rest = url[len(start) :].lstrip("/")
            path = Path(folder).expanduser() / unquote(rest)
            if path.is_file():
                return path
            raise DataError(
                f"{path}: not there, and `data.mirrors` says that {url} lies there; copy it, or "
                "drop that entry"
            )
    return None


def download(
    file: RemoteFile,
    folder: Path,
    checksums: Path,
    *,
    mirrors: Mapping[str, str | None] | None = None,
    progress: Progress | None = None,
    instead: str = "",
) -> tuple[Path, str]:
    """Bring a file into `folder` (or find it in a mirror); return its path and SHA-256.

    Without a known checksum the first download's is kept in the file `checksums` and holds from
    then on. Raises UserError when the server cannot be reached (with the text `instead`: what to
    put where), DataError when the content is not the expected one; then nothing is left behind.
    """
    seen: dict[str, str] = json.loads(checksums.read_text()) if checksums.is_file() else {}
    expected = file.sha256 or seen.get(file.url)
    local = mirrored(file.url, mirrors or {})
    if local is not None:
        found = sha256_file(local)
        if expected and found != expected:
            raise DataError(_mismatch(str(local), found, file, expected, checksums))
        return local, found
    name = file_name(file.url)
    path = folder / name
    part = folder / f"{name}.part"
    # pooch announces files without a checksum itself, in other words and to everyone's log.
    pooch.get_logger().setLevel(logging.ERROR)
    if path.is_file() and expected and sha256_file(path) != expected:
        path.unlink()
    try:
        pooch.retrieve(
            file.url,
            known_hash=f"sha256:{expected}" if expected else None,
            fname=name,
            path=folder,
            downloader=ResumingDownloader(part, progress),
        )
    except ValueError as error:
        # pooch's way of saying that the hash differs; its temporary file is gone by now.
        raise DataError(_mismatch(file.url, _hash_in(error), file, expected, checksums)) from error
    except requests.HTTPError as error:
        status = error.response.status_code if error.response is not None else "?"
        raise Unreachable(f"{file.url}: the server answered {status}. {instead}") from error
    except requests.RequestException as error:
        raise Unreachable(f"{file.url}: cannot be reached ({_short(error)}). {instead}") from error
    found = expected or sha256_file(path)
    if expected is None:
        log.warning(
            "%s: no checksum is known for this file; %s is kept in %s and holds from now on",
            file.url,
            found,
            checksums,
        )
        atomic_write(checksums, json.dumps(seen | {file.url: found}, indent=1, sort_keys=True))
    return path, found


def _mismatch(
    what: str, found: str, file: RemoteFile, expected: str | None, checksums: Path
) -> str:
    where = "the data set's YAML (sha256)" if file.sha256 else str(checksums)
    return (
        f"{what}: has SHA-256 {found}, expected {expected} by {where}; the file was changed or "
        "damaged on its way: try again, and correct the checksum only if you trust the new file"
    )


def _hash_in(error: ValueError) -> str:
    """The hash that pooch computed, from its message `... but got <hash>. Deleted ...`."""
    found = re.search(r"got ([0-9a-f]{64})", str(error))
    return found.group(1) if found else "another value"


def _short(error: Exception) -> str:
    """The last cause, without requests' nesting."""
    cause: BaseException = error
    while cause.__cause__ or cause.__context__:
        cause = cause.__cause__ or cause.__context__ or cause
    return str(cause)
