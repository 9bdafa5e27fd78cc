from pathlib import Path

import pytest

from ecocseg.errors import ConfigError, UserError
from pipeline.tracking import (
    RunTracker,
    TrackingConfig,
    network_file_system,
    prepare_store,
    refuse_network_disk,
    ui_command,
)

MOUNTS = """\
/dev/vda / ext4 rw,relatime 0 0
server:/export /mnt/share nfs4 rw,vers=4.2 0 0
/dev/vdb /mnt/share/local xfs rw 0 0
//nas/data /mnt/my\\040nas cifs rw 0 0
me@host:/ /home/me/remote fuse.sshfs rw 0 0
overlay /containers fuse.fuse-overlayfs rw 0 0
scratch /scratch lustre rw 0 0
/dev/vdc /stacked ext4 rw 0 0
server:/over /stacked nfs rw 0 0
short line
"""


@pytest.mark.parametrize(
    "path, kind",
    [
        ("/home/me/project/results", None),
        ("/mnt/share/results/mlflow", "nfs4"),
        ("/mnt/share", "nfs4"),
        ("/mnt/shared/results", None),
        ("/mnt/share/local/results", None),
        ("/mnt/my nas/results", "cifs"),
        ("/home/me/remote/results", "fuse.sshfs"),
        ("/containers/results", None),
        ("/scratch/me", "lustre"),
        ("/stacked/results", "nfs"),
    ],
)
def test_the_deepest_and_last_mount_tells_the_kind_of_disk(path: str, kind: str | None):
    assert network_file_system(Path(path), MOUNTS) == kind


def test_a_link_to_a_network_disk_is_seen_through(tmp_path: Path):
    (tmp_path / "share").mkdir()
    (tmp_path / "results").symlink_to(tmp_path / "share")
    mounts = f"/dev/vda / ext4 rw 0 0\nhost:/e {(tmp_path / 'share').resolve()} nfs rw 0 0\n"
    assert network_file_system(tmp_path / "results" / "mlflow", mounts) == "nfs"
    assert network_file_system(tmp_path / "mlflow", mounts) is None


def test_this_machine_has_a_readable_mount_table(tmp_path: Path):
    assert network_file_system(Path("/proc"), None) is None
    refuse_network_disk(TrackingConfig(folder=str(tmp_path)))


def test_sqlite_on_a_network_disk_is_refused_and_a_server_is_not(tmp_path: Path):
    with pytest.raises(UserError, match=r"nfs4.*from a local disk.*tracking\.uri") as refused:
        refuse_network_disk(TrackingConfig(folder="/mnt/share/results/mlflow"), MOUNTS)
    assert "/mnt/share/results/mlflow/mlflow.db" in str(refused.value)
    with pytest.raises(UserError, match="cifs"):
        refuse_network_disk(TrackingConfig(uri="sqlite:////mnt/my nas/mlflow.db"), MOUNTS)
    refuse_network_disk(TrackingConfig(folder="/mnt/share/x", uri="http://host:5000"), MOUNTS)


@pytest.mark.parametrize(
    "uri", ["", "mlruns", "file:///tmp/x", "sqlite:///", "postgresql://h/db", "http://", "ftp://h"]
)
def test_other_addresses_are_refused_with_what_is_allowed(uri: str):
    with pytest.raises(ConfigError, match=r"tracking\.uri: got .* allowed null"):
        TrackingConfig(uri=uri)


def test_other_intervals_are_refused():
    with pytest.raises(ConfigError, match=r"tracking\.system_every_s: got -1"):
        TrackingConfig(system_every_s=-1)


def test_paths_become_absolute(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = TrackingConfig(folder="results/mlflow")
    monkeypatch.chdir("/")
    assert config.database == tmp_path / "results" / "mlflow" / "mlflow.db"
    assert config.store_uri == f"sqlite:///{tmp_path}/results/mlflow/mlflow.db"
    assert config.artifact_root == tmp_path / "results" / "mlflow" / "artifacts"
    elsewhere = TrackingConfig(uri=f"sqlite:///{tmp_path}/db/own.db")
    assert elsewhere.artifact_root == tmp_path / "db" / "artifacts"
    assert TrackingConfig(uri="https://host/mlflow").database is None


def test_the_page_is_refused_where_there_is_nothing_to_show(tmp_path: Path):
    with pytest.raises(UserError, match=r"no tracking store yet.*make repro"):
        ui_command(TrackingConfig(folder=str(tmp_path)))
    with pytest.raises(UserError, match=r"http://host:5000 is a server; open that address"):
        ui_command(TrackingConfig(uri="http://host:5000"))


def test_disabled_tracking_leaves_events_and_nothing_else(tmp_path: Path):
    config = TrackingConfig(enabled=False, folder=str(tmp_path / "mlflow"))
    assert prepare_store(config, ["any"]) is None
    with RunTracker(config, tmp_path / "run", "abc", "any", {}, {}) as tracker:
        tracker.events.append("step", 1, {"loss": 1.0})
        tracker.document("note.json", {})
        tracker.sync()
        assert tracker.finish()
    assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == ["events.jsonl"]
