"""The command that plays a fleet of trainers that are not there, and says what the record has of them."""

import contextlib
import ipaddress
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flserver.cli.common import answer, database, db_option, json_option
from flserver.cluster.ray import check_cluster
from flserver.errors import EXIT_DONE, EXIT_INTERRUPTED, FlserverError, UsageError
from flserver.settings import DATASETS, hosts
from flserver.settings.options import sources
from flserver.text import printable

if TYPE_CHECKING:
    from flserver.simulation.script import Member

SHARE = click.FloatRange(0, 1)
MADE_OF = ("trainers", "drop_out", "lag", "lag_seconds", "lie")
"""The options that a script is made of."""
MODEL = "neural_net_helper:NeuralNet"


class Interrupted(FlserverError):
    """Somebody has ended the simulation."""

    exit_code = EXIT_INTERRUPTED


class _Part(click.ParamType):  # type: ignore[type-arg]  # generic only in newer versions of click
    name = "part"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        if isinstance(value, tuple):
            return value
        number, _, parts = str(value).partition("/")
        if not (number.isdecimal() and parts.isdecimal() and 1 <= int(number) <= int(parts)):
            self.fail(f"{value} is not of the form 2/8", param, ctx)
        return int(number), int(parts)


@click.command("simulate")
@click.argument("server_options", nargs=-1, type=click.UNPROCESSED, metavar="[-- SERVER OPTIONS]")
@click.option(
    "--trainers", type=click.IntRange(1, 10**6), default=100, show_default=True, metavar="N", help="How many."
)
@click.option(
    "--rounds",
    type=click.IntRange(1),
    default=5,
    show_default=True,
    metavar="N",
    help="Rounds of the script, and of a server that is started for it.",
)
@click.option(
    "--seed",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    metavar="N",
    help="Of the script, of what updates change, and of the initial model.",
)
@click.option(
    "--drop-out",
    type=SHARE,
    default=0.0,
    show_default=True,
    metavar="SHARE",
    help="Of the trainers: they leave once, before their answer or in the middle of it, half of them to come back.",
)
@click.option(
    "--lag",
    type=SHARE,
    default=0.0,
    show_default=True,
    metavar="SHARE",
    help="Of the trainers: they let some time pass before each answer.",
)
@click.option(
    "--lag-seconds",
    type=click.FloatRange(0, 86400),
    default=1.0,
    show_default=True,
    metavar="SECONDS",
    help="The longest of these times.",
)
@click.option(
    "--lie",
    type=SHARE,
    default=0.0,
    show_default=True,
    metavar="SHARE",
    help="Of the trainers: they send NaN, a huge norm, a wrong shape, all twice, what is stale, or absurd samples.",
)
@click.option(
    "--script",
    type=click.Path(),
    metavar="FILE",
    help="What each trainer does, a line of JSON each: read where there is such a file, else written.",
)
@click.option("--no-play", is_flag=True, help="Write the script, and play nothing.")
@click.option(
    "--part",
    type=_Part(),
    metavar="K/N",
    help="Play this part of the script only, such as 2/8, against a server that is there.",
)
@click.option(
    "--model", default=MODEL, show_default=True, metavar="SPEC", help="Of a server of its own, as flserver's --model."
)
@click.option("--train", is_flag=True, help="Train, with --data. Left out: send each model back with a small change.")
@click.option(
    "--data",
    type=click.Choice(DATASETS),
    metavar="SPEC",
    help="What is trained on, and what a server of its own evaluates on.",
)
@click.option("--data-dir", type=click.Path(), metavar="PATH", help="Where data sets lie.")
@click.option(
    "--processes",
    type=click.IntRange(1, 256),
    metavar="N",
    help="How many processes hold the trainers. Default: as many as there are processors, of the cluster with "
    "--ray-address.",
)
@click.option(
    "--ray-address",
    metavar="HOST:PORT",
    help="Run these processes on the machines of this Ray cluster, of which this machine must be one.",
)
@click.option("--host", default="localhost", show_default=True, metavar="HOST", help="The running server's host.")
@click.option(
    "--server-port",
    type=click.IntRange(1, 65535),
    metavar="PORT",
    help="Play against the server on this port. Left out: start one of its own, which ends with the simulation.",
)
@click.option(
    "--target-is-mine",
    is_flag=True,
    help="Play against a server that is not on this machine: it is yours to put under load.",
)
@click.option(
    "--tls-ca",
    type=click.Path(),
    metavar="FILE",
    help="Speak TLS, to a server whose certificate is from a CA of this file (PEM) and for --host.",
)
@click.option(
    "--tls-cert",
    type=click.Path(),
    metavar="FILE",
    help="Each trainer's certificate (PEM), with {id} for its id, for a server that asks for one; with --tls-ca only.",
)
@click.option(
    "--tls-key",
    type=click.Path(),
    metavar="FILE",
    help="Its key, without a passphrase, with {id} too. Default: it is in the same file.",
)
@json_option
@db_option
@click.pass_context
def simulate(ctx: click.Context, /, db: str | None, as_json: bool, **given: Any) -> int:
    """Play a fleet of trainers on real sockets, against a server of its own or one that is there.

    They do what a seeded script says: answer, drop out, lag, lie. At the end it says what they did beside what the
    server's record has of it; --db keeps the record, or says where that of the server is. What stands after -- goes to
    a server of its own.

    For example: flserver simulate --trainers 1000 --lie 0.01 -- --round-timeout 20

    Exit codes: 0 all is as scripted, 1 something is not, or failed, 3 interrupted.
    """
    typed = {key for key, source in sources(ctx).items() if source != "default"}
    kept = db is not None or sources(ctx.find_root()).get("db", "default") != "default"
    there = _check(given, typed)
    members = _script(given, typed)
    if given["no_play"]:
        path = Path(given["script"])
        told = {"script": path, "trainers": len(members)}
        answer(told, [f"{path}: {len(members):,} trainers"], as_json)
        return EXIT_DONE
    from flserver.cli.play import play

    # A service manager's stop is the same wish as Ctrl-C
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with contextlib.ExitStack() as stack:
            return play(stack, given, members, there, database(ctx, db) if kept else None, as_json)
    except KeyboardInterrupt:
        raise Interrupted("simulate: interrupted; its processes have ended") from None
    finally:
        signal.signal(signal.SIGTERM, before)


