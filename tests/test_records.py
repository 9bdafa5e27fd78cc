import copy
import json
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ecocseg.errors import UserError
from pipeline.store.record import (
    comparable,
    is_finished,
    read_record,
    read_records,
    read_short_record,
    record_path,
    write_record,
)
from pipeline.store.record_text import read_diagnostics, read_short, read_training, to_text

sys.path.insert(0, str(Path(__file__).parent / "tracking"))
from tracking_support import make_record


def test_a_record_is_read_as_it_was_written(tmp_path: Path):
    record = make_record()
    path = write_record(tmp_path / "records", record)
    assert path == record_path(tmp_path / "records", "abc123")
    assert read_record(path) == record
    assert [p.name for p in path.parent.iterdir()] == ["abc123.json"]


def test_a_record_may_say_what_its_network_costs_and_whose_copy_it_is(tmp_path: Path):
    network = {"parameters": 85_160_000, "macs": 116.64e9, "size": [512, 512]}
    record = make_record() | {"network": network, "same_as": "other-run"}
    assert read_record(write_record(tmp_path, record)) == record


def test_a_record_per_folder_has_a_matrix_for_each(tmp_path: Path):
    # Through JSON: last and best share what they hold.
    record = json.loads(json.dumps(make_record()))
    record["protocol"] |= {"score": "dice", "per": "folder", "classes": ["a"]}
    with pytest.raises(UserError, match=r"last\.student\.confusion: has a row that"):
        write_record(tmp_path, record)
    for when in ("last", "best"):
        for result in record["results"][when].values():
            if isinstance(result, dict):
                result["confusion"] = [result["confusion"]] * 2
    assert read_record(write_record(tmp_path, record)) == record
    record["results"]["best"]["student"]["confusion"] = []
    with pytest.raises(UserError, match=r"best\.student\.confusion: got no list of matrices"):
        write_record(tmp_path, record)
    del record["protocol"]["per"]
    with pytest.raises(UserError, match=r"last\.student\.confusion: got no list of 3 rows"):
        write_record(tmp_path, record)


def test_only_a_written_record_counts_as_finished(tmp_path: Path):
    assert not is_finished(tmp_path / "records", "abc123")
    write_record(tmp_path / "records", make_record())
    assert is_finished(tmp_path / "records", "abc123")
    assert not is_finished(tmp_path / "records", "abc")


def test_records_are_read_in_a_fixed_order_and_half_written_ones_are_left_out(tmp_path: Path):
    assert read_records(tmp_path / "absent") == []
    for run_id in ("b", "c", "a"):
        write_record(tmp_path, make_record(run_id))
    (tmp_path / ".d.123.tmp.json").write_text('{"schema": 1, "run')
    assert [record["run_id"] for record in read_records(tmp_path)] == ["a", "b", "c"]


def test_comparison_leaves_out_host_and_time_only(tmp_path: Path):
    one, other = make_record(), make_record()
    other["environment"] = {"host": "elsewhere"}
    other["timing"] = {"seconds": 99.0}
    assert comparable(one) == comparable(other)
    other["results"]["last"]["student"]["confusion"][0][0] += 1
    assert comparable(one) != comparable(other)
    assert set(one) - set(comparable(one)) == {"environment", "timing"}


def test_numbers_that_json_lacks_become_null_so_that_equal_runs_compare_equal(tmp_path: Path):
    record = make_record()
    record["curves"]["train"][0]["loss"] = float("nan")
    record["protocol"]["image_size"] = (96, 192)
    read = read_record(write_record(tmp_path, record))
    assert read["curves"]["train"][0]["loss"] is None
    assert read["protocol"]["image_size"] == [96, 192]
    assert comparable(read) == comparable(copy.deepcopy(read))


@pytest.mark.parametrize(
    "path, value, message",
    [
        (["schema"], 2, "schema: got 2, allowed 1"),
        (["seed"], "0", "seed: got '0', allowed a int"),
        (["seed"], True, "seed: got True"),
        (["same_as"], 0, "same_as: got 0, allowed a str"),
        (["extra"], 1, "extra: is unknown"),
        (["run_id"], "a/b", "run_id: got 'a/b'"),
        (["run_id"], "", "run_id: got ''"),
        (["curves", "eval"], [{"miou": 1}], "curves.eval: has a point without step"),
        (["curves", "train"], None, "curves.train: got no list"),
        (["results", "last", "student"], None, "results.last.student.confusion"),
        (["results", "last", "step"], "300", "results.last: got no mapping"),
        (["results", "best", "student", "confusion"], [[1]], "list of 3 rows"),
        (["results", "last", "teacher", "confusion", 0], [1], "list of 3 counts"),
        (["results", "last", "teacher", "confusion", 0, 0], -1, "no pixel count"),
        (["results", "last", "teacher", "confusion", 0, 0], 0.5, "no pixel count"),
        (["spec", "odd"], object(), "plain numbers"),
        (["same_as"], "a/b", "same_as: got 'a/b', allowed a run id"),
        (["same_as"], None, "same_as: got None"),
        (["network"], {"parameters": 1, "macs": 2.0}, "network.size: got None"),
        (["network"], {"parameters": 1, "macs": "2", "size": [3, 4]}, "network.macs: got '2'"),
    ],
)
def test_a_record_out_of_schema_is_refused_by_name_and_nothing_is_written(
    tmp_path: Path, path, value, message
):
    record = make_record()
    place = record
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(UserError, match=r"\.json") as refused:
        write_record(tmp_path, record)
    assert message in str(refused.value)
    assert list(tmp_path.iterdir()) == []


