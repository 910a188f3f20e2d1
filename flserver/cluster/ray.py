"""A Ray cluster that this machine belongs to: joined with a token or not at all, and asked for the actors of one run,
or of one simulated fleet.

Nothing of Ray is imported before ``load_ray``, which who stands by calls ahead, and else ``Cluster``. What that gives
are Ray's own references and handles.
"""

import atexit
import importlib
import logging
import os
import socket
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from typing import Any, ClassVar, Protocol

from flserver.cluster.head import Head, speaks_as_one
from flserver.errors import FlserverError, NotInstalled, UsageError, one_line

ANSWER_SECONDS = 3.0  # that a cluster has to answer in, before anybody joins it
SPEAK_SECONDS = 10.0  # that who listens there has to say anything in, on a busy machine
JOIN_SECONDS = 30.0  # that joining may take: Ray itself tries for a quarter of an hour where nobody answers
ACTOR_CPUS = 0.5  # that one takes of its machine's, as Ray counts: so one of a few cores has room for other work too
CALLS = 8  # of an actor's methods at once: of a node, the line each way, and models
CALLS_APART = 2  # the same, of each group that has threads of its own
MOST_OF_RAYS = 200  # characters of what Ray says, which may be paragraphs
TOKEN_MODE = "RAY_AUTH_MODE"
NO_CLUSTER = "who listens there does not answer as a Ray cluster"

logger = logging.getLogger(__name__)


def require_tokens() -> None:
    """Have Ray ask for tokens, in this process and its children. Raises UsageError where it is told not to."""
    if os.environ.setdefault(TOKEN_MODE, "token") != "token":  # Ray reads it as it is imported
        raise UsageError(
            f"{TOKEN_MODE}={os.environ[TOKEN_MODE]}: who reaches the ports of a Ray cluster without tokens runs "
            f"code on its machines; start it, and this server, with {TOKEN_MODE}=token"
        )


class Kind(Protocol):
    """What an actor is made of."""

    apart: ClassVar[Mapping[str, str]]


class ActorGone(FlserverError):
    """An actor has died, does not answer in time, or failed, or Ray has with it; ``str`` says which."""


class ActorLate(ActorGone):
    """It has not answered in time, and may be there."""


