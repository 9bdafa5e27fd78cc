import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ecocseg.data.partition import PartitionConfig, split_keys
from ecocseg.errors import ConfigError, DataError

KEYS = [f"city_{i:03d}" for i in range(40)]


@settings(deadline=None, max_examples=40)
@given(st.permutations(KEYS), st.sampled_from(["1/8", "1/4", "0.5", "1", "1/3"]), st.integers(0, 9))
def test_both_sides_partition_the_split_whatever_its_order(keys, fraction, seed):
    config = PartitionConfig(fraction=fraction, seed=seed)
    labelled, rest = split_keys(keys, config)
    assert sorted(labelled + rest) == KEYS
    assert [k for k in keys if k in set(labelled)] == labelled
    assert [k for k in keys if k in set(rest)] == rest
    assert set(labelled) == set(split_keys(KEYS, config)[0])


# The sizes of the published lists: recipes of Cityscapes and Pascal.
@pytest.mark.parametrize(
    ("total", "fraction", "count"),
    [(2975, "1/16", 186), (2975, "1/8", 372), (2975, "1/4", 744), (2975, "1/2", 1488)],
)
def test_sizes(total, fraction, count):
    keys = [str(i) for i in range(total)]
    assert len(split_keys(keys, PartitionConfig(fraction=fraction))[0]) == count


def test_the_seed_decides():
    draws = {tuple(split_keys(KEYS, PartitionConfig(fraction="1/4", seed=s))[0]) for s in range(5)}
    assert len(draws) == 5


def test_too_small_a_fraction():
    with pytest.raises(ConfigError, match=r"1/100 of 40 images is less than one"):
        split_keys(KEYS, PartitionConfig(fraction="1/100"))


@pytest.mark.parametrize("fraction", ["0", "9/8", "-1/8", "1/0", "some", ""])
def test_what_is_no_fraction(fraction):
    with pytest.raises(ConfigError, match=r"fraction: got"):
        PartitionConfig(fraction=fraction)


def test_published_and_list_file_exclude_each_other():
    with pytest.raises(ConfigError, match="exclude each other"):
        PartitionConfig(published="1_8", list_file="x")


def test_a_published_list_is_taken_as_it_is():
    config = PartitionConfig(published="1_8")
    labelled, rest = split_keys(KEYS, config, ["city_002", "city_001"])
    assert labelled == ["city_001", "city_002"]
    assert len(rest) == 38


def test_list_files_may_hold_keys_names_or_paths(tmp_path):
    keys = ["aachen_0", "bonn_1", "img.v2", "sub/x", "rest"]
    path = tmp_path / "mine.txt"
    path.write_text(
        "leftImg8bit/train/aachen/aachen_0_leftImg8bit.png gtFine/train/aachen_0.png\n"
        "\nbonn_1.png\nimg.v2\nsub/x\n"
    )
    labelled, rest = split_keys(keys, PartitionConfig(list_file=str(path)))
    assert labelled == keys[:4]
    assert rest == ["rest"]


def test_list_files_with_faults(tmp_path):
    path = tmp_path / "mine.txt"
    config = PartitionConfig(list_file=str(path))
    with pytest.raises(DataError, match=r"mine\.txt: the list of labelled images is not there"):
        split_keys(KEYS, config)
    path.write_text("\n")
    with pytest.raises(DataError, match="empty"):
        split_keys(KEYS, config)
    path.write_text("city_001\nrome_7\nparis_8\n")
    with pytest.raises(DataError, match=r"2 of its lines name no image.*rome_7"):
        split_keys(KEYS, config)
