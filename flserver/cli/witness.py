"""The witness: the commands for who holds a server to its past."""

import time
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING

import click

from flserver.cli.common import answer, interval_option, json_flag, json_option, say_json
from flserver.errors import EXIT_DONE, HeadError, Rewritten, UsageError
from flserver.text import printable

if TYPE_CHECKING:
    from flserver.heads.note import PublicKey
    from flserver.witness.watch import Seen

FILE = click.Path(path_type=Path)
OWN_HEAD = "the head is the file's own: --head FILE holds it against one that a witness has seen"
log_key_option = click.option(
    "--log-key",
    metavar="KEY|FILE",
    help="The server's public key, name+keyid+base64, or the file with it (.pub). Have it from the operator in person."
    " Required.",
)


@click.group("witness", invoke_without_command=True)
@click.option(
    "--url",
    metavar="URL|FILE",
    help="The server's metrics port, as http://host:9464, or a file that prove --since has made. Required.",
)
@log_key_option
@click.option("--key", type=FILE, metavar="FILE", help="The witness's own key, which keygen --witness makes. Required.")
@click.option("--key-passphrase-file", type=FILE, metavar="FILE", help="Its passphrase: the first line of this file.")
@click.option(
    "--state", type=FILE, metavar="FOLDER", help="What the witness remembers; made where there is none. Required."
)
@click.option("--once", is_flag=True, help="Look once.")
@interval_option(1, 60.0)
@click.option(
    "--out", type=FILE, metavar="FILE", help="Where the newest cosigned head stands. Default: standard output has each."
)
@json_flag("A JSON object for each head, a line each.")
@click.pass_context
def witness(
    ctx: click.Context,
    url: str | None,
    log_key: str | None,
    key: Path | None,
    key_passphrase_file: Path | None,
    state: Path | None,
    once: bool,
    interval: float,
    out: Path | None,
    as_json: bool,
) -> int:
    """Watch a server's signed heads from outside, and cosign those that extend all that were seen before.

    It needs no database. A head is remembered, durably, before it is cosigned. Exit code 1 where a head does not extend
    what was seen: the past was rewritten, and what the server signed is kept as evidence. With --once 1 too where an
    answer cannot be believed, and 2 where none came, so that nothing was checked.
    """
    if ctx.invoked_subcommand is not None:
        return EXIT_DONE
    from flserver.heads.keys import load
    from flserver.heads.note import WITNESS
    from flserver.witness.keeping import Memory
    from flserver.witness.watch import fetcher, look

    if url is None or key is None or state is None:
        raise UsageError("witness needs --url, --log-key, --key and --state")
    log, memory = _log_key(log_key), Memory(state)
    own, fetch = load(key, WITNESS, "--key", key_passphrase_file), fetcher(url)
    with memory.held():
        while True:
            try:
                seen = look(fetch, log, own, memory, time.time)
            except OSError as error:
                raise UsageError(f"--state {state}: nothing is signed: {error.strerror}") from error
            except Rewritten:
                raise
            except HeadError as error:
                if once:
                    raise
                _say(str(error))
                seen = None
            if seen is not None:
                _tell(seen, log.name, out, as_json)
            if once:
                return EXIT_DONE
            Event().wait(interval)


@witness.command("compare")
@click.argument("one", type=FILE, metavar="FILE|FOLDER")
@click.argument("other", type=FILE, metavar="FILE|FOLDER")
@log_key_option
@json_option
def witness_compare(one: Path, other: Path, log_key: str | None, as_json: bool) -> int:
    """Compare what two witnesses saw: the cosigned heads in two files, or in the folders that --state names.

    Exit code 1 where the server has shown them two pasts; 2 where they saw no head of the same size, so that nothing
    can be told.
    """
    from flserver.witness.compare import compare
    from flserver.witness.keeping import heads_in

    log = _log_key(log_key)
    found = compare(heads_in(one), heads_in(other), log)
    if not found.common:
        raise UsageError("the two have no head of the same size: wait until both have seen the same one")
    told = {"log": log.name, "common": found.common, "largest": found.largest}
    line = f"{log.name}: {found.common} heads are the same, the largest of {found.largest} events"
    answer(told, [line], as_json)
    return EXIT_DONE


@witness.command("check")
@click.argument("file", type=FILE)
@log_key_option
@click.option("--head", type=FILE, metavar="FILE", help="A head that the site has from its witness, not from FILE.")
@json_option
def witness_check(file: Path, log_key: str | None, head: Path | None, as_json: bool) -> int:
    """Check a file that prove has made: an event's proof, or a client's own rows.

    Whether rows were left out does not show; those that are there are in the record of the head. Exit code 1 where
    something does not hold.
    """
    from flserver.witness.check import check_file
    from flserver.witness.keeping import read_note

    log = _log_key(log_key)
    checked = check_file(file, log, None if head is None else read_note(head))
    size, count = checked.head.size, sum(checked.types.values())
    if (event := checked.event) is not None:
        what = f"event {event.seq}, {printable(event.type)} of run {printable(event.run_id)} at {printable(event.at)}"
        line = f"{what}, is among the {size} of {log.name}"
    else:
        about = "" if checked.client is None else f" about client {printable(checked.client)}"
        types = ", ".join(f"{number} {printable(name)}" for name, number in sorted(checked.types.items()))
        line = f"{count} events{about} are among the {size} of {log.name}: {types}"
    told = {"log": log.name, "size": size, "events": count, "types": dict(checked.types), "client": checked.client}
    answer(told | {"event": None if event is None else vars(event)}, [line], as_json)
    if head is None:
        _say(OWN_HEAD)
    return EXIT_DONE


def _log_key(given: str | None) -> "PublicKey":
    """The server's key, as it is given or in a file."""
    from flserver.heads.note import PublicKey

    if given is None:
        raise UsageError("--log-key is missing: the server's public key, which keygen has printed")
    try:
        if "+" in given and not Path(given).exists():
            return PublicKey.parse(given)
        return PublicKey.parse(Path(given).read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"--log-key {given}: {error.strerror}") from error
    except (HeadError, UnicodeDecodeError) as error:
        raise UsageError(f"--log-key: {error}") from error


def _tell(seen: "Seen", name: str, out: Path | None, as_json: bool) -> None:
    """Hand a cosigned head on."""
    from flserver.witness.keeping import replace

    if as_json:
        told = {"log": name, "size": seen.size, "before": seen.before, "cosigned": str(seen.cosigned), "file": out}
        say_json(told, line=True)
    elif out is None:
        click.echo(str(seen.cosigned))
    if out is not None:
        try:
            replace(out, str(seen.cosigned))
        except OSError as error:
            raise UsageError(f"--out {out}: {error.strerror}") from error
    grown = "the first head seen" if seen.before is None else f"it extends the {seen.before} seen before"
    _say(f"{name}: {seen.size} events, {grown}; cosigned")


def _say(line: str) -> None:
    click.echo(f"flserver witness: {line}", err=True)
