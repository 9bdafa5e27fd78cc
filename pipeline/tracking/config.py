"""Where tracking goes: the configuration, and whether a disk may carry the SQLite store."""

import re
from dataclasses import dataclass
from pathlib import Path

from ecocseg.errors import ConfigError, UserError

# Kinds of file systems on which SQLite's locks are unreliable or slow; `fuse.` ones are remote too.
_SHARED = "nfs nfs3 nfs4 cifs smb smb2 smb3 smbfs afs ncpfs davfs ceph lustre glusterfs gpfs beegfs"
_CLUSTERED = "panfs orangefs pvfs2 gfs2 ocfs2 coda wekafs quobyte moosefs juicefs"
NETWORK_FILE_SYSTEMS = frozenset(f"{_SHARED} {_CLUSTERED}".split())
_LOCAL_FUSE = frozenset({"fuse.fuse-overlayfs", "fuse.mergerfs", "fuse.ntfs-3g", "fuse.ext2"})


@dataclass(frozen=True, kw_only=True)
class TrackingConfig:
    """What users may set about tracking.

    uri None keeps everything below `folder`: a SQLite file and the artifacts beside it, which is
    right for one machine. For several machines give the address of an MLflow server,
    `http://host:5000`. `sqlite:///path/to/file.db` puts the SQLite file and artifacts elsewhere.
    prefix: put before every experiment's name, for a server that several projects share.
    system_every_s: seconds between samples of CPU and memory; 0 takes none.
    """

    enabled: bool = True
    uri: str | None = None
    folder: str = "results/mlflow"
    prefix: str = ""
    system_every_s: float = 10.0

    def __post_init__(self) -> None:
        """Check the fields and make paths absolute: a worker may have another current folder.

        Raises:
            ConfigError: a field is out of range.
        """
        object.__setattr__(self, "folder", str(Path(self.folder).absolute()))
        if not 0 <= self.system_every_s <= 3600:
            raise ConfigError(
                f"tracking.system_every_s: got {self.system_every_s}, allowed 0 (off) to 3600"
            )
        if self.uri is None:
            return
        if self.uri.startswith("sqlite:///") and len(self.uri) > len("sqlite:///"):
            path = Path(self.uri.removeprefix("sqlite:///")).absolute()
            object.__setattr__(self, "uri", f"sqlite:///{path}")
        elif not re.fullmatch(r"https?://[^/\s]+.*", self.uri):
            raise ConfigError(
                f"tracking.uri: got {self.uri!r}, allowed null (SQLite below the results folder), "
                "sqlite:///PATH, or http(s)://HOST:PORT of an MLflow server; a PostgreSQL "
                "database goes behind such a server (mlflow server --backend-store-uri ...)"
            )

    @property
    def database(self) -> Path | None:
        """The SQLite file, or None when an MLflow server is used."""
        if self.uri is None:
            return Path(self.folder) / "mlflow.db"
        if self.uri.startswith("sqlite:///"):
            return Path(self.uri.removeprefix("sqlite:///"))
        return None

    @property
    def store_uri(self) -> str:
        """What MLflow calls the tracking URI."""
        return f"sqlite:///{self.database}" if self.database else str(self.uri)

    @property
    def artifact_root(self) -> Path:
        """The folder in which artifacts of the SQLite store lie."""
        return (self.database.parent if self.database else Path(self.folder)) / "artifacts"


def network_file_system(path: Path, mounts: str | None = None) -> str | None:
    """The kind of network file system that holds `path`, or None when the disk is local.

    mounts: text in the form of /proc/mounts (read from there when None; a system that has no
    such file counts as local).
    """
    if mounts is None:
        table = Path("/proc/mounts")
        mounts = table.read_text(errors="replace") if table.exists() else ""
    resolved = Path(path).resolve()
    kind, depth = None, -1
    for line in mounts.splitlines():
        fields = line.split()
        if len(fields) < 3:
            continue
        # The kernel writes a blank in a name as \040.
        point = Path(re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), fields[1]))
        # The deepest mount point wins; of two on the same point, the later one lies on top.
        if resolved.is_relative_to(point) and len(point.parts) >= depth:
            kind, depth = fields[2], len(point.parts)
    if kind is None or kind in _LOCAL_FUSE:
        return None
    return kind if kind in NETWORK_FILE_SYSTEMS or kind.startswith("fuse.") else None


def refuse_network_disk(config: TrackingConfig, mounts: str | None = None) -> None:
    """Raise UserError when the SQLite store of `config` would lie on a network disk."""
    if config.database is None:
        return
    if kind := network_file_system(config.database.parent, mounts):
        raise UserError(
            f"tracking: {config.database} lies on a network disk ({kind}), where SQLite loses data "
            "under several writers; run the project from a local disk, or start "
            "`mlflow server` and set tracking.uri to http://HOST:5000, or set "
            "tracking.enabled: false"
        )
