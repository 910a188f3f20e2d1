"""Every closed set of words that the record, the metrics and the rules share."""

OTHER = "other"
STATES = ("joining", "running", "waiting", "completed", "interrupted", "failed")
ROUND_STATUSES = ("committed", "aborted")
PURPOSES = ("register", "upload", "unknown")
DIRECTIONS = ("in", "out")
HEADERS = ("<METADATA>", "<SUCCESS>", "<ERROR>", "<MODEL>", "<FINISHED>", OTHER)
OUTCOMES = ("ok", "refused", "failed")
DECISIONS = ("accepted", "late", "duplicate", "rejected", "aborted")
REJECTED_REASONS = ("names", "shape", "dtype", "non_finite", "weight_share", OTHER)
DROPOUT_REASONS = ("closed", "reset", "timeout", "protocol", OTHER)
# A registration that ends so is no drop-out; the last is what SQL says where a server died with the client connected.
ORDERLY_REASONS = ("finished", "stopped", "server stopped")
PHASES = ("broadcast", "wait", "aggregate", "evaluate", "checkpoint")
