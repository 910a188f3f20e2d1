"""A Ray cluster that this machine belongs to: joined with a token or not at all, and asked for the actors of one run.

Nothing of Ray is imported before ``Cluster`` joins one. What it gives are Ray's own references and handles.
"""

import importlib
import logging
import os
import threading
import warnings
from collections.abc import Sequence
from typing import Any

from flserver.errors import FlserverError, NotInstalled, UsageError, one_line

NODE_CPUS = 0.5  # that a node takes of its machine's, as Ray counts: so one of a few cores has room for other work too
CALLS = 16  # of a node's methods at once: the line each way, sums, and questions of how it is
MOST_OF_RAYS = 200  # characters of what Ray says, which may be paragraphs
TOKEN_MODE = "RAY_AUTH_MODE"

logger = logging.getLogger(__name__)


def require_tokens() -> None:
    """Have Ray ask for tokens, in this process and its children. Raises UsageError where it is told not to."""
    if os.environ.setdefault(TOKEN_MODE, "token") != "token":  # Ray reads it as it is imported
        raise UsageError(
            f"{TOKEN_MODE}={os.environ[TOKEN_MODE]}: who reaches the ports of a Ray cluster without tokens runs "
            f"code on its machines; start it, and this server, with {TOKEN_MODE}=token"
        )


class ActorGone(FlserverError):
    """An actor has died, does not answer in time, or failed; ``str`` says which."""


class Cluster:
    """The cluster at ``address``, as the run ``run_id`` sees it: only its own actors. Raises UsageError."""

    def __init__(self, address: str, run_id: str) -> None:
        require_tokens()
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self._ray: Any = importlib.import_module("ray")
        except ImportError as error:
            raise NotInstalled("--ray-address needs Ray", "ray") from error
        self._address, self._namespace = address, f"flserver-{run_id}"
        self._join()

    def _join(self) -> None:
        # On another thread than the main one, where it would take SIGTERM for itself.
        failed: list[BaseException] = []
        thread = threading.Thread(target=self._connect, args=(failed,), name="ray-joins")
        thread.start()
        thread.join()
        if failed:
            said = one_line(failed[0])[:MOST_OF_RAYS]
            raise UsageError(
                f"--ray-address {self._address}: this machine has to belong to the cluster (ray start), and the token "
                f"to be the cluster's (RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH); Ray says: {said}"
            ) from failed[0]

    def _connect(self, failed: list[BaseException]) -> None:
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

    def leave(self) -> None:
        """Nothing of the cluster is used from here on."""
        self._ray.shutdown()

    @property
    def machine(self) -> str:
        """This machine, as Ray knows it."""
        return str(self._ray.get_runtime_context().get_node_id())

    # --- actors ------------------------------------------------------------------------------------------------------

    def names(self) -> list[str]:
        """The run's actors that there are, of whichever process; none where the cluster does not answer."""
        try:
            return list(self._ray.util.list_named_actors())
        except Exception as error:
            logger.warning("--ray-address %s does not answer: %s", self._address, one_line(error))
            return []

    def find(self, name: str) -> Any | None:
        """The run's actor of that name, if there is one."""
        try:
            return self._ray.get_actor(name)
        except ValueError:
            return None

    def make(self, kind: type, name: str) -> Any:
        """A new actor on a machine that has few; it outlives this process."""
        options = {"name": name, "lifetime": "detached", "num_cpus": NODE_CPUS, "max_concurrency": CALLS}
        return self._ray.remote(kind).options(scheduling_strategy="SPREAD", max_restarts=0, **options).remote()

    def kill(self, actor: Any) -> None:
        """End an actor's process at once."""
        try:
            self._ray.kill(actor)
        except Exception as error:
            logger.debug("an actor could not be killed: %s", one_line(error))

    # --- what they are asked -----------------------------------------------------------------------------------------

    def put(self, value: object) -> Any:
        """A reference to a value that any machine reads without a copy of its own of large arrays."""
        return self._ray.put(value)

    def get(self, reference: Any, seconds: float) -> Any:
        """What an actor answers. Raises ActorGone, also where that takes longer than so many seconds."""
        try:
            return self._ray.get(reference, timeout=seconds)
        except self._ray.exceptions.GetTimeoutError as error:
            raise ActorGone(f"it has not answered within {seconds:g} s") from error
        except self._ray.exceptions.RayError as error:
            raise ActorGone(_why(error)) from error
        except FlserverError as error:  # raised in the actor: Ray's error is one of this kind too
            raise ActorGone(one_line(error)) from error

    def get_all(self, references: Sequence[Any], seconds: float) -> list[Any]:
        """What several answer, as ``get``."""
        return list(self.get(list(references), seconds))


def _why(error: BaseException) -> str:
    cause = getattr(error, "cause", None)
    return one_line(cause) if isinstance(cause, BaseException) else f"its process died ({type(error).__name__})"
