"""A committed round computed again: from the model before it and the updates that were kept of it.

A record may be a stranger's, so nothing that it names is imported: a strategy or a model that is nobody's of ours runs
only where the operator has named it too.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from flserver.aggregation import FedAvg, Strategy
from flserver.aggregation.checks import state_digest
from flserver.errors import CheckpointError, StrategyError, UsageError, one_line
from flserver.models.architectures import DEFAULT_MODEL, build
from flserver.models.checkpoint_format import read, serialize
from flserver.models.digests import located, sha256_of
from flserver.models.kept import Missing, read_kept
from flserver.models.state import State, check_same_layout
from flserver.models.stored import is_there
from flserver.settings import STRATEGIES
from flserver.settings.folders import Folder
from flserver.settings.places import Place
from flserver.settings.recorded import checkpoints_of
from flserver.store.reader import Reader, Row
from flserver.text import printable


class Unavailable(UsageError):
    """What a round would be computed from is not here."""


class Changed(CheckpointError):
    """What a round would be computed from is not what the record says."""


@dataclass(frozen=True)
class Computed:
    """What a strategy made of a round that began with ``base``. ``digest`` is what the checkpoint of it would have."""

    base: State
    state: State
    digest: str


class RecordedRun:
    """A run on record, as far as its rounds can be computed again. ``ref`` is as in ``Reader.run``; ``model`` is what
    the operator says its model is, which is needed where that is nobody's of ours."""

    def __init__(
        self, reader: Reader, ref: str | None, checkpoint_dir: Folder | None, db: Place, model: str | None
    ) -> None:
        """Raises UsageError."""
        self.row = reader.run(ref)
        self.name = printable(self.row["name"])
        self.committed = {row["round"]: row for row in reader.committed_rounds(self.row["run_id"])}
        self.kept = sorted(reader.kept_rounds(self.row["run_id"]) & self.committed.keys())
        self._reader = reader
        self._folder = checkpoints_of(self.row, checkpoint_dir, db)
        self._model = model
        self._order: Sequence[str] | None = None

    def strategy(self, named: str | None) -> str:
        """The name of the strategy that made its rounds. Raises UsageError where it is nobody's of ours, and the
        operator has not ``named`` it too."""
        recorded = str(self.row["strategy"])
        return recorded if recorded in STRATEGIES else _said("strategy", recorded, named)

    def module_name(self) -> str:
        """The name of its model. Raises UsageError as ``strategy`` does."""
        recorded = str(self.row["model"])
        ours = recorded == DEFAULT_MODEL or recorded.startswith("torchvision:")
        return recorded if ours else _said("model", recorded, self._model)

    def updates(self, number: int) -> list[Row]:
        """The rows of v1_updates that a round was made of, in ascending order of the ids. Raises Unavailable."""
        found = self._reader.accepted(self.row["run_id"], number)
        if not found or any(row["kept"] is None for row in found):
            raise Unavailable("its updates are not kept")
        return sorted(found, key=lambda row: str(row["client_id"]))

    def checkpoint(self, number: int) -> tuple[State, State]:
        """The model and the strategy's own tensors of a committed round. Raises Unavailable or Changed."""
        row = self.committed.get(number)
        if row is None:
            raise Unavailable(f"round {number} is not on record")
        if row["checkpoint_deleted_at"] is not None:
            raise Unavailable(f"the checkpoint of round {number} was pruned")
        try:
            place = located(self._folder, row["checkpoint"])
            if not is_there(place):
                raise Unavailable(f"the checkpoint of round {number} is not there: {place}")
            return read(place, row["model_digest"])
        except CheckpointError as error:
            raise Changed(str(error)) from error

    def compute(self, number: int, strategy: Strategy, *, as_then: bool = True) -> Computed:
        """What ``strategy`` makes of the updates of a round; where it is the run's own, it begins ``as_then``, with the
        tensors that it kept of the round before. Raises Unavailable, Changed or StrategyError."""
        model, own = self.checkpoint(number - 1)
        base = self._in_order(model, strategy)
        updates = self.updates(number)
        with strategy_errors():
            strategy.may_hold = True
            if as_then:
                strategy.load_state(own)
            strategy.begin(base)
        for row in updates:
            update = self.update(row, base)
            with strategy_errors():
                strategy.add(update, row["counted_size"])
        return finish(strategy, base)

    def update(self, row: Row, base: State) -> State:
        """The tensors of an accepted update, a row of v1_updates, of which the round began with ``base``. Raises
        Unavailable or Changed, which name the client."""
        whose = f"the update of client {printable(str(row['client_id']))}"
        try:
            tensors = read_kept(self._folder, row["kept"], state_digest)
            check_same_layout(base, tensors, "it")
        except Missing as error:
            raise Unavailable(f"{whose}: {error}") from error
        except (CheckpointError, UsageError) as error:
            raise Changed(f"{whose}: {error}") from error
        return {name: tensors[name] for name in base}

    def _in_order(self, state: State, strategy: Strategy) -> State:
        """A checkpoint has its tensors in an order of its own, which means nothing to ours; another strategy is given
        them in the model's, as it was then."""
        if type(strategy) is FedAvg:
            return state
        if self._order is None:
            self._order = list(build(self.module_name(), 0).state_dict())
        if set(self._order) != set(state):
            raise Unavailable("the model that is built has other tensors than the checkpoint")
        return {name: state[name] for name in self._order}


def finish(strategy: Strategy, base: State) -> Computed:
    """What the strategy makes of what it was given. Raises StrategyError."""
    with strategy_errors():
        made = strategy.finish()
        check_same_layout(base, made, "the strategy's new model")
        state = {name: made[name] for name in base}
        return Computed(base, state, sha256_of(serialize(state, strategy.state())))


@contextmanager
def strategy_errors() -> Iterator[None]:
    """Whatever a strategy raises is a StrategyError."""
    try:
        yield
    except Exception as error:
        raise StrategyError(f"the strategy failed: {one_line(error)}") from error


def _said(what: str, recorded: str, named: str | None) -> str:
    if recorded == named:
        return recorded
    shown = printable(recorded)
    raise UsageError(f"the run's {what}, {shown}, is somebody's own code: --{what} {shown} lets it run here")
