"""A database of two real runs in which much happens, and what the trainers did there, told without asking it.

``pilot`` has one round, with two clients that show certificates. ``night`` begins with its model and has five rounds
with four clients on a roster; everything below that is a constant is of this run. What happens there, round by round:

1. All four answer: 3 trains the longest, 4 uploads the longest, 2's first upload is cut off, and 1 sends its answer
   twice. Strangers have knocked, and been refused, before.
2. A pickle that would call ``os.system`` and an upload for 1 from elsewhere are refused. 2 sends a NaN.
3. 3 leaves, 4's update is far from all others, and the accuracy falls. Then 3 comes back.
4. The server is killed when 1 alone has answered. It is resumed, with other settings and by somebody else; 3 stays
   away, 1 and 2 answer, and 4 is silent.
5. 4's answer to round 4 comes, late; 1 and 2 answer. Of the strangers who knock now there are only sums.

It needs a server process; the fixture ``eventful`` makes it once for all workers.
"""

import json
import math
import os
import pickle
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import blake3
import pytest
import torch
from torch import nn

from flserver.heads.keys import PrivateKey
from tests.certificates import Authority
from tests.e2e.harness import Peer, PeerAt, ServerProcess, closed, field_module, receive, send
from tests.e2e.tls_peers import TlsPeer, served, trusting
from tests.made_once import made_once

SIZES = {"1": 100, "2": 200, "3": 300, "4": 400}
LABELS = {"1": "Lund", "2": "Umeå", "3": "Oslo", "4": "Turku"}
HOSTS = {client: f"127.0.0.1{client}" for client in SIZES}
LOOK_ALIKE = "１"  # the digit one at full width
IMPOSTOR, SCANNER, LATER = "127.0.0.66", "127.0.0.77", "127.0.9.9"  # strangers' addresses
NETWORK = "127.0.9.0/24"  # of the last one
ACCURACY, LOSS = (0.1, 0.6, 0.7, 0.4, 0.75, 0.8), (2.5, 1.5, 1.0, 1.25, 0.75, 0.5)  # by the round
PILOT_ACCURACY, PILOT_LOSS = (0.1, 0.3), (2.5, 2.0)
STEP, FAR = 0.0625, 2.0  # what a client adds to every parameter
OPERATORS = {1: ("alice", "the nightly run"), 2: ("bob", "the machine went down")}
BEFORE: dict[str, Any] = {"min_clients": 4, "time_to_wait": 3600.0, "go_on_at": None, "strangers_per_minute": 120}
AFTER: dict[str, Any] = {"min_clients": 3, "time_to_wait": 0.25, "go_on_at": "2", "strangers_per_minute": 0}
SCORES = f"""
def night(model, round):
    parameters = sum(p.numel() for p in model.parameters())
    return {{"accuracy": {ACCURACY}[round], "loss": {LOSS}[round], "parameters": parameters}}

def pilot(model, round):
    return {{"accuracy": {PILOT_ACCURACY}[round], "loss": {PILOT_LOSS}[round]}}
"""


@dataclass(frozen=True, kw_only=True)
class Upload:
    """A whole upload of a registered client: which attempt's model it answers, and what has to be decided of it.

    ``digest`` is of its tensors, ``message`` of its bytes, ``norm`` its L2 distance from the model that was sent, NaN
    where that is no number.
    """

    run: str
    client: str
    round: int
    attempt: int
    decision: str
    digest: str
    message: str
    bytes: int
    norm: float
    between: tuple[str, str]  # when it was sent, as the views write times


@dataclass(kw_only=True)
class Facts:
    """What the trainers did. ``bytes_of_models`` is the size of a model sent."""

    folder: str
    uploads: list[Upload] = field(default_factory=list)
    bytes_of_models: int = 0
    cut_off_at: int = 0  # bytes of 2's first upload that came
    scanned: int = 0  # connections without a row of their own

    @property
    def db(self) -> Path:
        return Path(self.folder) / "runs.sqlite"

    def of(self, run: str = "night", **having: Any) -> list[Upload]:
        """The run's uploads that have these values, in the order in which they were sent."""
        return [u for u in self.uploads if u.run == run and all(getattr(u, k) == v for k, v in having.items())]


def now(later: timedelta = timedelta(0)) -> str:
    """The time as the views write it."""
    return (datetime.now(UTC) + later).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def digest_of(state: dict[str, torch.Tensor]) -> str:
    """``update_digest`` by its description: BLAKE3 over each tensor, in ascending order of names, a head with its
    length before it, then the values."""
    hasher = blake3.blake3()
    for name in sorted(state):
        tensor = state[name]
        head = f"{name}\0{str(tensor.dtype)[6:]}\0{'x'.join(map(str, tensor.shape))}\0".encode()
        hasher.update(len(head).to_bytes(8, "little") + head + tensor.numpy().tobytes())
    return "blake3:" + hasher.hexdigest()


