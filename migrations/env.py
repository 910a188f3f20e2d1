"""What alembic runs. The connection, its transaction and its locks are ``flserver.store.schema``'s."""

from alembic import context

context.configure(connection=context.config.attributes["connection"], transactional_ddl=True)
with context.begin_transaction():
    context.run_migrations()
