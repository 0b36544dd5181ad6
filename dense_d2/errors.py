"""The base of errors that a user can mend: the message states the fact, the value and the fix; no traceback is needed."""

__all__ = ["UserError", "require_positive"]


class UserError(ValueError):
    """Something in the command, the config, the data or a file does not fit."""


def require_positive(**arguments):
    """Raises ValueError for the first that is not above 0."""
    for name, value in arguments.items():
        if value is None or not value > 0:
            raise ValueError(f"{name} is {value}; it must be above 0")
