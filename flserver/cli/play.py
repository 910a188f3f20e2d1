"""What ``flserver simulate`` does once it is clear what is to be played: a server, a fleet's parts, and their end."""

import contextlib
import os
import secrets
import socket
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flserver.cli.simulated import Final, follow, note, tell
from flserver.errors import EXIT_DONE, EXIT_FAILED, EXIT_USAGE, UsageError
from flserver.settings import hosts
from flserver.settings.places import Place
from flserver.simulation import fleet, outcome, parts, script
from flserver.store.reader import Reader

if TYPE_CHECKING:
    from flserver.cluster.ray import Cluster
    from flserver.simulation.server import Server

MOST_PROCESSES = 256
OWN: hosts.Address = (socket.AF_INET, ("127.0.0.1", 0))


def play(
    stack: contextlib.ExitStack,
    given: dict[str, Any],
    members: Sequence[script.Member],
    there: hosts.Address | None,
    db: Place | None,
    as_json: bool,
) -> int:
    """Play what is ``given`` as options against the server that is ``there``, or one of its own, and return the exit
    code. What is started ends with the ``stack``."""
    number, of = given["part"] or (1, 1)
    mine = script.part_of(members, number, of)
    if not mine:
        raise UsageError(f"--part {number}/{of}: the script has {len(members)} trainers")
    tls = _tls(given, mine)
    cluster = _cluster(stack, given["ray_address"], there)
    processors = os.cpu_count() if cluster is None else cluster.processors
    processes = min(given["processes"] or processors or 1, len(mine), MOST_PROCESSES)
    server = None
    if there is None:
        server, db = _server(stack, given, mine, db, None if cluster else processes, as_json)
        there = OWN[0], ("127.0.0.1", server.port)
    else:
        fleet.check_descriptors(len(mine), None if cluster else processes, 0)
    training = None
    if given["train"]:
        places = {member.id: place for place, member in enumerate(members)}
        training = {key: given[key] for key in ("model", "data", "data_dir", "seed")} | {
            "places": {member.id: places[member.id] for member in mine},
            "of": len(members),
        }
    split = parts.split(mine, processes, there, training, tls, ports=fleet.local_ports())
    host = given["host"] if server is None else "127.0.0.1"
    note(
        as_json,
        f"{len(mine):,} trainers in {len(split)} process{'es' * (len(split) > 1)}"
        f"{'' if cluster is None else ' of the cluster'}, at {hosts.with_port(host, there[1][1])}",
    )
    players = fleet.Fleet(_players(cluster, split, as_json))
    stack.callback(players.close)
    found = follow(players, as_json)
    ended = EXIT_DONE if server is None else server.end()
    if ended != EXIT_DONE:
        assert server is not None
        click.echo(f"flserver simulate: the server ended with exit code {ended}:\n{server.log}", err=True)
        if ended == EXIT_USAGE:  # it was not started so, and there is nothing to be compared
            return ended
    recorded = None if db is None else outcome.read(Reader(db), found.run, {one.id for one in mine})
    compared = outcome.Comparison(scripted=script.expected(mine, len(found.rounds)), done=found.done, recorded=recorded)
    final = _final(Reader(db), found.run) if db is not None and found.run else None
    return tell(found, compared, final, as_json) or (EXIT_FAILED if ended else EXIT_DONE)


def _tls(given: dict[str, Any], mine: Sequence[script.Member]) -> dict[str, Any] | None:
    """How trainers speak TLS, where they do. Raises UsageError."""
    told = {name: given[f"tls_{name}"] for name in ("ca", "cert", "key")}
    if told["ca"] is None:
        return None
    from flserver.simulation.tls import Tls

    told = {name: path and os.path.abspath(path) for name, path in told.items()} | {"host": hosts.bare(given["host"])}
    Tls(told).context(mine[0].id)  # what is wrong with files is said before anything starts
    return told


def _cluster(stack: contextlib.ExitStack, address: str | None, there: hosts.Address | None) -> "Cluster | None":
    """The cluster that the trainers are on, where that is said."""
    if address is None:
        return None
    from flserver.cluster.ray import Cluster
    from flserver.simulation.on_ray import check_reachable

    cluster = Cluster(address, f"fleet-{secrets.token_hex(8)}")
    stack.callback(cluster.leave)
    check_reachable(cluster, there or OWN, "the server" if there else "a server of its own")
    return cluster


def _server(
    stack: contextlib.ExitStack,
    given: dict[str, Any],
    mine: Sequence[script.Member],
    db: Place | None,
    processes: int | None,
    as_json: bool,
) -> "tuple[Server, Place]":
    """A server of its own, and where its record is."""
    from flserver.simulation.server import Server, processes_that_serve, server_options

    more = [*(["--eval-data", given["data"]] if given["data"] else []), *given["server_options"]]
    more += ["--data-dir", given["data_dir"]] if given["data"] and given["data_dir"] else []
    fleet.check_descriptors(len(mine), processes, processes_that_serve(more))
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="flserver-simulate-")))
    if db is None:
        db = folder / "runs.sqlite"
        note(as_json, f"the record is in {folder}, and goes with the simulation; --db keeps one")
    server = Server(server_options(db, given["model"], given["rounds"], given["seed"], mine, more))
    stack.callback(server.close)
    return server, db


def _players(cluster: "Cluster | None", split: Sequence[parts.Part], as_json: bool) -> Sequence[parts.Player]:
    if cluster is None:
        from flserver.simulation.processes import ProcessPart

        return [ProcessPart(part) for part in split]
    from flserver.simulation.on_ray import players

    return players(cluster, split, lambda text: note(as_json, text))


FINAL = """
    SELECT final_digest, loss, accuracy FROM v1_runs
    LEFT JOIN v1_rounds AS r ON r.run_id = v1_runs.run_id AND model_digest = final_digest AND r.status = 'committed'
    WHERE v1_runs.run_id = :run_id AND final_digest IS NOT NULL ORDER BY round DESC LIMIT 1"""


def _final(record: Any, run_id: str) -> Final | None:
    _, rows = record.query(FINAL, {"run_id": run_id})
    return Final(*rows[0]) if rows else None
