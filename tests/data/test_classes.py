import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ecocseg.data.classes import CLASS_TABLES, UNKNOWN, class_table, distinct_colors
from ecocseg.errors import ConfigError

# As printed in the Cityscapes label table: train ids of label ids 0..33, None for void.
CITYSCAPES = (
    [None] * 7
    + [0, 1, None, None, 2, 3, 4, None, None, None, 5, None, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]
    + [None, None, 16, 17, 18]
)


def test_cityscapes_ids_are_the_published_ones():
    table = class_table("cityscapes19")
    assert dict(table.ids) == {
        raw: 255 if train is None else train for raw, train in enumerate(CITYSCAPES)
    }
    assert class_table("gta19").ids == {**table.ids, 34: 255}
    assert table.names[11:13] == ("person", "rider")


def test_synthia_ids_are_those_of_its_readme():
    table = class_table("synthia19")
    # As in the public code's table of train ids by SYNTHIA's ids.
    train = {3: 0, 4: 1, 2: 2, 21: 3, 5: 4, 7: 5, 15: 6, 9: 7, 6: 8, 16: 9, 1: 10, 10: 11, 17: 12}
    train |= {8: 13, 18: 14, 19: 15, 20: 16, 12: 17, 11: 18}
    assert dict(table.ids) == train | dict.fromkeys((0, 13, 14, 22), 255)
    assert table.names == class_table("cityscapes19").names
    assert table.colors == class_table("cityscapes19").colors


def test_camvid_order_is_that_of_the_release():
    table = class_table("camvid11")
    order = "Sky Building Pole Road Pavement Tree SignSymbol Fence Car Pedestrian Bicyclist"
    assert table.names == tuple(order.split())
    assert table.lookup[11] == 255
    assert table.lookup[12] == UNKNOWN


@pytest.mark.parametrize(
    "raw, name", [(7, "Road"), (25, "Bicyclist"), (28, "Car"), (12, "Building"), (22, "Tree")]
)
def test_cityscapes_labels_as_camvid_classes(raw, name):
    table = class_table("cityscapes_to_camvid11")
    assert table.names[table.ids[raw]] == name
    assert set(table.ids) == set(range(35))


def test_every_table_is_valid_and_complete():
    for name, table in CLASS_TABLES.items():
        # Every pixel of WHU-CD counts, and its masks' 255 is a class.
        ignored = set() if name == "whu_cd2" else {255}
        assert set(table.ids.values()) == {*range(len(table.names))} | ignored


def test_pascals_palette_is_the_devkits():
    colors = CLASS_TABLES["pascal21"].colors
    assert colors[:4] == ((0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0))
    assert colors[15] == (192, 128, 128)
    assert colors[20] == (0, 64, 128)


@given(st.integers(2, 255))
def test_made_colours_differ(count):
    assert len(set(distinct_colors(count))) == count


def test_own_table_by_names_and_several_ignored_values():
    table = class_table(
        {
            "names": ["floor", "wall"],
            "ids": {"10": "floor", 20: "wall", 30: 1, 40: "ignore"},
            "ignore": [0, 255],
        }
    )
    assert table.ids == {10: 0, 20: 1, 30: 1, 40: 255, 0: 255, 255: 255}


def test_colours_are_encoded_and_strange_ones_are_unknown():
    table = class_table(
        {
            "names": ["floor", "wall"],
            "colors": [[1, 2, 3], [3, 2, 1]],
            "ignore_colors": [[0, 0, 0]],
        }
    )
    rgb = np.array([[[1, 2, 3], [3, 2, 1]], [[0, 0, 0], [9, 9, 9]]], dtype=np.uint8)
    assert table.encode_colors(rgb).tolist() == [[0, 1], [255, UNKNOWN]]


@pytest.mark.parametrize(
    "spec, words",
    [
        ("city", ["'city'", "cityscapes19"]),
        ({"nam": []}, ["'nam'", "names"]),
        ({}, ["no field 'names'"]),
        ({"names": ["a"]}, ["2 to 255"]),
        ({"names": ["a", "a"]}, ["different names"]),
        ({"names": ["a", "b"], "ids": {1: 2}}, ["1 -> 2", "0..1"]),
        ({"names": ["a", "b"], "ids": {1: 0}}, ["stands for b"]),
        ({"names": ["a", "b"], "ids": {"x": 0}}, ["'x'", "whole numbers"]),
        ({"names": ["a", "b"], "ignore": 0}, ["value 0", "'a'"]),
        ({"names": ["a", "b"], "colors": [[1, 2, 3]]}, ["1 colours"]),
        ({"names": ["a", "b"], "colors": [[1, 2], [3, 4]]}, ["[R, G, B]"]),
        ({"names": ["a", "b"], "colors": [[1, 2, 300], [3, 4, 5]]}, ["0..255"]),
    ],
)
def test_wrong_tables_are_refused(spec, words):
    with pytest.raises(ConfigError) as caught:
        class_table(spec)
    for word in words:
        assert word in str(caught.value)
