"""No text in a table holds U+0000, which not every database takes: it is an escape, as a lone surrogate is. What was
sent stays in the events as it was.
"""

from alembic import op
from sqlalchemy import text

revision = "0015"
down_revision = "0014"

VIEWS: dict[str, str] = {}

# Where text from outside can stand. Those of a primary key are printable, and JSON has its own escapes.
COLUMNS = {
    "runs": ("name",),
    "processes": ("host", "user", "cpu"),
    "operator_events": ("actor", "reason"),
    "connections": ("certificate_subject", "close_reason", "peer_host", "proxy_host"),
    "clients": ("label", "left_reason"),
    "messages": ("header", "reason"),
    "updates": ("reason",),
    "rounds": ("reason",),
    "client_rounds": ("reason",),
    "round_metrics": ("note",),
    "client_metrics": ("note",),
}


def upgrade() -> None:
    """From 0014. On PostgreSQL there never was one."""
    connection = op.get_bind()
    if connection.dialect.name == "postgresql":
        return
    for table, columns in COLUMNS.items():
        for column in columns:
            found = connection.execute(
                text(f"SELECT rowid AS place, {column} AS said FROM {table} WHERE instr({column}, char(0)) > 0")
            )
            rows = [{"place": place, "said": said.replace("\0", "\\x00")} for place, said in found]
            if rows:
                connection.execute(text(f"UPDATE {table} SET {column} = :said WHERE rowid = :place"), rows)


def downgrade() -> None:
    """To 0014, which reads what it finds."""
