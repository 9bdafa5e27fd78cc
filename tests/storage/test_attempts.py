"""Attempts at a run in a store: torn uploads, attempts that overlap, a store that goes away."""

import os
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from store_parts import RUN, content, fill, made, on_node

from ecocseg.errors import ConfigError
from pipeline.config.params import ClusterParams
from pipeline.store.push import Superseded
from pipeline.store.remote import Store


@pytest.mark.parametrize(
    "text", ["s3:/bucket", "s3://", "results/store", "file://relative", "gs://bucket", "s3://a b"]
)
def test_other_uris_are_refused(text):
    with pytest.raises(ConfigError, match=r"storage: got .*allowed is null, s3://BUCKET/PREFIX or"):
        ClusterParams(storage=text)


def test_keys_and_contents(uri, tmp_path):
    store = Store(uri)
    assert (store.read("a/b"), store.keys("a")) == (None, {})
    store.write("a/b", b"first")
    store.write("a/b", b"second")
    source, data = tmp_path / "source", os.urandom(9_000_000)
    source.write_bytes(data)
    with source.open("rb") as file:
        entry = store.upload(file, "a/c/d.pt")
    assert store.read("a/b") == b"second"
    assert sorted(store.keys("a")) == ["a/b", "a/c/d.pt"]
    assert sorted(store.keys("a", recursive=False)) == ["a/b", "a/c"]
    store.download("a/c/d.pt", tmp_path / "copy", entry["sha256"])
    assert (tmp_path / "copy").read_bytes() == data
    with pytest.raises(OSError, match="SHA-256"):
        store.download("a/b", tmp_path / "other", entry["sha256"])
    assert not (tmp_path / "other").exists()
    store.delete("a/b")
    store.delete("a/b")
    store.delete_folder("a/c")
    store.delete_folder("a/never")
    assert store.keys("a") == {}


def test_cut_off_before_the_marker_the_last_complete_state_counts(uri, tmp_path, monkeypatch):
    first = on_node(uri, tmp_path / "1")
    complete = {"last.pt": b"step 10", "events.jsonl": b"10", "stages/a.csv": b"a"}
    fill(tmp_path / "1", complete)
    first._upload()
    fill(tmp_path / "1", {"last.pt": b"step 20", "events.jsonl": b"10 20"})
    write = Store.write

    def cut_off(self, key, data):
        if key.endswith("latest.json"):
            raise KeyboardInterrupt
        write(self, key, data)

    with monkeypatch.context() as patch:
        patch.setattr(Store, "write", cut_off)
        with pytest.raises(KeyboardInterrupt):
            first._upload()
    second = on_node(uri, tmp_path / "2")
    assert content(tmp_path / "2") == complete
    fill(tmp_path / "2", {"last.pt": b"step 21"})
    (tmp_path / "2/runs" / RUN / "stages/a.csv").unlink()
    second._upload()
    on_node(uri, tmp_path / "3")
    assert content(tmp_path / "3") == {"last.pt": b"step 21", "events.jsonl": b"10"}


def test_a_later_attempt_ends_the_earlier_one_and_is_never_overwritten(uri, tmp_path):
    lost = on_node(uri, tmp_path / "1")
    fill(tmp_path / "1", {"last.pt": b"step 10"})
    lost._upload()
    later = on_node(uri, tmp_path / "2")
    fill(tmp_path / "2", {"last.pt": b"step 15"})
    later._upload()
    fill(tmp_path / "1", {"last.pt": b"step 90, of the lost one"})
    with pytest.raises(Superseded, match=r"attempt 1 on .* ends, since attempt 2 on .* has taken"):
        lost._upload()
    # As if it had looked just before the later one began.
    lost._fence = lambda: None
    lost._upload()
    later._upload()
    on_node(uri, tmp_path / "3")
    assert content(tmp_path / "3") == {"last.pt": b"step 15"}
    # The node of the lost one has fallen behind too.
    later = on_node(uri, tmp_path / "1")
    assert content(tmp_path / "1") == {"last.pt": b"step 15"}
    assert int(later.attempt[:6]) == 4


