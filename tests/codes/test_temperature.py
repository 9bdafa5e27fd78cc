"""The automatic temperature and the probabilities of classes, against their definitions."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ecocseg import Codebook, ECOCLoss
from ecocseg.codes.temperature import auto_temperature, class_probabilities, reachable_shares
from ecocseg.data.classes import CITYSCAPES_19
from ecocseg.errors import ConfigError


def share_at_codeword(book, tau):
    """The least share of its class that a codeword itself gets: a softmax, in Python's floats."""
    rows = [[2 * int(bit) - 1 for bit in row] for row in book.bits.tolist()]
    shares = []
    for row in rows:
        cosines = [sum(a * b for a, b in zip(row, other, strict=True)) / len(row) for other in rows]
        own = math.exp(1 / tau)
        shares.append(own / sum(math.exp(cosine / tau) for cosine in cosines))
    return min(shares)


@st.composite
def books(draw):
    classes = draw(st.integers(2, 24))
    builder = draw(st.sampled_from(["mmd", "hadamard", "optimised", "one-hot", "any"]))
    if builder in ("any", "one-hot") or classes < 8:
        length = draw(st.integers(math.ceil(math.log2(classes)), 24))
        words = st.integers(0, 2**length - 1)
        rows = draw(st.lists(words, min_size=classes, max_size=classes, unique=True))
        return Codebook([[row >> k & 1 for k in range(length)] for row in rows])
    return Codebook.build(builder, num_classes=classes, length=draw(st.integers(16, 40)), draws=200)


@settings(max_examples=60, deadline=None)
@given(books(), st.floats(0.3, 0.999))
def test_it_is_the_largest_at_which_every_class_reaches_the_share(book, share):
    if share <= 1 / book.num_classes:
        with pytest.raises(ConfigError, match=r"share: got .* between 1/N"):
            auto_temperature(book, share)
        return
    tau = auto_temperature(book, share)
    assert share_at_codeword(book, tau * (1 - 1e-6)) >= share
    assert share_at_codeword(book, tau * (1 + 1e-6)) < share
    assert reachable_shares(book, tau).min().item() == pytest.approx(share, abs=1e-9)


def test_the_codes_of_cityscapes():
    built = {
        name: auto_temperature(
            Codebook.build(name, class_names=CITYSCAPES_19.names, length=40), 0.99
        )
        for name in ("text", "optimised", "mmd")
    }
    assert built == pytest.approx({"text": 0.0861, "optimised": 0.1366, "mmd": 0.1168}, abs=5e-5)


def test_equal_distances_have_a_closed_form():
    # Of N bits two are different, whichever the pair: a cosine of 1 - 4 / N.
    book = Codebook.build("one-hot", num_classes=6)
    tau = (4 / 6) / math.log(5 * 0.9 / 0.1)
    assert auto_temperature(book, 0.9) == pytest.approx(tau, rel=1e-9)
    opposite = Codebook([[0, 1, 0], [1, 0, 1]])
    assert auto_temperature(opposite, 0.9) == pytest.approx(2 / math.log(9), rel=1e-9)


def test_probabilities_are_the_softmax_that_the_contrast_trains():
    book = Codebook.build("mmd", num_classes=7, length=12, draws=500)
    logits = torch.randn(2, 12, 3, 5, dtype=torch.float64) * 3
    found = class_probabilities(logits, book, 0.2)
    signed = book.bits.double() * 2 - 1
    cosines = torch.nn.functional.cosine_similarity(
        logits[:, None], signed[None, :, :, None, None], dim=2
    )
    assert torch.allclose(found, (cosines / 0.2).softmax(1), atol=1e-12)
    labels = torch.randint(0, 7, (2, 3, 5))
    contrast = ECOCLoss(book, temperature=0.2)(logits, labels).contrast
    assert contrast.item() == pytest.approx(
        -found.gather(1, labels[:, None]).log().mean().item(), rel=1e-6
    )


def test_logits_without_a_direction_say_nothing():
    book = Codebook.build("mmd", num_classes=5, length=8, draws=500)
    found = class_probabilities(torch.zeros(1, 8, 2, 2), book, 0.1)
    assert torch.allclose(found, torch.full_like(found, 0.2))


def test_the_loss_takes_auto():
    book = Codebook.build("mmd", num_classes=7, length=12, draws=500)
    logits, labels = torch.randn(1, 12, 4, 4), torch.randint(0, 7, (1, 4, 4))
    given_number = ECOCLoss(book, temperature=auto_temperature(book))(logits, labels)
    assert ECOCLoss(book, temperature="auto")(logits, labels) == given_number
    with pytest.raises(ConfigError, match=r"temperature: got 'warm', allowed above 0, or auto"):
        ECOCLoss(book, temperature="warm")
