"""Rounds, attempts and updates."""

from flserver.events.event import Event
from flserver.events.words import Decision, IdentityKind, MeasuredOn, MetricSource, Participation
from flserver.frozen import frozen


@frozen(kw_only=True)
class AttemptStarted(Event):
    """An attempt at a round began. ``clients`` are invited: sent the model; ``not_sent`` are there and are not, for the
    reasons ``why_not_sent``."""

    round: int
    attempt: int
    process_id: int
    clients: tuple[str, ...]
    not_sent: tuple[str, ...]
    deadline_at: str | None
    base_digest: str | None
    why_not_sent: tuple[str, ...] = ()


@frozen(kw_only=True)
class ClientMetric:
    """A number that a client reported with its update: as it was sent, whether it can be so or not."""

    name: str
    measured_on: MeasuredOn
    value: float


@frozen(kw_only=True)
class UpdateReceived(Event):
    """A complete upload that decodes and passes the identity rules. ``decision`` is None while it counts and its
    attempt runs; ``answers_round`` and ``answers_attempt`` are None where it answers nothing. ``identity`` says whether
    a certificate showed whose it is, on the connection that it came on. ``update_norm`` is over all floating-point
    tensors; the other two are over its parameters and over its buffers. ``update_cosine``, from −1 to 1, is of the
    angle between the update's step from the model sent and that model's from the round before. ``counted_size`` are the
    samples with which it is averaged; None stands for all of ``data_size``."""

    update_id: int
    message_id: int
    connection_id: int
    client_id: str
    answers_round: int | None
    answers_attempt: int | None
    arrived_round: int | None
    decision: Decision | None
    reason: str | None
    update_digest: str | None
    data_size: int
    bytes: int
    wait_seconds: float | None
    upload_seconds: float
    update_norm: float | None
    identity: IdentityKind = "claimed"
    metrics: tuple[ClientMetric, ...] = ()
    parameters_norm: float | None = None
    buffers_norm: float | None = None
    counted_size: int | None = None
    update_cosine: float | None = None


@frozen(kw_only=True)
class SuspectRejected(Event):
    """An update that counted so far is rejected: what is wrong with it depends on the other clients' updates, and they
    are known now."""

    update_id: int
    client_id: str
    round: int
    attempt: int
    reason: str


@frozen(kw_only=True)
class LostUpdate:
    """An update that counted in an attempt until the node that had folded it was gone."""

    update_id: int
    client_id: str
    round: int
    attempt: int


@frozen(kw_only=True)
class NodeLost(Event):
    """An ingest node is gone, with its connections, whose ends follow, and with the ``updates`` that were folded only
    there. ``reason`` says how that showed, as text for people; ``slot`` is as in NodeStarted, None where the event is
    older than that."""

    node: str
    reason: str
    updates: tuple[LostUpdate, ...] = ()
    slot: int | None = None


@frozen(kw_only=True)
class SuspectsCount(Event):
    """Updates that would be rejected for their norm count, since they are those of half of the clients ``there``, or
    of more: ``clients`` sent them, and ``reason`` is the first one's."""

    round: int
    attempt: int
    clients: tuple[str, ...]
    there: int
    reason: str


@frozen(kw_only=True)
class ClientOutcome:
    """What became of one invited client in one attempt. ``update_id`` is set where its update counted, ``weight`` where
    it was accepted; ``seconds`` is sent to received."""

    client_id: str
    participation: Participation
    update_id: int | None = None
    weight: float | None = None
    seconds: float | None = None


@frozen(kw_only=True)
class RoundMetric:
    """A number about the global model of ``round``."""

    round: int
    name: str
    value: float
    source: MetricSource


@frozen(kw_only=True)
class KeptUpdate:
    """Where the tensors of an accepted update lie: their path below the checkpoint directory."""

    update_id: int
    path: str


@frozen(kw_only=True)
class NodeHead:
    """How many events an ingest node has given, in this server process, and the head of their own hash chain."""

    node: str
    events: int
    head: str


@frozen(kw_only=True)
class RoundCommitted(Event):
    """A round exists: its checkpoint is durable, and this event's transaction decides its updates ``accepted``.

    Every update of the attempt whose decision is still NULL is named in ``outcomes``. ``clients`` is how many were sent
    the model; None leaves the number that were invited. ``data_size`` are the samples counted. ``arithmetic`` is the
    strategy's; None: it has no name for it, or the event is older than that. ``kept`` are the accepted updates whose
    tensors are on disk: all, or none. ``nodes`` names the events that each ingest node had given.
    """

    round: int
    attempt: int
    clients: int | None = None
    seconds: float
    broadcast_seconds: float | None
    wait_seconds: float | None
    aggregate_seconds: float | None
    evaluate_seconds: float | None
    checkpoint_seconds: float
    data_size: int
    model_digest: str
    checkpoint: str
    checkpoint_bytes: int
    loss: float | None
    accuracy: float | None
    metrics: tuple[RoundMetric, ...]
    outcomes: tuple[ClientOutcome, ...]
    arithmetic: str | None = None
    kept: tuple[KeptUpdate, ...] = ()
    nodes: tuple[NodeHead, ...] = ()


@frozen(kw_only=True)
class WeightConcentrated(Event):
    """One owner has nearly all of a round's weight: ``weight`` of it (0 to 1), by the updates of its ``clients``. Said
    once in a server process. ``owner`` is text for people."""

    round: int
    attempt: int
    owner: str
    clients: tuple[str, ...]
    weight: float


@frozen(kw_only=True)
class AttemptAborted(Event):
    """An attempt ended without a round. Its updates whose decision was still NULL are ``aborted``.

    ``reason`` is ``quorum``, ``implausible`` (the new model was), ``failed``, or what stopped the server: ``stopped
    by`` and a signal's name, or ``the audit record failed``. Where the process died there is no such event: the run's
    ``RunLeftOver`` closes the attempt. ``clients`` is as in :class:`RoundCommitted`; ``detail`` says more, as text for
    people.
    """

    round: int
    attempt: int
    clients: int | None = None
    reason: str
    seconds: float
    broadcast_seconds: float | None
    wait_seconds: float | None
    outcomes: tuple[ClientOutcome, ...]
    detail: str | None = None


@frozen(kw_only=True)
class CheckpointDeleted(Event):
    """A committed round's file was pruned; its row and digest stay."""

    round: int
    attempt: int
    checkpoint: str


@frozen(kw_only=True)
class KeptUpdatesDeleted(Event):
    """The files with a committed round's updates were deleted, all of them or those of ``update_ids``; their rows and
    digests stay."""

    round: int
    update_ids: tuple[int, ...] | None = None
