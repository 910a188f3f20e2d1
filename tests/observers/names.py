"""The names of the metrics that are a contract, without the prefix ``flserver_``."""

GAUGES = (
    "build_info",
    "run_info",
    "run_state",
    "current_round",
    "planned_rounds",
    "participants",
    "round_updates",
    "min_updates",
    "round_start_timestamp_seconds",
    "round_deadline_timestamp_seconds",
    "connected_clients",
    "open_connections",
    "answered_clients",
    "awaited_clients",
    "inflight_bytes",
    "inflight_limit_bytes",
    "open_connections_limit",
    "model_parameters",
    "model_loss",
    "model_accuracy_ratio",
    "clients_loss",
    "clients_accuracy_ratio",
    "last_checkpoint_timestamp_seconds",
    "checkpoint_bytes",
    "database_bytes",
    "audit_queue_length",
    "audit_queue_length_limit",
    "audit_sequence",
)
NODE_GAUGES = ("node_up", "node_open_connections")
COUNTERS = (
    "rounds_total",
    "connections_total",
    "messages_total",
    "message_bytes_total",
    "updates_total",
    "rejected_updates_total",
    "dropouts_total",
    "rejoins_total",
    "audit_events_total",
    "audit_write_errors_total",
)
NODE_COUNTERS = ("nodes_lost_total", "node_connections_total", "node_updates_total", "node_message_bytes_total")
"""Those of ``--ingest``, by slot: without it they have no samples."""
HISTOGRAMS = (
    "round_duration_seconds",
    "round_phase_duration_seconds",
    "client_update_duration_seconds",
    "checkpoint_duration_seconds",
    "audit_commit_duration_seconds",
)
