"""The orchestration around the `ecocseg` core: DVC stages, Ray, MLflow, Hydra, tables.

Importing it switches off the usage reporting of everything that the pipeline starts, before any
of those packages is imported: no machine behind a firewall should wait on it.
"""

import os

for _name, _value in {
    "RAY_USAGE_STATS_ENABLED": "0",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "DVC_NO_ANALYTICS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "RAY_TRAIN_V2_ENABLED": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}.items():
    os.environ.setdefault(_name, _value)

# `ray start` makes a cluster ask for a token wherever there is one, but who joins it sends it only
# when told to, and waits for minutes otherwise. A cluster that asks for none does not mind it.
_TOKEN = os.environ.get("RAY_AUTH_TOKEN_PATH") or os.path.expanduser("~/.ray/auth_token")
if "RAY_AUTH_TOKEN" in os.environ or os.path.exists(_TOKEN):
    os.environ.setdefault("RAY_AUTH_MODE", "token")
