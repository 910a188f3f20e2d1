"""The trainer's command line: the only place that reads flags and prints."""

import platform
import signal
import threading
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flclient.connection import Connection, NotAdmitted, Stopped, backoff
from flclient.settings import CLIENT_SETTINGS
from flclient.tls import ClientTls, tls_of
from flserver import __version__
from flserver.errors import EXIT_DONE, EXIT_INTERRUPTED, ConnectionLost, FlserverError, UsageError
from flserver.settings.options import options, unknown_variables
from flserver.wire.messages import UNDERSTANDS_GOODBYE, shown, wire_id
from flserver.wire.pickles import MOST_MODELS, PickleLimits

if TYPE_CHECKING:
    from flserver.models.training import Measured, Trainer

OPCODES_A_PART = 200  # of a pickle, for a module or a tensor
TOLD = ("learning_rate", "epochs", "batch_size", "dataset", "partition", "num_clients", "seed", "model")
"""Settings that the server is told."""


class AnotherRun(FlserverError):
    """The server that came back is at work on another run than the one that this trainer joined."""


@click.command(name="flclient", context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
@options(CLIENT_SETTINGS)
@click.pass_context
def flclient(ctx: click.Context, /, **values: Any) -> int:
    """Train on this client's data in a federated run.

    Exit codes: 0 the run is over, 1 refused or failed, 2 usage, 3 interrupted.
    """
    for line in unknown_variables(ctx):
        click.echo(f"flclient: {line}", err=True)
    if not values["client_id"]:
        raise UsageError("--client-id is required")
    # A service manager's stop is the same wish as Ctrl-C
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        security = tls_of(values["tls_ca"], values["tls_cert"], values["tls_key"])
        trainer, info = _prepare(values)
        return _take_part(trainer, info, values, security)
    except KeyboardInterrupt:
        click.echo("flclient: interrupted", err=True)
        return EXIT_INTERRUPTED
    finally:
        signal.signal(signal.SIGTERM, before)


def _prepare(values: dict[str, Any]) -> tuple["Trainer", dict[str, Any]]:
    """The trainer, and what is told the server of it."""
    import torch  # 2 s: --help and --print-config answer at once

    from flserver.models.architectures import build
    from flserver.models.datasets import load_test, load_train
    from flserver.models.measuring import device_for
    from flserver.models.training import Trainer, TrainingPolicy

    client_id, dataset = values["client_id"], values["dataset"]
    data_dir = Path(values["data_dir"]) if values["data_dir"] else None
    part = values["part"] or client_id
    device = device_for(values["use_cuda"])
    train = load_train(dataset, data_dir, part, values["num_clients"], values["partition"], values["seed"])
    test = load_test(dataset, data_dir, part)
    policy = TrainingPolicy(**{key: values[key] for key in ("epochs", "learning_rate", "batch_size", "seed")})
    trainer = Trainer(build(values["model"], values["seed"]), train, test, policy, client_id, device)
    trainer.rehearse()  # in training mode a model may fail that does well in evaluation
    versions = {
        "flclient": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
    about = {"versions": versions, "device": device.type, UNDERSTANDS_GOODBYE: True}
    return trainer, {key: values[key] for key in TOLD} | about


def _take_part(trainer: "Trainer", info: dict[str, Any], values: dict[str, Any], security: ClientTls | None) -> int:
    """Register, train until the run is over, and begin again while ``--reconnect`` allows."""
    me = f"client {values['client_id']}"  # several may share a terminal
    patience: float = values["reconnect"]
    pauses = backoff(patience)
    rounds = 0
    registered_before = False
    joined: str | None = None  # the run, as far as a server has said which
    while True:
        try:
            with Connection(
                values["host"], values["server_port"], _largest_body(trainer), security, _pickles(trainer)
            ) as connection:
                said = connection.register(values["client_id"], trainer.data_size, info)
                if not values["any_run"] and None not in (joined, connection.run) and connection.run != joined:
                    raise AnotherRun(
                        f"the server is at work on run {shown(connection.run)}, and this trainer took part in run "
                        f"{shown(joined)}; --any-run takes part in whatever run there is"
                    )
                joined = connection.run or joined
                click.echo(f"{me}: registered with {trainer.data_size} training samples: {said}")
                pauses = backoff(patience)  # patience is for one loss, not for the whole run
                registered_before = True
                while (template := connection.next_model()) is not None:
                    rounds += 1
                    _answer(trainer, connection, template, rounds, wire_id(values["client_id"]))
                    del template  # the next model needs its memory
                click.echo(f"{me}: the run is over; models trained: {rounds}")
                return EXIT_DONE
        except (ConnectionLost, NotAdmitted, Stopped) as error:
            # A server that has not yet noticed our end of the old connection refuses the new one: try again
            if isinstance(error, NotAdmitted) and not registered_before:
                raise
            pause = next(pauses, None)
            if pause is None and patience:
                more = f"once the server is up, or with --reconnect {max(600, patience * 10):g}"
                over = f"the {patience:g} s of --reconnect are over: run the same command {more}"
                raise type(error)(f"{error}; {over}") from error
            if pause is None:
                raise
            click.echo(f"{me}: {error}; trying again in {pause:.1f} s", err=True)
            threading.Event().wait(pause)


def _answer(trainer: "Trainer", connection: Connection, template: Any, number: int, client_id: int | str) -> None:
    """Train the model and send it back: its numbers are copied into the trainer's model, and from there to where they
    came from, which is sent."""
    from flserver.models.state import write_state

    trained = trainer.train(template.module, number)
    click.echo(
        f"client {client_id}: model {number}: received {_text(trained.received)}; trained {_text(trained.trained)}; "
        f"{trained.seconds:.2f} s"
    )
    write_state(template.module, trained.state)
    connection.upload(template.answer(id=client_id, metrics=trained.metrics()))


def _text(measured: "Measured") -> str:
    return f"loss {measured.loss:.4f}, accuracy {measured.accuracy:.2%}"


def _largest_body(trainer: "Trainer") -> int:
    """Bytes. A module may drag along more than its state: whole storages behind slices, tensors in plain attributes.
    Where its weights are views of one buffer, that buffer comes with each of them."""
    return max(4, min(trainer.parameter_tensors, MOST_MODELS)) * trainer.model_bytes + 2**24


def _pickles(trainer: "Trainer") -> PickleLimits:
    """What reading a model may take: twice what a part of a model takes at most, where that was measured, and as much
    as a small one may."""
    usual = PickleLimits()
    more = OPCODES_A_PART * trainer.parts
    return replace(usual, opcodes=usual.opcodes + more, memo=usual.memo + more // 2)
