"""The parts that a round's time goes into, each held against the ordinary way to do the same."""

import pickle
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import torch

from flserver import events
from flserver.aggregation.strategies.fedavg import FedAvg
from flserver.models.architectures import wire_module
from flserver.models.state import state_of, write_state
from flserver.store.schema import ensure_head
from flserver.store.writer import Writer
from flserver.wire.messages import decode
from flserver.wire.pickles import PickleLimits
from flserver.wire.template import Template
from tests.bench.line import line
from tests.bench.models import FACTORIES
from tests.bench.record import record
from tests.bench.upload import CLIENTS as UPLOADS
from tests.bench.upload import an_upload
from tests.bench.verify import verified

REPEATS = 11
SESSIONS = 8  # threads that record and wait for it, as sessions do
EVENTS = 50  # events of each


def micro(size: str, directory: Path) -> dict[str, object]:
    """Ratios for a model of ``size`` MB: ours / the ordinary way, so that less is better; and an ``upload`` of 0.03 MB,
    part by part, in microseconds (``tests.bench.upload``).

    ``parse_ratio``: an update read by the pickle machine / by ``pickle.loads``. ``write_ratio``: a model written into a
    template / by ``pickle.dumps``. ``add_ratio``: one update into FedAvg's exact sum / one float32 multiply-add pass.
    ``every_exponent_ratio``: one with every exponent in every tensor, as a hostile client has it, / a usual one, into
    the sum. ``mean_ratio``: the mean, rounded / one float32 multiply-add pass; with ties, which are the most work.
    ``events_per_commit``: events that share a transaction while eight sessions each wait for their own. The rest is
    of small rounds' events (``record``): the writer's processor time an event, bytes of database an update, and the
    processor time an event that ``flserver verify`` takes (``verify``); and what node and desk say of a small upload
    (``line``).
    """
    torch.set_num_threads(1)
    module = wire_module(FACTORIES[size]())
    state = state_of(module)
    template = Template.of({"header": "<MODEL>", "model": module})
    update = pickle.dumps({"header": "<MODEL>", "id": 1, "model": module})
    limits = PickleLimits()
    strategy = FedAvg()
    strategy.begin(state)
    flat = torch.cat([tensor.reshape(-1) for tensor in state.values()])
    total = torch.zeros_like(flat)
    recorded = record(50, 10, directory)
    hostile = {name: _every_exponent(tensor) for name, tensor in state.items()}
    honest = FedAvg()
    honest.begin(state)
    for given in (state, {name: tensor.flip(0) if tensor.dim() else tensor for name, tensor in state.items()}):
        honest.add(given, 1)
    return {
        "micro": True,
        "mb": float(size),
        "parse_ratio": _ratio(
            lambda: decode(memoryview(update), from_client=True, pickles=limits), lambda: pickle.loads(update)
        ),
        "write_ratio": _ratio(
            lambda: write_state(template.module, state), lambda: pickle.dumps({"header": "<MODEL>", "model": module})
        ),
        "add_ratio": _ratio(lambda: strategy.add(state, 1), lambda: total.add_(flat, alpha=0.125)),
        "every_exponent_ratio": _ratio(lambda: strategy.add(hostile, 1), lambda: strategy.add(state, 1)),
        "mean_ratio": _ratio(honest.finish, lambda: total.add_(flat, alpha=0.125)),
        "events_per_commit": _events_per_commit(directory),
        **{name: recorded[name] for name in ("writer_us_an_event", "database_bytes_an_update")},
        "verify_us_an_event": verified(20_000, directory)["verify_us_an_event"],
        "upload": an_upload(UPLOADS, 5, directory),
        "line": line(),
    }


def _every_exponent(tensor: torch.Tensor) -> torch.Tensor:
    """Finite numbers of any exponent, as many as ``tensor`` has, which is of float32."""
    if tensor.dtype != torch.float32:
        return tensor
    words = torch.randint(-(2**31), 2**31, tensor.shape, generator=torch.Generator().manual_seed(1)).to(torch.int32)
    return words.view(torch.float32).nan_to_num(0.0, 0.0, 0.0)


def _ratio(ours: Callable[[], object], ordinary: Callable[[], object]) -> float:
    """The median of the ratios of calls in turn, after one call of each."""
    ours(), ordinary()
    ratios = []
    for _ in range(REPEATS):
        one = _seconds(ours)
        ratios.append(one / _seconds(ordinary))
    return round(statistics.median(ratios), 3)


def _seconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def _events_per_commit(directory: Path) -> float:
    commits: list[float] = []
    failures: list[BaseException] = []
    with tempfile.TemporaryDirectory(dir=directory, prefix="bench-") as folder:
        db = Path(folder) / "bench.sqlite"
        ensure_head(db)
        writer = Writer(db, run_id="bench", process_id=1)
        writer.start(on_committed=lambda _: None, on_commit_seconds=commits.append, on_failure=failures.append)

        def session() -> None:
            for _ in range(EVENTS):
                writer.emit(events.StateChanged(state="running", detail=None))
                writer.flush()

        threads = [threading.Thread(target=session) for _ in range(SESSIONS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        writer.close()
    if failures:
        raise failures[0]
    return round(SESSIONS * EVENTS / len(commits), 2)
