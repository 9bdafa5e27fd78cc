"""The files of a run: record, events, status, locks, logs, and their copies in an object store."""
