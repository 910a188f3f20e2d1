# Read by the postgres image when it makes its database, and by nobody else: a role that owns the record and is no superuser, and
# who may come over the network: that role, to that database, with TLS and its password.
psql -v ON_ERROR_STOP=1 --username postgres -v password="$(cat /run/secrets/fl-password)" << 'END'
CREATE ROLE fl LOGIN PASSWORD :'password';
CREATE DATABASE runs OWNER fl TEMPLATE template0 ENCODING UTF8 LOCALE 'C' LOCALE_PROVIDER libc;
\connect runs
REVOKE CREATE ON SCHEMA public FROM PUBLIC;
END
sed -i 's/^host all all all .*/hostssl runs fl all scram-sha-256/' "$PGDATA/pg_hba.conf"
