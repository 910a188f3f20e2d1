"""What the schemas of a record have beside tables and views, and who may add to them: who could would answer for
PostgreSQL's own functions, for ``public`` is looked into first.

All is asked with PostgreSQL's own functions alone in reach.
"""

import logging
from contextlib import closing
from typing import TYPE_CHECKING, Any

from flserver.errors import UsageError
from flserver.store.postgres.engines import connect

if TYPE_CHECKING:
    import psycopg

logger = logging.getLogger(__name__)

MEANT = "flserver_meant"
ALONE = b"SET LOCAL search_path = pg_catalog"

_STRANGERS = """
    SELECT n.nspname, CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE a.grantee::regrole::text END
    FROM pg_namespace AS n
    JOIN pg_database AS d ON d.datname = current_database()
    CROSS JOIN aclexplode(COALESCE(n.nspacl, acldefault('n', n.nspowner))) AS a
    LEFT JOIN pg_roles AS r ON r.oid = a.grantee
    WHERE n.nspname IN ('public', 'flserver') AND a.privilege_type = 'CREATE'
        AND a.grantee NOT IN (n.nspowner, d.datdba, current_user::regrole) AND NOT COALESCE(r.rolsuper, FALSE)
    ORDER BY 1, 2"""

_THEIRS = "NOT EXISTS (SELECT 1 FROM pg_depend AS d WHERE d.objid = o.oid AND d.deptype = 'e')"  # an extension's
_MADE = f"""
    SELECT CASE o.prokind WHEN 'a' THEN 'aggregate' ELSE 'function' END, o.oid::regprocedure::text,
        CASE o.prokind WHEN 'a' THEN
            (SELECT concat_ws(' ', aggtransfn, aggfinalfn, aggcombinefn, aggtranstype::regtype, agginitval, aggsortop,
                aggkind, o.proparallel) FROM pg_aggregate WHERE aggfnoid = o.oid)
        ELSE pg_get_functiondef(o.oid) END
    FROM pg_proc AS o WHERE o.pronamespace = ANY (%(schemas)s::text[]::regnamespace[]) AND {_THEIRS}
    UNION ALL SELECT 'operator', o.oid::regoperator::text, concat_ws(' ', o.oprcode, o.oprresult::regtype)
    FROM pg_operator AS o WHERE o.oprnamespace = ANY (%(schemas)s::text[]::regnamespace[]) AND {_THEIRS}"""

Things = dict[tuple[str, str], str]
"""Of each kind and name, its definition."""


def require_no_strangers(address: str) -> None:
    """Raise UsageError where a role besides the owners may create something in the record's schemas."""
    with closing(connect(address)) as connection:
        connection.execute(ALONE)
        found = connection.execute(_STRANGERS).fetchall()
    if found:
        lines = "; ".join(f"REVOKE CREATE ON SCHEMA {schema} FROM {role}" for schema, role in found)
        raise UsageError(
            f"{address}: others may put functions of theirs before PostgreSQL's own, and whoever writes the record "
            f"would run them. As the database's owner: {lines}"
        )


def unlike_meant(address: str, postgres_sql: str) -> list[str]:
    """What differs, of functions, operators and aggregates, from what ``postgres_sql`` makes: it makes them once more,
    in a schema beside, in a transaction that is undone. Where the role or a replica does not let it, a warning says
    so. Raises psycopg.Error."""
    from psycopg import errors

    with closing(connect(address)) as connection:
        try:
            there = _things(connection, "public", "flserver")
            connection.execute(f"CREATE SCHEMA {MEANT}".encode())
            connection.execute(f"SET LOCAL search_path = {MEANT}, pg_catalog".encode())
            connection.execute(postgres_sql.replace("flserver", MEANT).encode())
            meant = _things(connection, MEANT)
        except (errors.InsufficientPrivilege, errors.ReadOnlySqlTransaction):
            logger.warning(
                "%s: functions, operators and aggregates were not compared with the migrations' own, for that takes a "
                "schema beside them: verify it as the database's owner, on no replica",
                address,
            )
            return []
        finally:
            connection.rollback()
    added = [f"the {kind} {name} was added" for kind, name in sorted(there.keys() - meant.keys())]
    missing = [f"the {kind} {name} is missing" for kind, name in sorted(meant.keys() - there.keys())]
    both = sorted(there.keys() & meant.keys())
    changed = [f"the {kind} {name} was changed" for kind, name in both if there[kind, name] != meant[kind, name]]
    return [f"{what}: it is not what the migrations make" for what in (*added, *missing, *changed)]


def _things(connection: "psycopg.Connection[Any]", *schemas: str) -> Things:
    connection.execute(ALONE)
    rows = connection.execute(_MADE.encode(), {"schemas": list(schemas)}).fetchall()
    return {
        (kind, name.replace(MEANT, "flserver")): (made or "").replace(MEANT, "flserver") for kind, name, made in rows
    }
