"""One table of settings: every name, type, default and help text stands here once.

The table feeds the flags, the environment, the configuration file, ``--print-config`` and the README's check. What the
rest of the server gets are the frozen policies at the end of this file, passed by constructor.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from flserver.errors import UsageError
from flserver.wire.messages import MAX_DATA_SIZE


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One option. ``kind`` is one of str, int, float, path, bool, tristate and choice.

    ``bool`` is a pair of flags (``--rejoin/--no-rejoin``). ``tristate`` is a flag with an optional value: bare, ``True``,
    ``False`` and ``''`` mean what they say; left out means None.
    """

    name: str
    kind: str
    default: Any
    help: str
    metavar: str | None = None
    choices: tuple[str, ...] = ()
    minimum: float | None = None
    maximum: float | None = None

    @property
    def key(self) -> str:
        """The name as a Python identifier."""
        return self.name.replace("-", "_")


MAX_SECONDS = 1e9  # 31 years: what every clock and timer here still counts
MAX_COUNT = 10**9

SERVER_SETTINGS: tuple[Setting, ...] = (
    Setting(name="host", kind="str", default="127.0.0.1", help="Address to listen on for trainers."),
    Setting(name="server-port", kind="int", default=50052, minimum=0, maximum=65535, help="Port for trainers; 0 takes any free one and prints it."),
    Setting(name="num-rounds", kind="int", default=30, minimum=1, maximum=MAX_COUNT, help="Rounds of the run."),
    Setting(name="time-to-wait", kind="float", default=10.0, minimum=0, maximum=MAX_SECONDS, help="Seconds that the join window stays open."),
    Setting(name="join-window", kind="choice", default="fixed", choices=("fixed", "sliding"), help="Count the window from the first registration (fixed) or from the latest (sliding)."),
    Setting(name="use-cuda", kind="tristate", default=None, help="Evaluate on CUDA. Left out: if there is one. Averaging is always on the CPU."),
    Setting(name="db", kind="path", default="runs.sqlite", help="The SQLite database; made where there is none."),
    Setting(name="resume", kind="bool", default=False, help="Go on with the newest run, or --run-name's, from its last committed round."),
    Setting(name="run-name", kind="str", default=None, metavar="NAME", help="A name for the run; with --resume, the run to go on with."),
    Setting(name="checkpoint-dir", kind="path", default=None, help="Where the models go. Default: <db>.checkpoints beside the database."),
    Setting(name="keep-checkpoints", kind="int", default=0, minimum=0, maximum=MAX_COUNT, metavar="K", help="Keep the newest K checkpoints and the best; 0 keeps all."),
    Setting(name="model", kind="str", default="neural_net_helper:NeuralNet", metavar="SPEC", help="neural_net_helper:NeuralNet, torchvision:NAME or package.module:factory."),
    Setting(name="initial-weights", kind="str", default=None, metavar="FILE|RUN[:ROUND]", help="Start from a .safetensors file or from a round of a run in this database."),
    Setting(name="seed", kind="int", default=0, minimum=0, maximum=2**63 - 1, help="Seed of the initial model."),
    Setting(name="strategy", kind="str", default="fedavg", help="How updates become the next global model: fedavg, or package.module:Class."),
    Setting(name="min-clients", kind="int", default=1, minimum=1, maximum=MAX_COUNT, help="Clients that must have registered before the first round."),
    Setting(name="min-updates", kind="int", default=None, minimum=1, maximum=MAX_COUNT, metavar="N", help="Updates that a round needs. Default: 2, or 1 where one client alone was in the first join window."),
    Setting(name="round-timeout", kind="float", default=3600.0, minimum=0.001, maximum=MAX_SECONDS, help="Seconds until a round's deadline."),
    Setting(name="round-attempts", kind="int", default=3, minimum=1, maximum=MAX_COUNT, help="Quorum misses of one round after which the run ends interrupted."),
    Setting(name="rejoin", kind="bool", default=True, help="Let a participant whose connection died register again."),
    Setting(name="rejoin-timeout", kind="float", default=60.0, minimum=0, maximum=MAX_SECONDS, help="Seconds to wait for participants while there are fewer than --min-updates."),
    Setting(name="eval-data", kind="str", default=None, metavar="SPEC", help="Evaluate every global model on: fldata, digits, mnist, fashion-mnist or cifar10."),
    Setting(name="data-dir", kind="path", default=None, help="Where data sets lie. Default: FLdata for fldata, data for the others."),
    Setting(name="evaluate", kind="str", default=None, metavar="MODULE:FUNCTION", help="Evaluate every global model with function(model, round) -> dict of finite floats."),
    Setting(name="metrics-host", kind="str", default="127.0.0.1", help="Address of /metrics and /healthz."),
    Setting(name="metrics-port", kind="int", default=9464, minimum=0, maximum=65535, help="Port of /metrics and /healthz; 0 turns them off."),
    Setting(name="metrics-linger", kind="float", default=0.0, minimum=0, maximum=MAX_SECONDS, help="Seconds that /metrics outlives a finished run, so that its last values are scraped."),
    Setting(name="receive-memory", kind="int", default=1024, minimum=1, maximum=MAX_COUNT, metavar="MIB", help="Memory for updates being received or held, in MiB; beyond it they lie in unlinked files in the checkpoint directory."),
    Setting(name="max-update-size", kind="int", default=None, minimum=1, maximum=2**48, metavar="BYTES", help="Longest message with a model. Default: twice the global model's and 64 KiB more."),
    Setting(name="max-json-size", kind="int", default=4096, minimum=64, maximum=2**20, metavar="BYTES", help="Longest registration."),
    Setting(name="max-data-size", kind="int", default=MAX_DATA_SIZE, minimum=1, maximum=MAX_DATA_SIZE, metavar="N", help="Most training samples that a client may say it has."),
    Setting(name="max-weight-share", kind="float", default=1.0, minimum=0.001, maximum=1, metavar="SHARE", help="Reject an update whose client has more than this share of the samples of all clients invited; 1 is off."),
    Setting(name="first-frame-timeout", kind="float", default=30.0, minimum=0.001, maximum=MAX_SECONDS, help="Seconds a new connection has to send its first bytes, and to finish a TLS handshake."),
    Setting(name="frame-timeout", kind="float", default=3600.0, minimum=0.001, maximum=MAX_SECONDS, help="Seconds that receiving an update, or sending a model, may take."),
    Setting(name="min-rate", kind="float", default=1024.0, minimum=0, maximum=1e12, metavar="BYTES", help="Bytes a second below which a message is not waited for any more, counted over 30 seconds (or --first-frame-timeout, if less) of waiting for its sender."),
    Setting(name="peer-timeout", kind="float", default=90.0, minimum=3, maximum=86400, help="Seconds after which a peer whose machine does not answer any more is gone."),
    Setting(name="max-connections", kind="int", default=2048, minimum=8, maximum=MAX_COUNT, help="Connections at once. When full, the oldest that has not finished its first message goes."),
    Setting(name="max-connections-per-address", kind="int", default=2048, minimum=2, maximum=MAX_COUNT, metavar="N", help="The same for one address. A trainer has one for good, and one more while it uploads."),
    Setting(name="upload-from", kind="choice", default=None, choices=("same-address", "any", "certificate"), help="Whose uploads count: those from the address that registered the client, anybody's, or those with its certificate. Default: same-address, or certificate with --tls-client-ca."),
    Setting(name="clients", kind="path", default=None, metavar="FILE", help="Admit these clients only, and start as soon as all are in: CSV with the columns id, label, fingerprint."),
    Setting(name="tls-cert", kind="path", default=None, metavar="FILE", help="Speak TLS to trainers, with this certificate (PEM, the chain after it)."),
    Setting(name="tls-key", kind="path", default=None, metavar="FILE", help="Its key. Default: in the file of --tls-cert."),
    Setting(name="tls-client-ca", kind="path", default=None, metavar="FILE", help="Ask trainers for certificates that one of these signed: the common name is the client's id."),
    Setting(name="trusted-proxy", kind="str", default=None, metavar="CIDR[,CIDR]", help="Forwarders' addresses: each connection from there begins with a PROXY protocol header, which has the trainer's."),
    Setting(name="insecure", kind="bool", default=False, help="Listen on more than loopback without TLS, where an attacker on the way can run code on the trainers."),
    Setting(name="log-format", kind="choice", default="text", choices=("text", "json"), help="One log line an event, as text or JSON."),
    Setting(name="log-level", kind="choice", default="info", choices=("debug", "info", "warning", "error"), help="Least severe line to log."),
)  # fmt: skip