class Script:
    """The trainers of one run, who do one thing after the other and write down what."""

    def __init__(self, facts: Facts, run: str) -> None:
        self.facts, self.run = facts, run

    def train(self, peer: Peer, step: float = STEP) -> "Trained":
        """Take the next model, and add ``step`` to every parameter."""
        body = receive(peer.connection)
        self.facts.bytes_of_models = 8 + len(body)
        with field_module():
            model = pickle.loads(body)["model"]
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(step)
        return Trained(self, peer, model, step)

    def answer(self, peer: Peer, round: int, attempt: int = 1, decision: str = "accepted", step: float = STEP) -> None:
        self.train(peer, step).send(round, attempt, decision)


class Trained:
    """An update that is not sent yet."""

    def __init__(self, script: Script, peer: Peer, model: nn.Module, step: float) -> None:
        self.script, self.peer, self.model = script, peer, model
        self.norm = step * math.sqrt(sum(p.numel() for p in model.parameters()))
        self.body = peer.body(model, metrics={"loss": {"received": 1.5, "trained": 1.0}})

    def send(self, round: int, attempt: int, decision: str) -> None:
        """Upload all of it, and wait until it is on record."""
        with self.sending(round, attempt, decision):
            pass

    @contextmanager
    def sending(self, round: int, attempt: int, decision: str) -> Iterator[None]:
        """The same, with the block between its first half and its second."""
        data, began = len(self.body).to_bytes(8, "big") + self.body, now()
        with self.peer.connect() as upload:
            upload.sendall(data[: len(data) // 2])
            yield
            upload.sendall(data[len(data) // 2 :])
            self.peer.end_of_upload(upload)
            assert upload.recv(1) == b""
        self.script.facts.uploads.append(
            Upload(
                run=self.script.run,
                client=str(self.peer.client_id),
                round=round,
                attempt=attempt,
                decision=decision,
                digest=digest_of(self.model.state_dict()),
                message="blake3:" + blake3.blake3(self.body).hexdigest(),
                bytes=len(data),
                norm=self.norm,
                between=(began, now()),
            )
        )

    def cut_off(self, bytes: int) -> None:
        """Upload so many bytes of it, and hang up."""
        with self.peer.connect() as upload:
            upload.sendall((len(self.body).to_bytes(8, "big") + self.body)[:bytes])


class Evil:
    """What unpickling would call."""

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return os.system, ("true",)


def write_eventful_run(folder: Path) -> Facts:
    """Make the database in ``folder``, with all that the servers were started with."""
    (folder / "scores.py").write_text(SCORES)
    (folder / "clients.csv").write_text("id,label\n" + "".join(f"{c},{label}\n" for c, label in LABELS.items()))
    PrivateKey.generate("log.example/eventful").write(folder / "key")
    facts = Facts(folder=str(folder))
    with ExitStack() as stack:
        _pilot(Script(facts, "pilot"), folder, stack)
        script = Script(facts, "night")
        with ServerProcess(folder, *_options(), *_told(1)) as server:
            peers = _first_three_rounds(script, server, stack)
            script.answer(peers["1"], 4, decision="aborted")
            server.wait_for_sql("SELECT 1 FROM v1_updates WHERE answers_round = 4 AND client_id = '1'")
            server.kill()
        with ServerProcess(folder, "--resume", "--metrics-port", "0", *_settings(AFTER), *_told(2)) as server:
            _last_two_rounds(script, server, stack)
            assert server.exit_code() == 0, server.log
    return facts


def _options() -> list[str]:
    options = ["--run-name", "night", "--num-rounds", "5", "--evaluate", "scores:night", "--clients", "clients.csv"]
    options += ["--metrics-port", "0", "--sign-key", "key", "--rejoin-timeout", "3600", "--initial-weights", "pilot"]
    return [*options, *_settings(BEFORE)]


def _settings(values: dict[str, Any]) -> list[str]:
    given = {f"--{key.replace('_', '-')}": str(value) for key, value in values.items() if value is not None}
    return [text for option in given.items() for text in option]


def _told(process: int) -> tuple[str, ...]:
    actor, reason = OPERATORS[process]
    return "--actor", actor, "--reason", reason


def _pilot(script: Script, folder: Path, stack: ExitStack) -> None:
    authority = Authority(folder / "ca")
    options = ("--run-name", "pilot", "--num-rounds", "1", "--min-clients", "2", "--evaluate", "scores:pilot")
    options += ("--time-to-wait", "0.25", *served(authority, mutual=True), *_told(1))
    with ServerProcess(folder, *options) as server:
        server.wait_for_line("state: joining")
        peers = [TlsPeer(server, int(c), trusting(authority, authority.client(c)), SIZES[c]) for c in ("1", "2")]
        for peer in peers:
            stack.enter_context(peer).join()
        for peer in peers:
            script.answer(peer, 1)
        for peer in peers:
            peer.finished()
        assert server.exit_code() == 0, server.log


def _join(server: ServerProcess, stack: ExitStack, *clients: str) -> dict[str, Peer]:
    peers = {}
    for client in clients:
        peer = peers[client] = stack.enter_context(PeerAt(server, int(client), HOSTS[client]))
        peer.data_size = SIZES[client]
        assert peer.register(info={"site": LABELS[client]})["header"] == "<SUCCESS>"
    return peers


def _first_three_rounds(script: Script, server: ServerProcess, stack: ExitStack) -> dict[str, Peer]:
    server.wait_for_line("state: joining")
    _knock(server)
    peers = _join(server, stack, *SIZES)
    # Whose first bytes come first and last, and in between, does not hang on how fast the machine is.
    trained = {client: script.train(peer) for client, peer in peers.items()}
    sent = server.wait_for_sql(
        "SELECT (julianday(MAX(at)) - julianday(MIN(at))) * 86400 FROM v1_messages WHERE header = '<MODEL>'"
        " AND round = 1 AND direction = 'out' AND run_id = (SELECT run_id FROM v1_runs WHERE name = 'night')"
        " HAVING COUNT(*) = 4"
    )
    with trained["4"].sending(1, 1, "accepted"):
        trained["1"].send(1, 1, "accepted")
        trained["1"].send(1, 1, "duplicate")
        script.facts.cut_off_at = len(trained["2"].body) // 3
        trained["2"].cut_off(script.facts.cut_off_at)
        server.wait_for_sql("SELECT 1 FROM v1_messages WHERE outcome = 'failed'")
        trained["2"].send(1, 1, "accepted")
        threading.Event().wait(sent[0][0] + 0.25)
        trained["3"].send(1, 1, "accepted")

    with PeerAt(server, 2, HOSTS["2"]) as evil:
        send(evil.connection, pickle.dumps(Evil()))
        assert closed(evil.connection)
    script.answer(peers["2"], 2, decision="rejected", step=math.nan)
    update = script.train(peers["1"])
    with PeerAt(server, 1, IMPOSTOR) as impostor:
        impostor.upload(update.model)
    update.send(2, 1, "accepted")
    for client in ("3", "4"):
        script.answer(peers[client], 2)

    peers["3"].model()
    peers["3"].connection.close()
    server.wait_for_line("client 3 left: closed")
    with PeerAt(server, 5, IMPOSTOR) as newcomer:
        assert newcomer.register()["header"] == "<ERROR>"
    for client in ("1", "2"):
        script.answer(peers[client], 3)
    peers |= _join(server, stack, "3")
    script.answer(peers["4"], 3, step=FAR)
    return peers


def _knock(server: ServerProcess) -> None:
    """Strangers: a port scan in two connections, and a client that looks like another."""
    with PeerAt(server, 0, SCANNER) as scan:
        scan.connection.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert closed(scan.connection)
    with PeerAt(server, 0, SCANNER):
        pass
    with PeerAt(server, LOOK_ALIKE, IMPOSTOR) as alike:
        assert alike.register()["header"] == "<ERROR>"


def _last_two_rounds(script: Script, server: ServerProcess, stack: ExitStack) -> None:
    server.wait_for_line("state: joining")
    for _ in range(3):
        with PeerAt(server, 0, LATER) as scan:
            scan.connection.sendall(b"GET / HTTP/1.1\r\n\r\n")
            assert closed(scan.connection)
            script.facts.scanned += 1
    peers = _join(server, stack, "1", "2", "4")
    silent = script.train(peers["4"])
    for client in ("1", "2"):
        script.answer(peers[client], 4, 2)
    trained = [script.train(peers[client]) for client in ("1", "2")]
    silent.send(4, 2, "late")
    for update in trained:
        update.send(5, 1, "accepted")
    for peer in peers.values():
        peer.finished()


@pytest.fixture(scope="session")
def eventful(tmp_path_factory: pytest.TempPathFactory) -> Facts:
    """The run, made once, by whichever worker comes first. Nobody writes in its folder."""

    def make(folder: Path) -> None:
        (folder / "facts.json").write_text(json.dumps(asdict(write_eventful_run(folder))))

    facts = json.loads((made_once(tmp_path_factory, "eventful", make) / "facts.json").read_text())
    return Facts(**facts | {"uploads": [Upload(**upload) for upload in facts["uploads"]]})
