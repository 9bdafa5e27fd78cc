"""Text embeddings of class names, for the text codebook.

The table `minilm_class_names.json` holds all-MiniLM-L6-v2 sentence embeddings of the class names
of the paper's benchmarks; `embed_names.py` made it and adds names to it. The paper has word2vec
embeddings and its released code a codebook made of CLIP's, so a `text` codebook has neither's bits.
Those come by `encoding.embeddings` (a word2vec file) and by `encoding.codebook_path`: write the
released rows with `Codebook(rows, class_names).save(FILE)`, names in the data set's order.

This module needs numpy alone, so that the script runs in an environment that has the model but not
this project's stack.
"""

import base64
import gzip
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecocseg.errors import ConfigError, DataError

TABLE = Path(__file__).with_name("minilm_class_names.json")
ADD = "python -m ecocseg.codes.embed_names NAME..."


def plain_name(name: str) -> str:
    """A class name as words: 'SignSymbol', 'sign_symbol' and 'Sign-Symbol' are 'sign symbol'."""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
    return " ".join(re.split(r"[\s_\-/]+", spaced)).strip().lower()


def embed(class_names: Sequence[str], path: str | Path | None = None) -> NDArray[np.float64]:
    """Embedding of each class name, [N,D]: from the shipped table, or from a file at `path`.

    `path`: word2vec (text or binary) or GloVe vectors; names of several words get the mean of
    their words' vectors. Raises ConfigError that lists the names without an embedding, DataError
    when the file cannot be read.
    """
    if path is not None:
        return _from_file(class_names, Path(path))
    table = json.loads(TABLE.read_text(encoding="utf-8"))["vectors"]
    missing = [name for name in class_names if plain_name(name) not in table]
    if missing:
        raise ConfigError(
            f"class_names: no embedding of {', '.join(map(repr, missing))} in {TABLE.name}; give a "
            "word2vec or GloVe file (encoding.embeddings), add the names to the table with "
            f"`{ADD}`, or choose the codebook mmd, which needs no embeddings"
        )
    return np.stack([_unpack(table[plain_name(name)]) for name in class_names])


def write_table(path: Path, model: str, vectors: dict[str, NDArray[Any]]) -> None:
    """Write embeddings by plain name as JSON, each as base64 of little-endian float16."""
    packed = {
        name: base64.b64encode(vector.astype("<f2").tobytes()).decode()
        for name, vector in sorted(vectors.items())
    }
    content = {"model": model, "format": "base64 of little-endian float16", "vectors": packed}
    path.write_text(json.dumps(content, indent=0) + "\n", encoding="utf-8")


def read_table(path: Path) -> dict[str, NDArray[np.float64]]:
    """What `write_table` wrote."""
    table = json.loads(path.read_text(encoding="utf-8"))["vectors"]
    return {name: _unpack(packed) for name, packed in table.items()}


def _unpack(packed: str) -> NDArray[np.float64]:
    return np.frombuffer(base64.b64decode(packed), dtype="<f2").astype(np.float64)


def _from_file(class_names: Sequence[str], path: Path) -> NDArray[np.float64]:
    vectors = _load_vectors(path)
    result, missing = [], []
    for name in class_names:
        words = plain_name(name).split()
        keys = [next((k for k in _spellings(word) if k in vectors), None) for word in words]
        missing += [word for word, key in zip(words, keys, strict=True) if key is None]
        result.append(np.mean([vectors[key] for key in keys if key is not None] or [0.0], axis=0))
    if missing:
        raise ConfigError(
            f"embeddings: {path} has no vector of {', '.join(map(repr, missing))}, which the class "
            "names contain; give a file with these words, or rename the classes"
        )
    return np.stack(result).astype(np.float64)


def _spellings(word: str) -> tuple[str, ...]:
    return (word, word.capitalize(), word.upper())


def _load_vectors(path: Path) -> Any:
    try:
        from gensim.models import KeyedVectors
    except ImportError as error:
        raise ConfigError(
            "embeddings: reading a word2vec or GloVe file needs gensim, which is not installed; "
            "`pip install 'ecocseg[embeddings]'`"
        ) from error
    if not path.is_file():
        raise DataError(f"embeddings: {path} is not a file; give a word2vec or GloVe file")
    # The formats do not name themselves. GloVe is word2vec text without the first line, which
    # holds two numbers; a binary file has that line too, but what follows is no text.
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as file:
            head, body = file.readline(200), file.read(2000)
        header = re.fullmatch(rb"\s*\d+\s+\d+\s*", head) is not None
        binary = header and any(byte < 9 for byte in body)
        return KeyedVectors.load_word2vec_format(str(path), binary=binary, no_header=not header)
    except (ValueError, EOFError, OSError) as error:
        raise DataError(
            f"embeddings: {path} is no word2vec (text or binary) or GloVe file ({error}); give "
            "one that gensim reads"
        ) from error
