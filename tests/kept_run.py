"""A small run whose updates are kept, as a server leaves it, and a child of it: recorded by the real writer."""

from collections.abc import Mapping
from pathlib import Path

import torch

from flserver import events as e
from flserver.aggregation import FedAvg, State, Strategy
from flserver.aggregation.checks import state_digest
from flserver.models.checkpoint import CheckpointStore
from flserver.models.kept import KeptUpdates
from flserver.store.schema import ensure_head
from tests import facts
from tests.store import story

RUN, CHILD = "20260131T090000Z-aaaaaa", "20260201T090000Z-bbbbbb"
SIZES = {"1": 100, "10": 7, "2": 2**20 + 1}  # samples, in ascending order of the ids as text
CLIENTS = tuple(SIZES)


def tensors(round: int, client: str, like: State | None = None) -> State:
    """What a client sends in a round: numbers whose mean is not exact, and counters that differ."""
    made = torch.Generator().manual_seed(1000 * round + int(client))
    return {
        "w": torch.randn(3, 5, generator=made),
        "d": torch.randn(4, dtype=torch.float64, generator=made) * 1e9,
        "h": torch.randn(5, generator=made).to(torch.float16),
        "n": torch.randint(0, 9, (3,), generator=made),
        "flag": torch.randint(0, 2, (3,), generator=made).to(torch.bool),
    }


def mean(round: int, base: State, *clients: str, strategy: Strategy | None = None) -> State:
    """The round's model where these take part."""
    strategy = strategy or FedAvg()
    strategy.begin(base)
    for client in clients:
        strategy.add(tensors(round, client), SIZES[client])
    return strategy.finish()


def write_kept(path: Path, rounds: int = 3, strategy: str = "fedavg", made: Strategy | None = None) -> dict[int, State]:
    """``night`` (RUN) of so many rounds with three clients, the updates of round 1 deleted as --keep-updates-rounds
    does, and ``later`` (CHILD), which begins at its round 2 and has one round of client 10 alone. The first one's
    models by their rounds."""
    ensure_head(path)
    directory = path.with_name(path.name + ".checkpoints")
    checkpoints, kept = CheckpointStore(directory, RUN), KeptUpdates(directory, RUN)
    checkpoints.prepare()
    made = made or FedAvg()
    models: dict[int, State] = {0: {name: torch.zeros_like(t) for name, t in tensors(0, "0").items()}}
    events = [facts.run_started(RUN, "night", strategy=strategy), facts.server_started(1)]
    for number, client in enumerate(CLIENTS, 1):
        events += story.registered(client, number, data_size=SIZES[client])
    for round in range(rounds + 1):
        if round:
            models[round] = mean(round, models[round - 1], *CLIENTS, strategy=made)
        sizes = SIZES if round else {}
        events += _round(checkpoints, kept, made, round, models[round], sizes, 10 * round)
    kept.delete(1)
    events += [facts.kept_updates_deleted(1), facts.run_ended("completed", None, RUN), facts.server_stopped(0, 1)]
    story.write(path, events, run_id=RUN, process_id=1)
    _write_child(path, directory, models[2])
    return models


def _write_child(path: Path, directory: Path, begins: State) -> None:
    checkpoints, kept = CheckpointStore(directory, CHILD), KeptUpdates(directory, CHILD)
    checkpoints.prepare()
    made = FedAvg()
    events = [facts.run_started(CHILD, "later", parent_run_id=RUN, parent_round=2), facts.server_started(2)]
    events += story.registered("10", 1001, data_size=7)
    events += _round(checkpoints, kept, made, 0, begins, {}, 500, process_id=2)
    model = mean(1, begins, "10", strategy=made)
    events += _round(checkpoints, kept, made, 1, model, {"10": 7}, 510, process_id=2)
    events += [facts.run_ended("completed", None, CHILD), facts.server_stopped(0, 2)]
    story.write(path, events, run_id=CHILD, process_id=2)


def _round(
    checkpoints: CheckpointStore,
    kept: KeptUpdates,
    strategy: Strategy,
    round: int,
    model: State,
    sizes: Mapping[str, int],
    first: int,
    process_id: int = 1,
) -> list[e.Event]:
    """A round's events; its files are written. Ids of updates are from ``first`` on."""
    events: list[e.Event] = [facts.attempt(round, clients=tuple(sizes), process_id=process_id)]
    ids = {client: first + place for place, client in enumerate(sizes)}
    for client, update_id in ids.items():
        update = tensors(round, client)
        kept.keep(round, update_id, update, state_digest(update))
        events += story.uploaded(update_id, client, (round, 1), data_size=sizes[client] + 1, counted_size=sizes[client])
    places = kept.settle(round, ids.values()) if ids else {}
    file = checkpoints.write(round, model, strategy.state() if round else {})
    total = sum(sizes.values())
    outcomes = [facts.answered(client, update_id, sizes[client] / total) for client, update_id in ids.items()]
    written = {"model_digest": file.digest, "checkpoint": file.path, "checkpoint_bytes": file.size}
    written["data_size"] = total
    named = tuple(e.KeptUpdate(update_id=update_id, path=path) for update_id, path in places.items())
    return [*events, facts.committed(round, 1, outcomes, **written, arithmetic=strategy.arithmetic, kept=named)]
