"""What an engine for several processes does with models, beside the lines: threads, processes, or machines."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from flserver.errors import FlserverError

if TYPE_CHECKING:
    from flserver.models.state import State


class NodeGone(FlserverError):
    """The node ``name`` went away while a new model was being made; ``str`` says how that showed."""

    def __init__(self, name: str, why: str) -> None:
        super().__init__(why)
        self.name = name


class Engine(Protocol):
    """Brings models to nodes, and has nodes make the new one (``ingest.making``). Below ``least`` bytes of a model its
    sums go over the lines. Its two ends are the threads' that call it: a model's, with the desk's lock."""

    least: int

    def carry(self, number: int, state: "State") -> None:
        """There is a new model, under that number: have its bytes at hand for all nodes. Does not wait for any."""

    def brings(self, number: int, name: str) -> bool:
        """Whether that node gets the bytes of that model so (``Node.model``); else they go over its line. Does not wait
        for it."""

    def finish(self, round: int, attempt: int, names: Sequence[str], turns: int) -> "State":
        """The new model, of all that these nodes have of the attempt: each makes a range of it in each of so many
        ``turns``. Raises NodeGone where one is gone, and what the strategy raises."""
