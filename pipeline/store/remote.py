"""An object store or folder for runs, where machines share no results folder.

Below its URI (what belongs to smoke runs below `smoke/`):
runs/<run_id>/<attempt>/...      files of a run, uploaded by one attempt at it (pipeline.store.push)
records/<run_id>/<attempt>.json  of a finished run
status/<run_id>.json             for the live view
stop/<run_id>                    somebody wants the run to stop

Credentials and address come from the usual variables of the environment: AWS_ACCESS_KEY_ID,
AWS_SECRET_ACCESS_KEY, AWS_REGION, AWS_ENDPOINT_URL.
"""

import hashlib
import os
import re
import secrets
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, TypeVar
from urllib.parse import unquote

from ecocseg.errors import UserError
from ecocseg.files import atomic_path

URI_FORM = "null, s3://BUCKET/PREFIX or file:///FOLDER"
PATIENCE_S = 120.0
"""How long a store that does not answer is asked again where nothing goes on without it."""
_URI = re.compile(r"s3://[^/\s]+(/[^\s]*)?|file:///.+")
_CONNECT_S, _REQUEST_S, _TRIES = 5.0, 60.0, 3
_BLOCK = 8 << 20
_PAUSE_S = (1.0, 2.0, 4.0, 8.0, 15.0)
T = TypeVar("T")


def is_storage_uri(text: str | None) -> bool:
    """Whether `text` has one of the forms of URI_FORM."""
    return text is None or _URI.fullmatch(text) is not None


class Store:
    """Keys (relative paths) and bytes below a URI, or below its folder `within`.

    Every method may raise OSError: the store is away, refuses, or its local folder is not there.
    """

    def __init__(self, uri: str, within: str = "") -> None:
        # Half a second of imports that nobody without a store pays.
        from pyarrow import fs

        self.uri = uri.rstrip("/")
        scheme, _, path = self.uri.partition("://")
        self._local = scheme == "file"
        self._base = unquote(path) if self._local else path
        self._root = f"{self._base}/{within}".rstrip("/")
        self._files = (
            fs.LocalFileSystem()
            if self._local
            else fs.S3FileSystem(
                endpoint_override=os.environ.get("AWS_ENDPOINT_URL") or None,
                connect_timeout=_CONNECT_S,
                request_timeout=_REQUEST_S,
                retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=_TRIES),
            )
        )
        self._selector = fs.FileSelector

    def read(self, key: str) -> bytes | None:
        """The content of `key`, None when there is no such key."""
        try:
            with self._files.open_input_stream(self._path(key)) as stream:
                content: bytes = stream.read()
                return content
        except FileNotFoundError:
            return None

    def write(self, key: str, content: bytes) -> None:
        """Give `key` a small content; a reader sees the old one or the new one."""
        path = self._prepared(key)
        if not self._local:
            # An object appears when its upload is complete.
            self._put(path, content)
            return
        temporary = f"{os.path.dirname(path)}/.{secrets.token_hex(4)}.tmp"
        self._put(temporary, content)
        self._files.move(temporary, path)

    def upload(self, file: BinaryIO, key: str) -> dict[str, Any]:
        """Store what is left of `file` as `key`; its size in bytes and SHA-256.

        Cut off, it may leave a part: such keys are named by a marker once they are complete.
        """
        size, digest = 0, hashlib.sha256()
        with self._files.open_output_stream(self._prepared(key)) as stream:
            while block := file.read(_BLOCK):
                stream.write(block)
                digest.update(block)
                size += len(block)
        return {"key": key, "size": size, "sha256": digest.hexdigest()}

    def download(self, key: str, path: Path, sha256: str | None = None) -> None:
        """Write `key` to `path`, atomically; OSError when it is not there or not of `sha256`."""
        digest = hashlib.sha256()
        with (
            self._files.open_input_stream(self._path(key)) as stream,
            atomic_path(path) as temporary,
        ):
            with temporary.open("wb") as file:
                while block := stream.read(_BLOCK):
                    file.write(block)
                    digest.update(block)
                file.flush()
                os.fsync(file.fileno())
            if sha256 not in (None, digest.hexdigest()):
                raise OSError(f"{self.uri}/{key}: is not what was uploaded (other SHA-256)")

    def keys(self, folder: str, recursive: bool = True) -> dict[str, Any]:
        """Keys below `folder` with pyarrow's FileInfo; of folders too unless `recursive`."""
        selector = self._selector(self._path(folder), recursive=recursive, allow_not_found=True)
        return {
            info.path[len(self._root) + 1 :]: info
            for info in self._files.get_file_info(selector)
            if not info.base_name.startswith(".") and (info.is_file or not recursive)
        }

    def delete(self, key: str) -> None:
        """Remove a key, if it is there."""
        try:
            self._files.delete_file(self._path(key))
        except FileNotFoundError:
            return

    def delete_folder(self, folder: str) -> None:
        """Remove all keys below `folder`."""
        try:
            self._files.delete_dir(self._path(folder))
        except FileNotFoundError:
            return

    def _path(self, key: str) -> str:
        if self._local and not os.path.isdir(self._base):
            # A disk that is not mounted must not pass for an empty store.
            raise OSError(f"there is no folder {self._base}")
        return f"{self._root}/{key}"

    def _prepared(self, key: str) -> str:
        path = self._path(key)
        if self._local:
            self._files.create_dir(os.path.dirname(path), recursive=True)
        return path

    def _put(self, path: str, content: bytes) -> None:
        with self._files.open_output_stream(path) as stream:
            stream.write(content)


def persistent(uri: str, action: Callable[[], T], patience_s: float | None = None) -> T:
    """The result of `action`, tried again while the store fails, for `patience_s` seconds.

    Raises UserError that names the store, and PATIENCE_S by default is how long it takes.
    """
    deadline = time.monotonic() + (PATIENCE_S if patience_s is None else patience_s)
    tries = 0
    while True:
        try:
            return action()
        except OSError as error:
            pause = _PAUSE_S[min(tries, len(_PAUSE_S) - 1)]
            if time.monotonic() + pause > deadline:
                raise UserError(_unusable(uri, error)) from error
        tries += 1
        time.sleep(pause)


def require_store(uri: str | None) -> None:
    """Raise UserError unless something can be written to, read from and removed from the store."""
    if uri is None:
        return
    try:
        store = Store(uri)
        key, content = f"probe/{socket.gethostname()}-{os.getpid()}", secrets.token_bytes(8)
        store.write(key, content)
        found = store.read(key)
        store.delete(key)
    except OSError as error:
        raise UserError(_unusable(uri, error)) from error
    if found != content:
        raise UserError(_unusable(uri, "what was written is not what is read"))


def _unusable(uri: str, why: object) -> str:
    return (
        f"cluster.storage: {uri} cannot be used from {socket.gethostname()} ({why}); start the "
        "store, or mend cluster.storage, AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID and "
        "AWS_SECRET_ACCESS_KEY (set them before `ray start` on every machine), and start the same "
        "command again"
    )
