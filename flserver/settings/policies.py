"""What each part of the server is given of the settings: frozen policies, passed by constructor."""

import math
import re
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, fields
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeVar

from flserver.clock import utc_moment
from flserver.errors import UsageError
from flserver.settings.folders import Folder, folder_of
from flserver.settings.operator import Operator
from flserver.settings.places import Address, Place, checkpoints_beside, place_of
from flserver.settings.server import PATHS, SERVER_SETTINGS, Goodbye, JoinWindow, MaxUpdateNorm, UploadFrom
from flserver.settings.setting import CAP, defaults

CONVERTIBLE = ("float16", "bfloat16", "float64")  # to float32

NOT_KNOWN_YET = Path("/dev/null/checkpoints")
"""Where models go while only the record of a run that goes on can say that; there can be no such folder."""

Policy = TypeVar("Policy")


@dataclass(frozen=True)
class Enough:
    """How many updates that count let a round go on without the rest: a number, or a share of the clients invited."""

    number: int | None = None
    share: Fraction | None = None

    def of(self, invited: int) -> int:
        """How many that are where so many clients are invited."""
        return self.number if self.share is None else math.ceil(self.share * invited)  # type: ignore[return-value]


@dataclass(frozen=True, kw_only=True)
class RoundPolicy:
    """The rules of a run's rounds. Times are in seconds; with ``min_updates`` None the first join window settles it;
    ``go_on_at`` None waits for all. An owner of more than ``max_weight_share`` of the samples is rejected, or with
    ``caps_weight`` counts for less."""

    num_rounds: int
    time_to_wait: float
    join_window: JoinWindow
    min_clients: int
    min_updates: int | None
    round_timeout: float
    go_on_at: Enough | None
    grace: float
    round_attempts: int
    rejoin: bool
    rejoin_timeout: float
    stop_grace: float
    max_data_size: int
    max_weight_share: float
    max_update_norm: MaxUpdateNorm
    caps_weight: bool


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
    """Where the record and the models go, which group may read them, and which run is meant: with ``resume`` it goes
    on, with ``resume_from`` a child of it begins at that round. In a run's settings on record, ``resume_from`` says
    where it began. With ``standby`` the run is another server's at first. An object store that fails is tried again,
    ``checkpoint_patience`` seconds; ``spool_dir`` is for updates that memory has no room for. A database that another
    program has locked, or that cannot be reached, is waited for, ``db_patience`` seconds. In the file ``audit_head``
    the chain's heads are noted, with ``sign_key`` they are signed."""

    db: Place
    checkpoint_dir: Folder
    checkpoint_patience: float
    spool_dir: Path
    keep_checkpoints: int
    keep_updates: bool
    keep_updates_rounds: int
    resume: bool
    resume_from: int | None
    standby: bool
    run_name: str | None
    group: str | None
    db_patience: float
    audit_head: Path | None
    sign_key: Path | None
    sign_key_passphrase_file: Path | None

    @property
    def listens_as_before(self) -> bool:
        """Whether the settings of another run, where it listened among them, are this one's too."""
        return self.resume or self.resume_from is not None


@dataclass(frozen=True, kw_only=True)
class NetworkPolicy:
    """Where the server listens, and what a connection may use. Sizes are in bytes, times in seconds, ``min_rate`` in
    bytes a second."""

    host: str
    server_port: int
    goodbye: Goodbye
    insecure: bool
    metrics_host: str
    metrics_port: int
    metrics_linger: float
    receive_memory: int
    max_update_size: int | None
    max_json_size: int
    accept_dtypes: frozenset[str]
    first_frame_timeout: float
    frame_timeout: float
    min_rate: float
    peer_timeout: float
    max_connections: int
    max_connections_per_address: int
    strangers_per_minute: int
    max_clients_per_address: int


@dataclass(frozen=True, kw_only=True)
class IngestPolicy:
    """How many processes beside the server's own serve trainers, and on which Ray cluster: without an address they are
    this machine's. With 0 of them there is none."""

    ingest: int
    ray_address: str | None


@dataclass(frozen=True, kw_only=True)
class IdentityPolicy:
    """Who may speak for a client, and how that is shown."""

    upload_from: UploadFrom | None
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
    ingest: IngestPolicy
    identity: IdentityPolicy
    operator: Operator
    values: Mapping[str, Any]


