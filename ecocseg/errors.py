"""Errors that are the user's to mend; their text is all that the command line prints of them."""


class UserError(Exception):
    """Something the user can mend: the message names what, its value, what is allowed and how."""


class DataError(UserError):
    """Faulty, missing or inconsistent data files."""


class ConfigError(UserError, ValueError):
    """A configuration field that is unknown or out of range."""