def test_what_this_machine_could_not_upload_is_further_than_the_store(folder_uri, tmp_path):
    first = on_node(folder_uri, tmp_path / "1")
    fill(tmp_path / "1", {"last.pt": b"step 10"})
    first._upload()
    fill(tmp_path / "1", {"last.pt": b"step 20"})
    on_node(folder_uri, tmp_path / "1")
    assert content(tmp_path / "1") == {"last.pt": b"step 20"}


def test_only_what_changed_is_uploaded_and_nothing_is_left_lying(uri, tmp_path, monkeypatch):
    uploaded = []
    upload = Store.upload
    monkeypatch.setattr(
        Store, "upload", lambda self, file, key: uploaded.append(key) or upload(self, file, key)
    )
    attempt = on_node(uri, tmp_path)
    fill(tmp_path, {"last.pt": b"10", "best.pt": b"best", "events.jsonl": b"10"})
    attempt._upload()
    run = tmp_path / "runs" / RUN
    os.replace(run / "last.pt", run / "previous.pt")
    fill(tmp_path, {"last.pt": b"20", ".last.1.tmp.pt": b"half", "last.pt.unreadable": b"?"})
    attempt._upload()
    attempt._upload()
    assert [Path(key).name for key in uploaded] == [
        "last.pt",
        "best.pt",
        "events.jsonl",
        "last.pt",
    ]
    kept = Store(uri).keys(f"runs/{RUN}")
    assert sorted(Path(key).name for key in kept) == [
        "best.pt",
        "events.jsonl",
        "last.pt",
        "last.pt",
        "latest.json",
        "owner.json",
    ]


FILES = st.dictionaries(
    st.sampled_from(["last.pt", "previous.pt", "best.pt", "events.jsonl", "stages/x/1.png"]),
    st.binary(max_size=3),
    min_size=1,
)
LEFT = st.none() | st.integers(0, 12)
"""After how many operations the store goes away, or the attempt is killed; None: neither."""
STEPS = st.lists(
    st.tuples(st.just("write"), FILES)
    | st.tuples(st.just("upload"), LEFT)
    | st.tuples(st.integers(0, 2), LEFT),
    max_size=10,
)


@contextmanager
def store_that_goes_away(left):
    """Only the first `left` operations of the block reach the store or rename a file."""
    count = [0]

    def counted(method):
        def call(*arguments, **named):
            count[0] += 1
            if left is not None and count[0] > left:
                raise OSError("away")
            return method(*arguments, **named)

        return call

    with pytest.MonkeyPatch.context() as patch:
        for name in ("read", "write", "upload", "download", "keys", "delete", "delete_folder"):
            patch.setattr(Store, name, counted(getattr(Store, name)))
        patch.setattr(os, "replace", counted(os.replace))
        yield


@settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))
@given(steps=STEPS)
def test_the_next_machine_finds_a_folder_as_it_was_at_an_upload(steps, tmp_path_factory):
    root = tmp_path_factory.mktemp("model")
    uri, node, number = made(root / "store"), 0, 1
    attempt, begun = on_node(uri, root / "0"), {0: 1}
    # What the store may hold: the number of an attempt with what its node had when it uploaded.
    # An upload that broke off has arrived or has not.
    held = [(0, {})]
    for action, value in steps:
        if action == "write":
            fill(root / str(node), value)
        elif action == "upload":
            state = (number, content(root / str(node)))
            try:
                with store_that_goes_away(value):
                    attempt._upload()
                held = [state]
            except OSError:
                held.append(state)
        else:
            before = content(root / str(action)) if (root / str(action)).exists() else {}
            with suppress(OSError), store_that_goes_away(value):
                on_node(uri, root / str(action))
            node, number = action, number + 2
            attempt = on_node(uri, root / str(node))
            furthest = begun.get(node, 0)
            # A node that was never overtaken is at least as far as what it uploaded.
            held = [
                (of, files)
                for of, files in held
                if content(root / str(node)) == (before if furthest >= of else files)
            ]
            assert held, "neither what was here nor what was uploaded"
            begun[node] = number
