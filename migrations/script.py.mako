"""${message}."""

from alembic import op

revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}


def upgrade() -> None:
    """Views of a table that is rebuilt are dropped before and created again after it."""
    op.execute("")
