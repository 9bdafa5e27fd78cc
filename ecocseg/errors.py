"""Errors that are the user's to mend; their text is all that the command line prints of them."""

from typing import ClassVar


class UserError(Exception):
    """Something the user can mend: the message names what, its value, what is allowed and how."""

    kind: ClassVar[str] = "failed"
    """What sort of failure it is, in words for a list of many."""


class DataError(UserError):
    """Faulty, missing or inconsistent data files."""

    kind = "bad data"


class DiskFull(UserError):
    """A disk or quota without room for what has to be written."""

    kind = "disk full"


class ConfigError(UserError, ValueError):
    """A configuration field that is unknown or out of range."""

    kind = "bad configuration"


class LostProcess(Exception):
    """Another process of a run does not answer: nobody's fault but a machine's."""