def _check(given: dict[str, Any], typed: set[str]) -> hosts.Address | None:
    """Where the server is that is there; None where there is to be one of its own. Raises UsageError for what does not
    go together."""
    if given["train"] and given["data"] is None:
        raise UsageError("--train needs --data, such as --data digits")
    if given["no_play"] and given["script"] is None:
        raise UsageError("--no-play needs --script FILE, where the script is to be written")
    if given["tls_key"] and not given["tls_cert"]:
        raise UsageError("--tls-key needs --tls-cert: a key is nothing without its certificate")
    if given["tls_cert"] and not given["tls_ca"]:
        raise UsageError("--tls-cert needs --tls-ca: without it nothing is encrypted")
    if given["ray_address"] is not None:
        check_cluster(given["ray_address"])
    if given["server_port"] is None:
        for option in ("part", "host"):
            if option in typed:
                raise UsageError(f"--{option} is for a server that is there: give its --server-port")
        return None
    for option in ("model", "server_options"):
        if given[option] and option in typed and not (option == "model" and given["train"]):
            raise UsageError(f"{'--model' if option == 'model' else 'what stands after --'} is for a server of its own")
    found = hosts.addresses(given["host"], given["server_port"], "--host")
    elsewhere = [
        str(address[0]) for _, address in found if not ipaddress.ip_address(address[0].partition("%")[0]).is_loopback
    ]
    if elsewhere and not given["target_is_mine"]:
        raise UsageError(
            f"--host {printable(given['host'])} is {elsewhere[0]}, which is not this machine: a fleet is a load that "
            "nobody may put on others' servers; --target-is-mine says that it is yours"
        )
    return found[0]


def _script(given: dict[str, Any], typed: set[str]) -> "list[Member]":
    """The script that is meant: read, or made and, where that is asked for, written."""
    from flserver.files import create
    from flserver.simulation import script

    shares = script.Shares(**{key: given[key] for key in MADE_OF if key != "trainers"})
    path = None if given["script"] is None else Path(given["script"])
    if path is not None and path.exists():
        if also := sorted(typed.intersection(MADE_OF)):
            options = ", ".join(f"--{option.replace('_', '-')}" for option in also)
            raise UsageError(f"--script {path} is there, and says what its trainers do: leave {options} out")
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"cannot read --script {path}: {error}") from error
        return script.from_text(text, f"--script {path}")
    members = script.make(given["trainers"], given["rounds"], given["seed"], shares)
    if path is not None:
        try:
            with os.fdopen(create(path), "w", encoding="utf-8") as file:
                file.write(script.to_text(members))
        except OSError as error:
            raise UsageError(f"cannot write --script {path}: {error.strerror or error}") from error
    return members
