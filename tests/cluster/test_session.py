import subprocess
import sys
from typing import Any

import pytest

from ecocseg.errors import ConfigError
from pipeline.cluster.session import ClusterConfig

CHECK = """
import sys
import pipeline
from ecocseg.errors import UserError
from pipeline.cluster.session import ClusterConfig, connect
try:
    with connect(ClusterConfig(address=sys.argv[1])):
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


@pytest.mark.parametrize("address", ["127.0.0.1:1", "127.0.0.1:head"])
def test_no_cluster_to_join_is_told_in_words(address: str) -> None:
    answer = subprocess.run(
        [sys.executable, "-c", CHECK, address], capture_output=True, text=True, check=True
    )
    assert f"cluster.address: no usable Ray cluster at '{address}'" in answer.stdout
    assert "ray start --head" in answer.stdout