PATHS = ("data_dir", "clients", "tls_cert", "tls_key", "tls_client_ca")

Policy = TypeVar("Policy")


def defaults(settings: tuple[Setting, ...]) -> dict[str, Any]:
    """Every key with its default."""
    return {setting.key: setting.default for setting in settings}


def parse_tristate(value: str | bool | None) -> bool | None:
    """What the person meant by ``--use-cuda VALUE``.

    Raises UsageError for a word that is neither yes nor no.
    """
    if value is None or isinstance(value, bool):
        return value
    word = value.strip().lower()
    if word in ("true", "1", "yes", "on"):
        return True
    if word in ("false", "0", "no", "off", ""):
        return False
    raise UsageError(f"{value!r} is neither True nor False")


# --- policies: what each part of the server is given ------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class RoundPolicy:
    """The rules of a run's rounds (seconds; ``min_updates`` None: settle it from the first join window)."""

    num_rounds: int
    time_to_wait: float
    join_window: str
    min_clients: int
    min_updates: int | None
    round_timeout: float
    round_attempts: int
    rejoin: bool
    rejoin_timeout: float
    max_data_size: int = MAX_DATA_SIZE
    max_weight_share: float = 1.0


@dataclass(frozen=True, kw_only=True)
class ModelPolicy:
    """Which model, from where, averaged how."""

    model: str
    initial_weights: str | None
    seed: int
    strategy: str


