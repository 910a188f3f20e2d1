"""The commands about signed heads, for who runs a server: keys and proofs."""

import secrets
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from io import StringIO, TextIOWrapper
from pathlib import Path
from typing import IO

import click

from flserver.cli.common import answer, database, db_option, json_option
from flserver.errors import HeadError, UsageError
from flserver.text import printable

FILE = click.Path(path_type=Path)


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
@json_option
def keygen(
    out: Path, name: str | None, witness: bool, for_models: bool, passphrase_file: Path | None, as_json: bool
) -> None:
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
        public = ModelKey.generate().write(out, passphrase).read_text(encoding="ascii").rstrip("\n")
        answer({"file": out, "public": public}, [public], as_json)
        return
    try:
        key = PrivateKey.generate(name or f"{socket.gethostname()}/{secrets.token_hex(4)}", WITNESS if witness else LOG)
    except HeadError as error:
        raise UsageError(f"--name: {error}") from error
    key.write(out, passphrase)
    answer({"file": out, "public": str(key.public)}, [str(key.public)], as_json)


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
@json_option
@db_option
@click.pass_context
def prove(
    ctx: click.Context,
    what: str | None,
    since: str | None,
    client: str | None,
    head: Path | None,
    out: Path | None,
    as_json: bool,
    db: str | None,
) -> None:
    """Prove to a holder of a signed head what is in the record: an event, by its number; an update; a committed round.

    The proofs are those of RFC 6962, written as C2SP's tlog-proof, and with --since as a tlog-witness takes them. Exit
    code 1 where the record is not the one that the head is of. For example: flserver --db runs.sqlite prove night:12
    """
    from flserver.audit import prove as proofs
    from flserver.heads.note import Checkpoint
    from flserver.store.schema import check
    from flserver.store.tree_reader import TreeReader
    from flserver.witness.keeping import read_note

    if sum(given is not None for given in (what, since, client)) != 1:
        raise UsageError("prove takes one of an event, --since and --client")
    check(database(ctx, db))
    record = TreeReader(database(ctx, db))
    signed = proofs.newest_head(record) if head is None else read_note(head)
    purged, kept, committed = 0, StringIO(), None
    with nullcontext(kept) if as_json and out is None else _written(out) as file:
        if since is not None:
            old = int(since) if since.isdecimal() else Checkpoint.parse(read_note(Path(since)).text)
            file.write(str(proofs.extension(record, old, signed)))
        elif what is not None:
            seq = proofs.event_of(record, what)
            file.write(str(proofs.inclusion(record, seq, signed)))
            if (committed := proofs.round_of(record, seq)) is not None:
                is_it = "is round {round} of run {run_id}, whose model is {model_digest}".format(**committed)
                click.echo(f"flserver prove: event {seq} {printable(is_it)}", err=True)
        elif client is not None:
            for line in proofs.own_rows(record, client, signed):
                file.write(line + "\n")
            if purged := record.purged():
                gone = f"the payloads of {purged} events of the record are purged"
                said = f"{gone}: what was about client {printable(client)} among them is not in the file"
                click.echo(f"flserver prove: {said}", err=True)
    about = {"event": what, "since": since, "client": client, "head": str(signed), "purged": purged}
    told = about | {"round": committed, "file": out, "proof": kept.getvalue() or None}
    answer(told, (), as_json)


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
