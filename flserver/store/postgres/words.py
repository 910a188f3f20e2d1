"""What an error of PostgreSQL's says, in one line: what is wrong, without the statement and its parameters."""

from flserver.text import printable

READ_ONLY = ("25006", "42501")
"""What a statement that writes comes to, by SQLSTATE, or one that asks for more than its role may see."""


def sqlstate(error: BaseException) -> str | None:
    """The five characters that PostgreSQL calls an error by; None where it never got to one."""
    return getattr(getattr(error, "orig", None) or error, "sqlstate", None)


def said(error: BaseException) -> str:
    """What the server says, or the driver where that was not reached."""
    inner = getattr(error, "orig", None) or error
    primary = getattr(getattr(inner, "diag", None), "message_primary", None)
    return str(primary) if primary else printable(" ".join(str(inner).split()), 500)