def make_diagnostics():
    counted = {"pixels": 4, "rank": [3, 1, 0], "bits": {}, "classes": {}, "labels": {}}
    return {"images": 1, "student": counted, "teacher": None}


def test_diagnostics_may_be_there_and_are_compared(tmp_path: Path):
    record = make_record() | {"diagnostics": make_diagnostics()}
    assert read_record(write_record(tmp_path, record)) == record
    assert comparable(record) != comparable(make_record())
    other = copy.deepcopy(record)
    other["diagnostics"]["student"]["rank"][0] += 1
    assert comparable(record) != comparable(other)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"student": None}, "diagnostics.student: got None, allowed a mapping"),
        ({"teacher": []}, "diagnostics.teacher: got [], allowed a mapping"),
        ({"student": {"rank": []}}, "diagnostics.student.pixels: got no int"),
    ],
)
def test_diagnostics_out_of_schema_are_refused(tmp_path: Path, change, message):
    record = make_record() | {"diagnostics": make_diagnostics() | change}
    with pytest.raises(UserError) as refused:
        write_record(tmp_path, record)
    assert message in str(refused.value)
    del record["diagnostics"]["teacher"]
    record["diagnostics"]["student"] = make_diagnostics()["student"]
    with pytest.raises(UserError, match=r"diagnostics\.teacher: is missing"):
        write_record(tmp_path, record)
    with pytest.raises(UserError, match="diagnostics: got None, allowed a dict"):
        write_record(tmp_path, make_record() | {"diagnostics": None})


@pytest.mark.parametrize("field", ["classes", "protocol", "results", "data", "timing"])
def test_a_missing_field_is_named(tmp_path: Path, field: str):
    record = make_record()
    del record[field]
    with pytest.raises(UserError, match=f"{field}: is missing"):
        write_record(tmp_path, record)
    record = make_record()
    del record["protocol"]["mode"]
    with pytest.raises(UserError, match=r"protocol\.mode: is missing"):
        write_record(tmp_path, record)


def test_unreadable_files_are_named(tmp_path: Path):
    path = write_record(tmp_path, make_record())
    whole = path.read_text()
    path.write_text(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"abc123\.json: is no JSON"):
        read_records(tmp_path)
    path.write_text(json.dumps({**json.loads(whole), "schema": 7}))
    with pytest.raises(UserError, match=r"abc123\.json: schema: got 7, allowed 1"):
        is_finished(tmp_path, "abc123")
    path.write_text("[1, 2]")
    with pytest.raises(UserError, match="schema: got None"):
        read_record(path)
    path.rename(tmp_path / "other.json")
    (tmp_path / "other.json").write_text(whole)
    with pytest.raises(UserError, match="file of another name"):
        read_record(tmp_path / "other.json")


def test_a_short_record_is_the_record_without_its_long_parts(tmp_path: Path):
    for diagnosed in (False, True):
        record = json.loads(json.dumps(make_record()))
        if diagnosed:
            network = {"pixels": 1, "rank": [1], "bits": {}, "classes": {}, "labels": {}}
            record["diagnostics"] = {"student": network, "teacher": None, "images": 2}
        path = write_record(tmp_path, record)
        text = path.read_text()
        assert read_diagnostics(path) == record.get("diagnostics")
        expected = json.loads(json.dumps(record))
        expected.pop("diagnostics", None)
        del expected["curves"]["train"]
        assert read_short(path) == (expected, diagnosed)
        assert read_short_record(path) == (expected, diagnosed)
        # Laid out as before, or by a person: read as a whole.
        path.write_text(json.dumps(record, indent=1))
        assert read_short(path) is None
        assert read_short_record(path) == (expected, diagnosed)
        assert read_diagnostics(path) == record.get("diagnostics")
        # A point and a row of a matrix are a line each.
        step = record["curves"]["train"][0]["step"]
        assert f'\n   {{"step": {step}, ' in text


def test_a_short_record_that_is_faulty_is_refused_as_the_whole_is(tmp_path: Path):
    path = write_record(tmp_path, make_record())
    text = path.read_text()
    for wrong in (
        text.replace('"seed"', '"sead"'),
        text[: len(text) // 3],
        text.replace("[", "", 1),
    ):
        path.write_text(wrong)
        with pytest.raises(UserError) as whole:
            read_record(path)
        with pytest.raises(UserError) as short:
            read_short_record(path)
        assert str(short.value) == str(whole.value)


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(max_size=4),
        lambda inner: (
            st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
        ),
    )
)
def test_any_values_survive_the_layout(value):
    record = {"x": value, "curves": {"train": [], "eval": [{"step": 1}]}, "diagnostics": value}
    text = to_text(record)
    assert json.loads(text) == record
    assert list(json.loads(text)) == ["x", "diagnostics", "curves"]


def test_the_curves_of_training_are_read_alone(tmp_path: Path):
    record = json.loads(json.dumps(make_record()))
    path = write_record(tmp_path, record)
    points = record["curves"]["train"] = [{"step": i, "a/b": None} for i in range(1, 8)]
    for layout in (to_text(record), json.dumps(record)):
        path.write_text(layout)
        assert read_training(path, 7) == read_training(path, 99) == points
        assert read_training(path, 6) == points[::2]
        assert read_training(path, 2) == points[::4]
    record["curves"]["train"] = []
    path.write_text(to_text(record))
    assert read_training(path, 5) == []
