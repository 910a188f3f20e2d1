"""The command that gives evidence to who has neither the database nor flserver."""

import shlex
from pathlib import Path

import click

from flserver.cli.common import (
    answer,
    audit_head_option,
    checkpoint_dir_option,
    database,
    db_option,
    json_option,
    operator_options,
)
from flserver.errors import UsageError
from flserver.settings.folders import Folder
from flserver.settings.operator import Operator
from flserver.settings.places import Place

FILE = click.Path(path_type=Path)


@click.command("evidence")
@click.argument("what", required=False, metavar="[RUN|RUN:ROUND]")
@click.option("--out", required=True, type=FILE, metavar="FILE.zip", help="The bundle; it is never written over.")
@click.option(
    "--head",
    type=FILE,
    metavar="FILE",
    help="Make it about this head, which who checks it has. Default: the newest signed one, or the record's.",
)
@click.option("--licence", metavar="SPDX", help="The model's licence, for its bill of materials: Apache-2.0, say.")
@click.option("--model-key", type=FILE, metavar="FILE", help="Sign the model with this key of keygen --for-models.")
@click.option("--model-key-passphrase-file", type=FILE, metavar="FILE", help="Its passphrase: this file's first line.")
@click.option("--with-model", is_flag=True, help="Put the model itself in.")
@click.option(
    "--with-personal-data",
    is_flag=True,
    help="Put all payloads in, with addresses, certificates, info and free text. That is on record then, and no server "
    "may have the database open.",
)
@json_option
@operator_options
@audit_head_option
@checkpoint_dir_option
@db_option
@click.pass_context
def evidence(
    ctx: click.Context,
    what: str | None,
    out: Path,
    head: Path | None,
    licence: str | None,
    model_key: Path | None,
    model_key_passphrase_file: Path | None,
    with_model: bool,
    with_personal_data: bool,
    as_json: bool,
    checkpoint_dir: Folder | None,
    db: str | None,
    operator: Operator,
    audit_head: Path | None,
) -> None:
    """Make a zip that proves what the record says of a run (default: the newest) or a round, to who has only Python.

    In it: the events, held by proofs against a head of the record; what follows from them, in plain words, as an
    in-toto statement a round and as a list of checkpoints; a CycloneDX ML-BOM; verify.py, which checks all that. Hand
    the head, or the key, and the SHA-256 of verify.py over by another way.
    """
    from flserver.evidence.anchor import read_head
    from flserver.evidence.make import Asked, make
    from flserver.heads.model_keys import ModelKey
    from flserver.report.values import of

    path = database(ctx, db)
    key = None if model_key is None else ModelKey.load(model_key, "--model-key", model_key_passphrase_file)
    asked = Asked.parse(
        what or "newest",
        head=None if head is None else read_head(head),
        licence=licence,
        model_key=key,
        model=with_model,
        personal=with_personal_data,
    )
    if with_personal_data:
        _put_on_record(path, asked.run, asked.round, out, operator, audit_head)
    made = make(path, out, asked, checkpoint_dir)
    anchor, name = made.anchor, shlex.quote(out.name)
    under = f"--head {anchor}" if anchor.key is None else f"--key {anchor.key}"
    told = {"file": out, "events": made.events, "rounds": made.rounds, "digest": f"sha256:{made.digest}"}
    told |= {"verify.py": f"sha256:{made.verifier}", "head": str(anchor), "size": anchor.checkpoint.size}
    commands = [f"unzip -p {name} verify.py > verify.py", f"python3 -I verify.py {name} {under}"]
    lines = (
        f"{out}: {made.events} events of the run, {of(made.rounds, 'round')}, sha256:{made.digest}",
        f"verify.py: sha256:{made.verifier}",
        f"head: {anchor} (of the whole record, {anchor.checkpoint.size} events of all runs and their servers)",
        f"key: {anchor.key or 'none, for nobody signed this head'}",
        "who checks it takes verify.py out of it (better: has it from elsewhere), then needs only Python:",
        *(f"  {command}" for command in commands),
    )
    answer(told | {"key": anchor.key, "commands": commands}, lines, as_json)


def _put_on_record(
    path: Place, run: str, number: int | None, out: Path, operator: Operator, audit_head: Path | None
) -> None:
    """That personal data leave the record, before they do."""
    from flserver.process.acts import record_act
    from flserver.store.database import at
    from flserver.store.reader import Reader
    from flserver.store.schema import check

    if not check(path).at_head:
        raise UsageError(f"{path} is of an older version, and this goes on record: flserver --db {path} db upgrade")
    reader = Reader(path)
    run_id = reader.run(run)["run_id"]
    reader.committed_round(run_id, number)
    detail = {"what": "evidence", "run_id": run_id, "round": number, "file": str(out.absolute())}
    with at(path).lock(alone=False) as lock:
        record_act(path, lock, "export", detail, operator, audit_head)
