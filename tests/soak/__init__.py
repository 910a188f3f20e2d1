"""A server under many connections, honest, broken and hostile mixed; ``ops/soak`` runs it."""
