"""The commands about signed heads: keys and proofs for who runs a server, the witness for who holds it to its past."""

import secrets
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path
from threading import Event
from typing import IO, TYPE_CHECKING

import click

from flserver.cli.common import database, db_option
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
    help="The server's public key, name+keyid+base64, or the file with it (.pub). Have it from the operator in person.",
)


@click.command("keygen")
@click.option("--out", required=True, type=FILE, metavar="FILE", help="The private key; FILE.pub gets the public one.")
@click.option(
    "--name",
    metavar="NAME",
    help="What it is called, and the heads that it signs. Default: this host's name and a random number.",
)
@click.option("--witness", is_flag=True, help="A witness's key, which cosigns; else a server's, which signs heads.")
@click.option("--for-models", is_flag=True, help="A key that signs models, as evidence --model-key does.")
@click.option("--passphrase-file", type=FILE, metavar="FILE", help="Encrypt it with the first line of this file.")
def keygen(out: Path, name: str | None, witness: bool, for_models: bool, passphrase_file: Path | None) -> None:
    """Make a key, Ed25519: one for each database that a server signs heads of, and one for each witness.

    Those for models are P-256 and plain PEM, for OpenSSF's model-signing and other tools.

    Nobody but its owner can read it, and nothing is written over. The public key is printed.
    """
    from flserver.heads.keys import PrivateKey, read_passphrase
    from flserver.heads.model_keys import ModelKey
    from flserver.heads.note import LOG, WITNESS

    passphrase = None if passphrase_file is None else read_passphrase(passphrase_file, "--passphrase-file")
    if for_models:
        if name or witness:
            raise UsageError("--for-models: such a key has no name, and is no witness's")
        click.echo(ModelKey.generate().write(out, passphrase).read_text(encoding="ascii").rstrip("\n"))
        return
    try:
        key = PrivateKey.generate(name or f"{socket.gethostname()}/{secrets.token_hex(4)}", WITNESS if witness else LOG)
    except HeadError as error:
        raise UsageError(f"--name: {error}") from error
    key.write(out, passphrase)
    click.echo(str(key.public))


@click.command("prove")
@click.argument("what", required=False, metavar="[EVENT|update:ID|RUN:ROUND]")
@click.option(
    "--since",
    metavar="HEAD|SIZE",
    help="Prove that the newest head extends this one: its file, or its number of events.",
)
@click.option("--client", metavar="ID", help="Write every event about this client alone, with payload, salt and proof.")
@click.option(
    "--head", type=FILE, metavar="FILE", help="Prove what is in the record of this head. Default: the newest."
)
@click.option("--out", type=FILE, metavar="FILE", help="Where the proof goes. Default: standard output.")
@db_option
@click.pass_context
def prove(
    ctx: click.Context,
    what: str | None,
    since: str | None,
    client: str | None,
    head: Path | None,
    out: Path | None,
    db: str | None,
) -> None:
    """Prove to a holder of a signed head what is in the record: an event, by its number; an update; a committed round.

    The proofs are those of RFC 6962, written as C2SP's tlog-proof, and with --since as a tlog-witness takes them. Exit
    code 1 where the record is not the one that the head is of. For example: flserver --db runs.sqlite prove night:12
    """
    from flserver.audit import prove as proofs
    from flserver.heads.note import Checkpoint
    from flserver.store.tree_reader import TreeReader
    from flserver.witness.keeping import read_note

    if sum(given is not None for given in (what, since, client)) != 1:
        raise UsageError("prove takes one of an event, --since and --client")
    record = TreeReader(database(ctx, db))
    signed = proofs.newest_head(record) if head is None else read_note(head)
    with _written(out) as file:
        if since is not None:
            old = int(since) if since.isdecimal() else Checkpoint.parse(read_note(Path(since)).text)
            file.write(str(proofs.extension(record, old, signed)))
        elif what is not None:
            file.write(str(proofs.inclusion(record, proofs.event_of(record, what), signed)))
        elif client is not None:
            for line in proofs.own_rows(record, client, signed):
                file.write(line + "\n")
            if purged := record.purged():
                gone = f"the payloads of {purged} events of the record are purged"
                _say(f"{gone}: what was about client {printable(client)} among them is not in the file", of="prove")


