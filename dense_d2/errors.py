"""The base of errors that a user can mend: the message states the fact, the value and the fix; no traceback is needed."""

__all__ = ["UserError"]


class UserError(ValueError):
    """Something in the command, the config, the data or a file does not fit."""
