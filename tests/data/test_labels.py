"""16-bit labels of several channels, as SYNTHIA's: the class in the first, the instance after."""

import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
import raw_trees
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from png_writer import write_png16

from ecocseg.data.labels import deep_channels, read_deep_png
from ecocseg.data.prepare import prepare
from ecocseg.data.verify import verify_raw

# As the README of SYNTHIA-RAND-CITYSCAPES and Cityscapes' train ids say.
README = {0: 255, 1: 10, 2: 2, 3: 0, 7: 5, 8: 13, 15: 6, 21: 3, 22: 255}


@settings(deadline=None, max_examples=25)
@given(st.integers(2, 4), st.integers(1, 9), st.integers(1, 9), st.integers(0, 2**31))
def test_every_bit_of_every_channel_is_read(tmp_path_factory, channels, height, width, seed):
    values = np.random.default_rng(seed).integers(0, 65536, (height, width, channels))
    path = write_png16(tmp_path_factory.mktemp("png") / "x.png", values)
    assert deep_channels(path)
    assert read_deep_png(path).tolist() == values.tolist()


def test_torchvision_reads_the_same(tmp_path):
    import torch
    from torchvision.io import ImageReadMode, decode_png

    raw_trees.synthia(tmp_path, 1)
    path = tmp_path / "GT/LABELS/0000000.png"
    content = torch.frombuffer(bytearray(path.read_bytes()), dtype=torch.uint8)
    theirs = decode_png(content, mode=ImageReadMode.UNCHANGED)
    assert theirs.dtype == torch.uint16
    assert read_deep_png(path).tolist() == theirs.permute(1, 2, 0).tolist()


@pytest.mark.parametrize("channels", [2, 3, 4])
def test_synthia_is_prepared_by_its_first_channel(tmp_path, channels):
    raw_trees.synthia(tmp_path / "raw", 3, channels)
    # Pillow alone would see one class.
    with Image.open(tmp_path / "raw/GT/LABELS/0000000.png") as picture:
        assert set(np.unique(np.asarray(picture)[..., 0])) == {0}
    config = raw_trees.config("synthia")
    assert verify_raw(config, tmp_path / "raw") == []
    manifest = prepare(config, tmp_path / "raw", tmp_path / "out")
    assert [row.key for row in manifest.all_rows] == ["0000000", "0000001", "0000002"]
    for index, row in enumerate(manifest.all_rows):
        classes = raw_trees.labels(index, raw_trees.SYNTHIA_IDS)
        wanted = np.vectorize(README.get)(classes)
        with Image.open(row.label) as picture:
            assert np.array_equal(np.asarray(picture), wanted)
        counts = Counter(wanted.reshape(-1).tolist())
        assert list(row.pixels) == [counts[train] for train in range(19)]


def test_a_wrong_class_in_the_first_channel_is_named(tmp_path):
    raw_trees.synthia(tmp_path, 2)
    stack = np.zeros((24, 32, 3), dtype=np.uint16)
    stack[..., 0], stack[3, 4, 0], stack[5, 5, 0] = 3, 256 + 8, 23
    path = write_png16(tmp_path / "GT/LABELS/0000001.png", stack)
    [fault] = verify_raw(raw_trees.config("synthia"), tmp_path)
    assert fault.file == str(path)
    assert "unknown class values 23, 264" in fault.problem


def test_labels_saved_again_by_a_program_that_loses_the_low_byte_are_found_out(tmp_path):
    raw_trees.synthia(tmp_path, 2)
    for path in (tmp_path / "GT/LABELS").iterdir():
        with Image.open(path) as picture:
            picture.load()
        picture.save(path)
    [fault] = verify_raw(raw_trees.config("synthia"), tmp_path)
    assert "no pixel of any class" in fault.problem
    assert "16 bits" in fault.problem
    assert "original" in fault.remedy


def test_eight_bit_labels_of_one_or_more_channels_do_too(tmp_path):
    raw_trees.synthia(tmp_path / "raw", 2)
    config = raw_trees.config("synthia")
    deep = prepare(config, tmp_path / "raw", tmp_path / "deep").fingerprint
    for index in range(2):
        array = raw_trees.labels(index, raw_trees.SYNTHIA_IDS)
        if index:
            array = np.stack([array, array + 1, array + 2], axis=2)
        raw_trees.save(tmp_path / f"raw/GT/LABELS/{index:07d}.png", array)
    assert prepare(config, tmp_path / "raw", tmp_path / "flat").fingerprint == deep


def test_deep_labels_where_one_number_is_declared_say_what_to_set(tmp_path):
    raw_trees.synthia(tmp_path, 1)
    [fault] = verify_raw(raw_trees.config("synthia", label_values="ids"), tmp_path)
    assert "several channels of 16 bits" in fault.problem
    assert "label_values: first_channel" in fault.remedy


@pytest.mark.parametrize("keep", [0, 20, 40, 0.5, 0.98])
def test_damaged_deep_labels_are_faults(tmp_path, keep):
    raw_trees.synthia(tmp_path, 1)
    path = tmp_path / "GT/LABELS/0000000.png"
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content)) if keep < 1 else keep])
    [fault] = verify_raw(raw_trees.config("synthia"), tmp_path)
    assert fault.file == str(path)
    assert fault.remedy == "copy or download it again"


def test_a_flipped_bit_in_a_deep_label_is_a_fault(tmp_path):
    raw_trees.synthia(tmp_path, 1)
    path = tmp_path / "GT/LABELS/0000000.png"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    [fault] = verify_raw(raw_trees.config("synthia"), tmp_path)
    assert "wrong sum" in fault.problem


def test_reading_them_imports_no_torch(tmp_path):
    raw_trees.synthia(tmp_path, 1)
    script = (
        "import sys; from pathlib import Path; from ecocseg.data.labels import read_deep_png;"
        "read_deep_png(Path(sys.argv[1])); print('torch' in sys.modules)"
    )
    path = str(tmp_path / "GT/LABELS/0000000.png")
    result = subprocess.run([sys.executable, "-c", script, path], capture_output=True, text=True)
    assert result.stdout.strip() == "False", result.stderr
