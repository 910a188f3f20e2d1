"""A part of a simulated fleet as an actor of a Ray cluster, on whichever of its machines: what runs there."""

import json
import os
import queue
import threading
from collections.abc import Mapping
from typing import Any, Final

from flserver.simulation.crowd import allow_descriptors, crowd_of
from flserver.simulation.parts import Line
from flserver.sources import digest_of_package

RAYS_DESCRIPTORS: Final = 512  # that Ray's own connections and files take


class RayPart:
    """What Ray makes of a part: its trainers play in a thread of their own. The methods are called on other ones."""

    def __init__(self) -> None:
        self._said: queue.SimpleQueue[Line | BaseException | None] = queue.SimpleQueue()

    def where(self) -> dict[str, Any]:
        """The machine, as Ray knows it and by its address there; the process, what it may do, and its sources."""
        import ray

        return {
            "machine": ray.get_runtime_context().get_node_id(),
            "host": ray.util.get_node_ip_address(),
            "pid": os.getpid(),
            "tokens": os.environ.get("RAY_AUTH_MODE") == "token",
            "descriptors": allow_descriptors() - RAYS_DESCRIPTORS,
            "code": digest_of_package(),
        }

    def begin(self, part: str) -> None:
        """Begin to play what ``simulation.parts.Part.to_line`` says."""
        # Ray ends this process without asking: nobody joins a thread in it.
        threading.Thread(target=self._play, args=(json.loads(part),), name="crowd", daemon=True).start()

    def _play(self, part: Mapping[str, Any]) -> None:
        try:
            crowd_of(part, self._said.put, spare=RAYS_DESCRIPTORS).play()
        except BaseException as error:
            self._said.put(error)
        else:
            self._said.put(None)

    def take(self, seconds: float) -> tuple[list[Line], bool]:
        """What it says, for which it may take so long, and whether nothing follows. Raises what ended it."""
        lines: list[Line] = []
        try:
            said = self._said.get(timeout=seconds)
            while said is not None:
                if isinstance(said, BaseException):
                    if not lines:
                        raise said
                    self._said.put(said)  # for the next time: nothing follows it
                    break
                lines.append(said)
                said = self._said.get_nowait()
        except queue.Empty:
            return lines, False
        return lines, said is None
