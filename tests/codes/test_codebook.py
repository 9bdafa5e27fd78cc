import copy
import itertools
import json
import pickle
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ecocseg import Codebook
from ecocseg.codes import embed_names
from ecocseg.codes.build import mmd_bits, text_bits
from ecocseg.codes.embeddings import embed, plain_name
from ecocseg.errors import ConfigError, DataError, UserError

STREETS = [name.strip() for name in embed_names.CITYSCAPES.replace("\n", " ").split(",")]


def hamming(first, second):
    return sum(bool(a) != bool(b) for a, b in zip(first, second, strict=True))


@st.composite
def tables(draw):
    classes = draw(st.integers(2, 9))
    length = draw(st.integers((classes - 1).bit_length(), 9))
    rows = draw(
        st.lists(st.integers(0, 2**length - 1), min_size=classes, max_size=classes, unique=True)
    )
    return [[row >> bit & 1 for bit in range(length)] for row in rows]


@given(tables())
def test_distances_are_hamming_distances(bits):
    book = Codebook(bits)
    rows = [hamming(a, b) for a, b in itertools.combinations(bits, 2)]
    assert (book.num_classes, book.length) == (len(bits), len(bits[0]))
    assert book.min_row_distance == min(rows)
    assert book.signed.tolist() == [[2 * bit - 1 for bit in row] for row in bits]
    columns = [hamming(a, b) for a, b in itertools.combinations(zip(*bits, strict=True), 2)]
    assert book.min_column_distance == (min(columns) if columns else len(bits))
    assert book.max_column_distance == (max(columns) if columns else 0)


@given(tables())
@settings(max_examples=20)
def test_save_and_load_give_the_same_codebook(tmp_path_factory, bits):
    path = tmp_path_factory.mktemp("book") / "deep" / "book.json"
    names = [f"class {index}" for index in range(len(bits))]
    Codebook(bits, names).save(path)
    loaded = Codebook.load(path)
    assert loaded.bits.dtype == torch.bool
    assert loaded.bits.tolist() == [[bool(bit) for bit in row] for row in bits]
    assert loaded.class_names == tuple(names)


@pytest.mark.parametrize("make", [torch.tensor, np.array, list])
def test_any_table_of_bits_is_taken_and_copied(make):
    source = make([[0, 1, 1], [1, 0, 1]])
    book = Codebook(source)
    source[0][0] = 1
    assert book.bits.tolist() == [[False, True, True], [True, False, True]]


@pytest.mark.parametrize(
    ("bits", "names", "says"),
    [
        ([[0, 1], [1, 0], [0, 1]], None, "rows 0 and 2 are equal"),
        ([[0, 2], [1, 0]], None, "other than 0 and 1"),
        ([[0.5, 1.0], [1.0, 0.0]], None, "other than 0 and 1"),
        ([0, 1, 0], None, "allowed \\[N,K\\]"),
        ([[0, 1]], None, "N >= 2"),
        ([[0, 1], [1, 0]], ["road"], "got 1 names"),
        ([[0, 1], [1, 0]], ["road", "road"], "1 different"),
    ],
)
def test_a_faulty_table_is_refused(bits, names, says):
    with pytest.raises(ValueError, match=says) as caught:
        Codebook(bits, names)
    assert isinstance(caught.value, UserError)


@pytest.mark.parametrize(
    "content",
    [
        "no json",
        "[]",
        "{}",
        json.dumps({"schema": 2, "class_names": None, "bits": ["01", "10"]}),
        json.dumps({"schema": 1, "class_names": None, "bits": ["01", "01"]}),
        json.dumps({"schema": 1, "class_names": None, "bits": ["0x", "10"]}),
        json.dumps({"schema": 1, "class_names": None, "bits": ["0", "10"]}),
        None,
    ],
)
def test_a_faulty_file_is_named(tmp_path, content):
    path = tmp_path / "book.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(DataError, match=r"book\.json"):
        Codebook.load(path)


def test_copies_work_after_use():
    book = Codebook(torch.eye(3))
    book.place(torch.device("cpu"), torch.float64)
    for clone in (pickle.loads(pickle.dumps(book)), copy.deepcopy(book)):
        assert torch.equal(clone.bits, book.bits)
        assert clone.place(torch.device("cpu"), torch.float64).dtype == torch.float64


