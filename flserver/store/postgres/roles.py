"""A role that can read the views, and nothing else: what who makes it gives to psql."""

import re
from collections.abc import Sequence

from flserver.errors import UsageError

GRANTS = """\
-- {role} can read the v1_ views of a record, and call the functions that its SQL takes: no table, and nothing to write.
-- For psql, in the record's database, as a superuser; who owns that may do all but the last two lines, which take
-- CREATEROLE. The role is made before: CREATE ROLE {role} LOGIN;
REVOKE CREATE ON SCHEMA public FROM PUBLIC;
REVOKE TEMPORARY ON DATABASE {database} FROM PUBLIC;
GRANT CONNECT ON DATABASE {database} TO {role};
GRANT USAGE ON SCHEMA public, flserver TO {role};
GRANT SELECT ON flserver.revision TO {role};
{views}
ALTER ROLE {role} IN DATABASE {database} SET search_path = public, flserver, pg_catalog;
ALTER ROLE {role} IN DATABASE {database} SET default_transaction_read_only = on;"""


def grants(role: str, database: str, views: Sequence[str]) -> str:
    """The statements by which ``role`` can read the ``views`` of a ``database``. Raises UsageError for what is no plain
    name of a role."""
    if not re.fullmatch(r"[a-z_][a-z0-9_]{0,62}", role):
        raise UsageError(f"{role!r} is no plain name of a role: small letters, digits and _, a digit not first")
    named = '"' + database.replace('"', '""') + '"'
    lines = "\n".join(f"GRANT SELECT ON public.{view} TO {role};" for view in views)
    return GRANTS.format(role=role, database=named, views=lines)
