import subprocess
import sys
from typing import Any

import pytest

from ecocseg.errors import ConfigError
from pipeline.cluster.session import ClusterConfig

CHECK = """
import pipeline
from ecocseg.errors import UserError
from pipeline.cluster.session import ClusterConfig, connect
try:
    with connect(ClusterConfig(address="127.0.0.1:1")):
        pass
except UserError as error:
    print(error)
"""


@pytest.mark.parametrize(
    "field, value", [("address", "here"), ("num_cpus", 0), ("object_store_mb", 10)]
)
def test_bad_values_are_refused_by_name(field: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=rf"^cluster\.{field}: got {value!r}"):
        ClusterConfig(**{field: value})


def test_no_cluster_to_join_is_told_in_words() -> None:
    answer = subprocess.run(
        [sys.executable, "-c", CHECK], capture_output=True, text=True, check=True
    )
    assert "cluster.address: no usable Ray cluster at '127.0.0.1:1'" in answer.stdout
    assert "ray start --head" in answer.stdout