def assert_valid(book):
    assert book.min_row_distance > 0
    assert book.min_column_distance > 0
    assert book.max_column_distance < book.num_classes


@pytest.mark.parametrize(("classes", "length", "draws"), [(2, 1, 20), (5, 6, 200), (9, 12, 300)])
def test_mmd_is_the_best_valid_random_matrix(classes, length, draws):
    stream = np.random.Generator(np.random.PCG64(7))
    best, best_score = None, -1
    for _ in range(draws):
        raw = np.frombuffer(stream.bytes(4 * -(-classes * length // 32)), dtype=np.uint8)
        table = np.unpackbits(raw)[: classes * length].reshape(classes, length)
        rows = [hamming(a, b) for a, b in itertools.combinations(table, 2)]
        columns = [hamming(a, b) for a, b in itertools.combinations(table.T, 2)] or [classes]
        if min(rows) == 0 or (length > 1 and (min(columns) == 0 or max(columns) == classes)):
            continue
        most = max(columns) if length > 1 else 0
        score = min(rows) + min(columns) + classes - most
        if score > best_score:
            best, best_score = table, score
    assert np.array_equal(mmd_bits(classes, length, 7, draws), best.astype(bool))


def test_mmd_reaches_the_papers_distance_within_its_draws():
    start = time.perf_counter()
    book = Codebook.build("mmd", class_names=STREETS, length=40)
    print(f"100,000 draws: {time.perf_counter() - start:.1f} s")
    assert_valid(book)
    assert book.min_row_distance >= 14
    assert book.class_names == tuple(STREETS)


def test_mmd_depends_on_its_seed_alone():
    first = mmd_bits(11, 20, 3, 700)
    torch.manual_seed(1)
    np.random.seed(1)
    assert np.array_equal(first, mmd_bits(11, 20, 3, 700))
    assert not np.array_equal(first, mmd_bits(11, 20, 4, 700))
    # Batches of 500 must not show: with fewer draws the winner can only be an earlier matrix.
    assert Codebook(mmd_bits(11, 20, 3, 501)).min_row_distance >= 3


def algorithm_3(vectors, length):
    rows = [vector / np.sqrt((vector**2).sum()) for vector in vectors]
    channels = []
    for channel in range(len(rows[0])):
        values = [row[channel] for row in rows]
        mean = sum(values) / len(values)
        variance = sum((value - mean) ** 2 for value in values)
        channels.append((-variance, channel, tuple(value > mean for value in values)))
    taken = []
    for _, _, column in sorted(channels):
        opposite = tuple(not bit for bit in column)
        if column not in taken and opposite not in taken:
            taken.append(column)
    return np.array(taken[:length]).T


@pytest.mark.parametrize("length", [20, 40, 60])
def test_text_is_algorithm_3(length):
    expected = algorithm_3(embed(STREETS), length)
    book = Codebook.build("text", class_names=STREETS, length=length)
    assert np.array_equal(book.bits.numpy(), expected)
    assert_valid(book)


def test_text_reaches_the_papers_distance():
    assert Codebook.build("text", class_names=STREETS, length=40).min_row_distance == 8


@pytest.mark.parametrize(
    ("names", "count", "length"),
    [
        (embed_names.CITYSCAPES, 19, 40),
        (embed_names.CAMVID, 11, 40),
        (embed_names.COCO, 81, 60),
        (embed_names.ACDC, 4, 7),
        (embed_names.WHU_CD, 2, 1),
    ],
)
def test_text_knows_the_benchmarks(names, count, length):
    classes = [name.strip() for name in names.replace("\n", " ").split(",")]
    assert len(classes) == count
    assert_valid(Codebook.build("text", class_names=classes, length=length))


def test_text_keeps_related_classes_near():
    book = Codebook.build("text", class_names=STREETS, length=40)
    distances = book.row_distances
    car = distances[STREETS.index("car")]
    assert car[STREETS.index("truck")] < car[STREETS.index("vegetation")]


def test_text_skips_equal_and_opposite_channels():
    vectors = np.array([[3.0, 3.0, -3.0, 0.0], [-3.0, -3.0, 3.0, 1.0], [3.0, 3.0, -3.0, 1.0]])
    assert text_bits(vectors, 2).shape == (3, 2)
    with pytest.raises(ConfigError, match="allowed up to 2"):
        text_bits(vectors, 3)


@pytest.mark.parametrize("spelling", ["SignSymbol", "sign_symbol", "Sign Symbol", "sign-symbol"])
def test_spellings_of_a_name_are_one(spelling):
    assert plain_name(spelling) == "sign symbol"
    assert np.array_equal(embed([spelling]), embed(["sign symbol"]))


def test_one_hot_is_the_identity():
    book = Codebook.build("one-hot", class_names=STREETS)
    assert torch.equal(book.bits, torch.eye(19, dtype=torch.bool))


@pytest.mark.parametrize(
    ("builder", "options", "says"),
    [
        ("word2vec", {"class_names": STREETS}, "allowed text, mmd"),
        ("mmd", {}, "2 or more names"),
        ("mmd", {"num_classes": 19, "length": 4}, "allowed 5\\.\\."),
        ("mmd", {"num_classes": 4, "length": 9}, "allowed 2\\.\\.8"),
        ("mmd", {"num_classes": 5, "length": 16, "draws": 2}, "none of 2 random"),
        ("mmd", {"num_classes": 5, "length": 8, "draws": 0}, "draws"),
        ("mmd", {"num_classes": 5, "class_names": STREETS}, "leave it out"),
        ("text", {"num_classes": 5, "length": 8}, "made of the names"),
        ("text", {"class_names": ["road", "quokka"], "length": 1}, "'quokka'"),
        ("text", {"class_names": ["road", "car"], "length": 2}, "allowed up to 1"),
    ],
)
def test_a_codebook_that_cannot_be_is_refused(builder, options, says):
    with pytest.raises(ConfigError, match=says):
        Codebook.build(builder, **options)


def write_vectors(path, style):
    """Vectors of a few words in the layouts of word2vec and GloVe, by hand."""
    words = {"traffic": [1, 0, 0, 0.5], "light": [0, 1, 0, -0.25], "Road": [0, 0, 1, 2]}
    lines = [" ".join([word, *map(str, vector)]) for word, vector in words.items()]
    if style == "glove":
        path.write_text("\n".join(lines) + "\n")
    elif style == "text":
        path.write_text("\n".join(["3 4", *lines]) + "\n")
    else:
        with path.open("wb") as file:
            file.write(b"3 4\n")
            for word, vector in words.items():
                file.write(word.encode() + b" " + np.array(vector, "<f4").tobytes() + b"\n")


@pytest.mark.parametrize("style", ["glove", "text", "binary"])
def test_word_vectors_come_from_any_usual_file(tmp_path, style):
    path = tmp_path / "vectors"
    write_vectors(path, style)
    vectors = embed(["traffic_light", "road"], path)
    assert np.allclose(vectors, [[0.5, 0.5, 0, 0.125], [0, 0, 1, 2]])
    book = Codebook.build("text", class_names=["traffic light", "road"], length=1, embeddings=path)
    assert_valid(book)


def test_words_without_vector_are_listed(tmp_path):
    write_vectors(tmp_path / "vectors", "glove")
    with pytest.raises(ConfigError, match="'sign', 'sky'"):
        embed(["traffic sign", "sky", "road"], tmp_path / "vectors")


def test_a_faulty_vector_file_is_named(tmp_path):
    path = tmp_path / "vectors"
    with pytest.raises(DataError, match="is not a file"):
        embed(["road"], path)
    path.write_text("road one two\nsky three four\n")
    with pytest.raises(DataError, match="no word2vec"):
        embed(["road"], path)


def test_importing_the_package_is_light():
    code = "import ecocseg, sys; assert 'torch' not in sys.modules; print(ecocseg.__all__)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "Codebook" in out.stdout
    code = "import ecocseg; assert all(getattr(ecocseg, n) for n in ecocseg.__all__); ecocseg.none"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "has no attribute 'none'" in out.stderr