@dataclass(frozen=True, kw_only=True)
class EvaluationPolicy:
    """What the global model is measured on, if anything."""

    eval_data: str | None
    data_dir: Path | None
    evaluate: str | None
    use_cuda: bool | None


@dataclass(frozen=True, kw_only=True)
class StorePolicy:
    """Where the record and the models go, and which run is meant."""

    db: Path
    checkpoint_dir: Path
    keep_checkpoints: int
    resume: bool
    run_name: str | None


@dataclass(frozen=True, kw_only=True)
class NetworkPolicy:
    """Where the server listens, and what a connection may use (bytes, seconds, bytes a second)."""

    host: str
    server_port: int
    insecure: bool
    metrics_host: str
    metrics_port: int
    metrics_linger: float
    receive_memory: int
    max_update_size: int | None
    max_json_size: int
    first_frame_timeout: float
    frame_timeout: float
    min_rate: float
    peer_timeout: float
    max_connections: int
    max_connections_per_address: int


@dataclass(frozen=True, kw_only=True)
class IdentityPolicy:
    """Who may speak for a client, and how that is shown."""

    upload_from: str | None
    clients: Path | None
    tls_cert: Path | None
    tls_key: Path | None
    tls_client_ca: Path | None
    trusted_proxy: str | None


@dataclass(frozen=True, kw_only=True)
class ServerSettings:
    """All policies, and the flat values they were made from."""

    rounds: RoundPolicy
    model: ModelPolicy
    evaluation: EvaluationPolicy
    store: StorePolicy
    network: NetworkPolicy
    identity: IdentityPolicy
    values: Mapping[str, Any]


def _pick(policy: type[Policy], values: Mapping[str, Any], **replaced: Any) -> Policy:
    names = [field.name for field in fields(policy)]  # type: ignore[arg-type]
    return policy(**{name: replaced.get(name, values.get(name)) for name in names})


def server_settings(values: Mapping[str, Any]) -> ServerSettings:
    """The policies of flat ``values`` (keys as in the table; missing ones take their default)."""
    merged = defaults(SERVER_SETTINGS) | dict(values)
    db = Path(merged["db"])
    checkpoints = Path(merged["checkpoint_dir"]) if merged["checkpoint_dir"] else db.with_name(db.name + ".checkpoints")
    paths = {key: Path(merged[key]) if merged[key] else None for key in PATHS}
    return ServerSettings(
        rounds=_pick(RoundPolicy, merged),
        model=_pick(ModelPolicy, merged),
        evaluation=_pick(EvaluationPolicy, merged, data_dir=paths["data_dir"]),
        store=_pick(StorePolicy, merged, db=db, checkpoint_dir=checkpoints),
        network=_pick(NetworkPolicy, merged, receive_memory=merged["receive_memory"] * 2**20),
        identity=_pick(IdentityPolicy, merged, **paths),
        values=merged,
    )