def check_cluster(address: str) -> None:
    """Whether Ray is installed, and somebody listens at ``address`` who speaks as a cluster's head does; nothing of Ray
    is imported. Raises UsageError.

    To join, and so to hold the token against the cluster's, leaves traces in it.
    """
    if find_spec("ray") is None:
        raise NotInstalled("--ray-address needs Ray", "ray")
    host, _, port = address.rpartition(":")
    if not (host and port.isdecimal()):
        return  # Ray finds it by itself, or says what is wrong with it
    try:
        connection = socket.create_connection((host.strip("[]"), int(port)), ANSWER_SECONDS)
    except (OSError, OverflowError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise UsageError(
            f"--ray-address {address}: no cluster answers there ({why}): look there whether Ray runs "
            "(systemctl status flserver-ray, or who starts it); this machine has to belong to that cluster"
        ) from error
    with connection:
        encrypted = os.environ.get("RAY_USE_TLS", "").lower() in ("1", "true")  # as Ray reads it
        if not encrypted and not speaks_as_one(connection, SPEAK_SECONDS):
            raise UsageError(f"--ray-address {address}: {NO_CLUSTER}: give the port of its head (ray start --port)")


class Cluster:
    """The cluster at ``address``, as the run ``run_id`` sees it: only its own actors. Raises UsageError."""

    left_waiting = False
    """Whether threads of this process wait in Ray for a head that is gone, or was never there: they crash it where
    Python ends."""

    def __init__(self, address: str, run_id: str) -> None:
        self._ray: Any = load_ray()
        self._address, self._namespace = address, f"flserver-{run_id}"
        self._head: Head | None = None
        self._join()

    def _join(self) -> None:
        # On another thread than the main one, where it would take SIGTERM for itself, and could not be left.
        failed: list[BaseException] = []
        thread = threading.Thread(target=self._connect, args=(failed,), name="ray-joins", daemon=True)
        thread.start()
        thread.join(JOIN_SECONDS)
        if thread.is_alive():
            self._leave_waiting()
            raise UsageError(
                f"--ray-address {self._address}: {NO_CLUSTER} (nothing within {JOIN_SECONDS:g} s): give the port of "
                "its head (ray start --port), and look whether Ray runs on this machine"
            )
        if failed:
            said = one_line(failed[0])[:MOST_OF_RAYS]
            raise UsageError(
                f"--ray-address {self._address}: this machine has to belong to the cluster (ray start), and the token "
                f"to be the cluster's (RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH); Ray says: {said}"
            ) from failed[0]

    def _connect(self, failed: list[BaseException]) -> None:
        if self._ray.is_initialized():  # this process, for the same run
            return
        logging.getLogger("ray").setLevel(logging.ERROR)
        host = self._address.rpartition(":")[0]
        loopback = {"_node_ip_address": "127.0.0.1"} if host in ("127.0.0.1", "localhost") else {}
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self._ray.init(
                    address=self._address,
                    namespace=self._namespace,
                    log_to_driver=False,
                    configure_logging=False,
                    **loopback,
                )
        except BaseException as error:
            failed.append(error)

    def watch(self, gone: Callable[[str], None]) -> None:
        """Have ``gone`` told why, once, when there is no head any more: with it goes the cluster. Raises ActorGone."""
        with self._translated():
            head = str(self._ray.get_runtime_context().gcs_address)
        self._head = Head(head, gone)
        self._head.start()

    @property
    def is_gone(self) -> bool:
        """Whether ``gone`` was told. Who then asks the cluster for something may wait until Ray ends this process."""
        return self._head is not None and self._head.is_gone

    def leave(self) -> None:
        """Nothing of the cluster is used from here on."""
        if self._head is not None:
            self._head.close()
        if self.is_gone:
            self._leave_waiting()
        else:
            self._ray.shutdown()

    def _leave_waiting(self) -> None:
        """Ray is not told to end: that would wait for whom its threads wait for."""
        atexit.unregister(self._ray.shutdown)
        Cluster.left_waiting = True

    @property
    def machine(self) -> str:
        """This machine, as Ray knows it. Raises ActorGone."""
        with self._translated():
            return str(self._ray.get_runtime_context().get_node_id())

    @property
    def machines(self) -> Mapping[str, str]:
        """Those that are there, as Ray knows them, each with its address in the cluster. Raises ActorGone."""
        with self._translated():
            return {str(one["NodeID"]): str(one["NodeManagerAddress"]) for one in self._ray.nodes() if one["Alive"]}

    @property
    def processors(self) -> int:
        """Of all machines, as Ray counts. Raises ActorGone."""
        with self._translated():
            return int(self._ray.cluster_resources().get("CPU", 0))

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """What Ray raises within is an error of ours, and what is one already stays what it is."""
        try:
            yield
        except FlserverError:
            raise
        except Exception as error:
            raise ActorGone(f"Ray says: {one_line(error)[:MOST_OF_RAYS]}") from error

    # --- actors ------------------------------------------------------------------------------------------------------

    def names(self) -> list[str]:
        """The run's actors that there are, of whichever process; none where the cluster does not answer."""
        if self.is_gone:
            return []
        try:
            return list(self._ray.util.list_named_actors())
        except Exception as error:
            logger.warning("--ray-address %s does not answer: %s", self._address, one_line(error))
            return []

    def find(self, name: str) -> Any | None:
        """The run's actor of that name, if there is one. Raises ActorGone where Ray cannot say."""
        with self._translated(), suppress(ValueError):  # that there is none
            return self._ray.get_actor(name)
        return None

    def make(self, kind: type[Kind], name: str) -> Any:
        """A new actor on a machine that has few; it outlives this process. ``kind.apart`` has its methods that are
        called on threads of their own, so that no other calls keep one waiting: each with the name of a group. Raises
        ActorGone."""
        for method, group in kind.apart.items():
            self._ray.method(concurrency_group=group)(getattr(kind, method))
        groups = dict.fromkeys(kind.apart.values(), CALLS_APART)
        options = {"name": name, "lifetime": "detached", "num_cpus": ACTOR_CPUS, "max_concurrency": CALLS}
        with self._translated():
            made = self._ray.remote(concurrency_groups=groups)(kind)
            return made.options(scheduling_strategy="SPREAD", max_restarts=0, **options).remote()

    def make_own(self, kind: type) -> Any:
        """One without a name, which ends with this process, however that ends. Raises ActorGone."""
        options = {"num_cpus": ACTOR_CPUS, "max_concurrency": CALLS}
        with self._translated():
            return self._ray.remote(kind).options(scheduling_strategy="SPREAD", max_restarts=0, **options).remote()

    def kill(self, actor: Any) -> None:
        """End an actor's process at once."""
        try:
            self._ray.kill(actor)
        except Exception as error:
            logger.debug("an actor could not be killed: %s", one_line(error))

    # --- what they are asked -----------------------------------------------------------------------------------------

    def put(self, value: object) -> Any:
        """A reference to a value that any machine reads without a copy of its own of large arrays. Raises ActorGone."""
        with self._translated():
            return self._ray.put(value)

    def call(self, actor: Any, method: str, *given: object) -> Any:
        """Ask an actor for something: a reference to its answer. Raises ActorGone where Ray does not take it, as what
        has no place in its object store."""
        with self._translated():
            return getattr(actor, method).remote(*given)

    def answered(self, reference: Any, seconds: float) -> bool:
        """Whether there is an answer here within so many seconds, or none will come. Raises ActorGone."""
        return self._ready(reference, seconds, here=True)

    def is_made(self, reference: Any) -> bool:
        """Whether there is an answer by now, on whichever machine, or none will come. Raises ActorGone."""
        return self._ready(reference, 0.0, here=False)

    def _ready(self, reference: Any, seconds: float, *, here: bool) -> bool:
        with self._translated():
            try:
                return bool(self._ray.wait([reference], timeout=seconds, fetch_local=here)[0])
            except self._ray.exceptions.RayError as error:
                raise ActorGone(_why(error)) from error

    def get(self, reference: Any, seconds: float) -> Any:
        """What an actor answers. Raises what it raised, where that is an error of ours, and ActorGone for all else that
        it or Ray raises, where it died, and, as ActorLate, where that takes longer than so many seconds."""
        with self._translated():
            try:
                return self._ray.get(reference, timeout=seconds)
            except self._ray.exceptions.GetTimeoutError as error:
                raise ActorLate(f"it has not answered within {seconds:g} s") from error
            except self._ray.exceptions.RayError as error:
                if isinstance(cause := _cause(error), FlserverError):
                    raise cause from error
                raise ActorGone(_why(error)) from error

    def get_all(self, references: Sequence[Any], seconds: float) -> list[Any]:
        """What several answer, as ``get``."""
        return list(self.get(list(references), seconds))


def load_ray() -> Any:
    """Ray, with tokens and without telemetry. Raises UsageError."""
    require_tokens()
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module("ray")
    except ImportError as error:
        raise NotInstalled("--ray-address needs Ray", "ray") from error


def _cause(error: BaseException) -> BaseException | None:
    """What an actor raised, where it did; it may be that of another one, whose answer it was given."""
    cause = getattr(error, "cause", None)
    return _cause(cause) or cause if isinstance(cause, BaseException) else None


def _why(error: BaseException) -> str:
    cause = _cause(error)
    return one_line(cause) if cause is not None else f"its process died ({type(error).__name__})"