@contextmanager
def _written(out: Path | None) -> Iterator[IO[str]]:
    """Standard output, or a new file for this user and group, which is gone where the block raises."""
    if out is None:
        yield sys.stdout
        return
    from flserver.files import new_file

    with new_file(out) as file:
        text = TextIOWrapper(file, encoding="utf-8")
        yield text
        text.flush()
        text.detach()  # the file is closed by who opened it


@click.group("witness", invoke_without_command=True)
@click.option(
    "--url",
    metavar="URL|FILE",
    help="The server's metrics port, as http://host:9464, or a file that prove --since has made.",
)
@log_key_option
@click.option("--key", type=FILE, metavar="FILE", help="The witness's own key, which keygen --witness makes.")
@click.option("--key-passphrase-file", type=FILE, metavar="FILE", help="Its passphrase: the first line of this file.")
@click.option("--state", type=FILE, metavar="FOLDER", help="What the witness remembers; made where there is none.")
@click.option("--once", is_flag=True, help="Look once.")
@click.option(
    "--interval",
    type=click.FloatRange(1, 86400),
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    help="Seconds between two looks.",
)
@click.option(
    "--out", type=FILE, metavar="FILE", help="Where the newest cosigned head stands. Default: standard output has each."
)
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
                _tell(seen, log.name, out)
            if once:
                return EXIT_DONE
            Event().wait(interval)


@witness.command("compare")
@click.argument("one", type=FILE, metavar="FILE|FOLDER")
@click.argument("other", type=FILE, metavar="FILE|FOLDER")
@log_key_option
def witness_compare(one: Path, other: Path, log_key: str | None) -> int:
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
    click.echo(f"{log.name}: {found.common} heads are the same, the largest of {found.largest} events")
    return EXIT_DONE


@witness.command("check")
@click.argument("file", type=FILE)
@log_key_option
@click.option("--head", type=FILE, metavar="FILE", help="A head that the site has from its witness, not from FILE.")
def witness_check(file: Path, log_key: str | None, head: Path | None) -> int:
    """Check a file that prove has made: an event's proof, or a client's own rows.

    Whether rows were left out does not show; those that are there are in the record of the head. Exit code 1 where
    something does not hold.
    """
    from flserver.witness.check import check_file
    from flserver.witness.keeping import read_note

    log = _log_key(log_key)
    checked = check_file(file, log, None if head is None else read_note(head))
    if (event := checked.event) is not None:
        what = f"event {event.seq}, {printable(event.type)} of run {printable(event.run_id)} at {printable(event.at)}"
        click.echo(f"{what}, is among the {checked.head.size} of {log.name}")
        if head is None:
            _say(OWN_HEAD)
        return EXIT_DONE
    about = "" if checked.client is None else f" about client {printable(checked.client)}"
    types = ", ".join(f"{count} {printable(name)}" for name, count in sorted(checked.types.items()))
    click.echo(f"{sum(checked.types.values())} events{about} are among the {checked.head.size} of {log.name}: {types}")
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


def _tell(seen: "Seen", name: str, out: Path | None) -> None:
    """Hand a cosigned head on."""
    from flserver.witness.keeping import replace

    if out is None:
        click.echo(str(seen.cosigned))
    else:
        try:
            replace(out, str(seen.cosigned))
        except OSError as error:
            raise UsageError(f"--out {out}: {error.strerror}") from error
    grown = "the first head seen" if seen.before is None else f"it extends the {seen.before} seen before"
    _say(f"{name}: {seen.size} events, {grown}; cosigned")


def _say(line: str, of: str = "witness") -> None:
    click.echo(f"flserver {of}: {line}", err=True)
