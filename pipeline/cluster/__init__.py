"""Ray: sessions, the grid of runs, the search, the live table. The only files that import ray."""

import os

# Read by Ray Tune when it is imported: no loggers and no Ctrl-C handler of its own, and trials that
# stay in the current folder.
for _name, _value in {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_AIR_NEW_OUTPUT": "0",  # the new output ignores verbose=0
}.items():
    os.environ.setdefault(_name, _value)