def server_settings(values: Mapping[str, Any]) -> ServerSettings:
    """The policies of flat ``values`` (keys as in the table; missing ones take their default)."""
    merged = defaults(SERVER_SETTINGS) | dict(values)
    meant = merged | {key: Path(merged[key]) if merged[key] else None for key in PATHS if key != "db"}
    meant["db"] = place_of(merged["db"])
    if merged["standby"]:
        _check_standby(meant)
        meant["resume"] = merged["resume"] = True
    meant["checkpoint_dir"] = checkpoints_at(merged["checkpoint_dir"]) or _beside(meant["db"], merged)
    meant["spool_dir"] = meant["spool_dir"] or spool_beside(meant["checkpoint_dir"])
    meant["receive_memory"] *= 2**20
    share = str(merged["max_weight_share"])
    meant["max_weight_share"], meant["caps_weight"] = float(share.removeprefix(CAP)), share.startswith(CAP)
    meant["accept_dtypes"] = _dtypes(merged["accept_dtypes"])
    meant["max_update_norm"] = _max_norm(merged["max_update_norm"])
    meant["ray_address"] = merged["ray_address"] or None
    _check_date(merged["retain_until"])
    if merged["ray_address"] and not merged["ingest"]:
        raise UsageError("--ray-address is where --ingest nodes run: say how many with --ingest")
    meant["go_on_at"] = _go_on_at(merged)
    if not merged["resume"] and merged["resume_from"] is None:  # else a run on record may say the rest
        check_kept(merged["keep_updates"], merged["keep_updates_rounds"])
    meant["max_clients_per_address"] = merged["max_clients_per_address"] or merged["max_connections_per_address"] // 2
    return ServerSettings(
        rounds=_pick(RoundPolicy, meant),
        model=_pick(ModelPolicy, meant),
        evaluation=_pick(EvaluationPolicy, meant),
        store=_pick(StorePolicy, meant),
        network=_pick(NetworkPolicy, meant),
        ingest=_pick(IngestPolicy, meant),
        identity=_pick(IdentityPolicy, meant),
        operator=Operator.of(merged["actor"], merged["reason"]),
        values=merged,
    )


def _beside(db: Place, values: Mapping[str, Any]) -> Path:
    """Where the models go where ``--checkpoint-dir`` does not say. Raises UsageError where nothing does."""
    if isinstance(db, Address) and (values["resume"] or values["resume_from"] is not None):
        return NOT_KNOWN_YET
    return checkpoints_beside(db)


def _check_standby(values: Mapping[str, Any]) -> None:
    if not isinstance(values["db"], Address):
        raise UsageError("--standby: servers that take a run over from each other share a PostgreSQL database")
    if values["resume_from"] is not None:
        raise UsageError("--standby goes on with a run, and --resume-from begins one: leave one of the two out")


def require_checkpoint_dir(store: StorePolicy) -> None:
    """Raises UsageError where neither the settings nor the record of a run say where the models go."""
    if store.checkpoint_dir == NOT_KNOWN_YET:
        checkpoints_beside(store.db)


def _check_date(text: str | None) -> None:
    """Raises UsageError where ``--retain-until`` names no moment."""
    try:
        if text:
            utc_moment(text)
    except ValueError as error:
        raise UsageError(f"--retain-until {error}") from error


def _dtypes(text: str) -> frozenset[str]:
    """The dtypes of ``--accept-dtypes``. Raises UsageError."""
    names = frozenset(name.strip() for name in text.split(",") if name.strip())
    if wrong := names.difference(CONVERTIBLE):
        raise UsageError(f"--accept-dtypes {text}: {', '.join(sorted(wrong))}: not one of {', '.join(CONVERTIBLE)}")
    return names


def _max_norm(text: str) -> MaxUpdateNorm:
    """What ``--max-update-norm`` says. Raises UsageError."""
    if text == "auto":
        return "auto"
    if text == "off":
        return "off"
    with suppress(ValueError):
        if 0 < (number := float(text)) < math.inf:
            return number
    raise UsageError(f"--max-update-norm {text}: neither auto nor off, nor a number above 0")


def _go_on_at(values: Mapping[str, Any]) -> Enough | None:
    """What ``--go-on-at`` means. Raises UsageError for what means nothing, or would go on with less than a quorum."""
    text, quorum = values["go_on_at"], values["min_updates"]
    if text is None:
        if values["grace"]:
            raise UsageError(f"--grace {values['grace']:g} needs --go-on-at: it is what a round still waits then")
        return None
    if re.fullmatch(r"0*[1-9][0-9]{0,8}", text):
        if quorum is not None and int(text) < quorum:
            raise UsageError(f"--go-on-at {text} is less than --min-updates {quorum}, without which no round is made")
        return Enough(number=int(text))
    if re.fullmatch(r"0?\.0*[1-9][0-9]{0,8}|1\.0{1,9}", text):
        return Enough(share=Fraction(text))
    raise UsageError(f"--go-on-at {text}: neither a number of updates, such as 8, nor a share, such as 0.8")


def check_kept(keeps: bool, rounds: int) -> None:
    """Raises UsageError where updates of so many ``rounds`` would be kept by a run that keeps none."""
    if rounds and not keeps:
        given = f"--keep-updates-rounds {rounds}"
        raise UsageError(f"{given} needs --keep-updates; without that none is kept, which --keep-updates-rounds 0 says")


def checkpoints_at(text: str | None) -> Folder | None:
    """What ``--checkpoint-dir`` names, if anything. Raises UsageError."""
    return folder_of(text) if text else None


def spool_beside(checkpoints: Folder) -> Path:
    """Where updates go that memory has no room for unless ``--spool-dir`` says otherwise."""
    return checkpoints if isinstance(checkpoints, Path) else Path(tempfile.gettempdir())


def _pick(policy: type[Policy], values: Mapping[str, Any]) -> Policy:
    return policy(**{field.name: values[field.name] for field in fields(policy)})  # type: ignore[arg-type]
