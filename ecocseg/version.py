"""The version of the results."""

RESULTS_VERSION = 5
"""Part of every run's identity: raise it when a change of the code changes any run's numbers, so
that results from before and after are never mixed. The golden traces in the tests notice such a
change; updating them and raising this is one deliberate act."""
