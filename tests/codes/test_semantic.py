import numpy as np
import pytest
from scipy.stats import spearmanr

from ecocseg import Codebook
from ecocseg.codes.embeddings import embed
from ecocseg.codes.search import quality
from ecocseg.codes.semantic import (
    FLOOR,
    meaning_correlation,
    semantic_distances,
    text_optimised_bits,
)
from ecocseg.data.classes import CAMVID_11, CITYSCAPES_19


def cosine_distance(first, second):
    return 1 - float(first @ second) / (np.linalg.norm(first) * np.linalg.norm(second))


def test_semantic_distance_is_one_minus_the_cosine():
    vectors = np.random.default_rng(0).normal(size=(5, 7)) * [[1], [2], [3], [4], [5]]
    expected = [[cosine_distance(a, b) for b in vectors] for a in vectors]
    assert np.allclose(semantic_distances(vectors), expected)


def test_the_correlation_is_that_of_ranks_over_pairs():
    generator = np.random.default_rng(0)
    vectors, bits = generator.normal(size=(6, 7)), generator.random((6, 9)) < 0.5
    code = [np.count_nonzero(bits[i] != bits[j]) for i in range(6) for j in range(i)]
    meaning = [cosine_distance(vectors[i], vectors[j]) for i in range(6) for j in range(i)]
    assert meaning_correlation(bits, vectors) == pytest.approx(spearmanr(code, meaning)[0])
    assert np.isnan(meaning_correlation(np.eye(6, dtype=bool), vectors))


@pytest.mark.parametrize("table", [CITYSCAPES_19, CAMVID_11])
def test_it_is_farther_apart_than_text_and_knows_more_of_the_meaning(table):
    vectors = embed(table.names)
    text, best, both = (
        Codebook.build(name, class_names=table.names, length=40).bits.numpy()
        for name in ("text", "optimised", "text-optimised")
    )
    assert quality(both).valid
    assert quality(both).min_row_distance >= round(FLOOR * quality(best).min_row_distance)
    assert quality(both).min_row_distance >= quality(text).min_row_distance + 4
    assert meaning_correlation(both, vectors) > 0.9
    assert meaning_correlation(text, vectors) < 0.6


def test_confusable_classes_are_neighbours():
    names = CITYSCAPES_19.names
    distances = Codebook.build("text-optimised", class_names=names).row_distances
    for near, far in (("truck", "vegetation"), ("bus", "sky")):
        car = distances[names.index("car")]
        assert car[names.index(near)] < car[names.index(far)]


@pytest.mark.parametrize(
    ("classes", "length"), [(2, 1), (2, 2), (3, 4), (4, 5), (6, 14), (8, 128), (16, 4), (12, 30)]
)
def test_any_number_of_classes_and_bits_works_and_repeats(classes, length):
    vectors = np.random.default_rng(1).normal(size=(classes, 20))
    bits = text_optimised_bits(vectors, length, seed=2)
    assert bits.shape == (classes, length)
    assert quality(bits).valid
    assert np.array_equal(bits, text_optimised_bits(vectors, length, seed=2))


def test_alike_classes_stay_apart():
    """Names with the same embedding still get codewords at the floor."""
    vectors = np.repeat(np.random.default_rng(1).normal(size=(4, 20)), 3, axis=0)
    best = quality(Codebook.build("optimised", num_classes=12, length=20).bits.numpy())
    found = quality(text_optimised_bits(vectors, 20))
    assert found.min_row_distance >= round(FLOOR * best.min_row_distance)
