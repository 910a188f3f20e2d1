"""The field's trainers, each a process of its own."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from tests import warm
from tests.e2e.harness import TESTS, ServerProcess
from tests.patience import PATIENCE


@contextmanager
def trainers(
    server: ServerProcess, data: Path, *ids: object, python: str = sys.executable, **options: object
) -> Iterator[None]:
    """Field trainers as processes; on leaving, each must have read <FINISHED>."""

    def run(command: list[str], **streams: Any) -> Any:
        if python == sys.executable:
            return warm.start(command, cwd=Path.cwd(), **streams)
        return subprocess.Popen([python, *command], text=True, **streams)

    flags = [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    with ExitStack() as stack:
        started = []
        for client in ids:
            command = [str(TESTS / "field_trainer.py"), "--client-id", str(client), "--data", str(data), *flags]
            command += ["--server-port", str(server.port)]
            environment = os.environ | {"OMP_NUM_THREADS": "1"}
            process = run(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            stack.callback(process.wait)
            stack.callback(process.kill)
            started.append(process)
        yield
        for process in started:
            output, _ = process.communicate(timeout=PATIENCE)
            assert process.returncode == 0, output
            assert output.endswith("finished\n"), output


@contextmanager
def our_trainers(
    server: ServerProcess, *ids: object, code: Path | None = None, **options: object
) -> Iterator[dict[object, str]]:
    """``flclient`` for each id, as a process, which also imports from ``code``; on leaving, each has exit code 0, and
    what it said stands by its id."""
    flags = [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("FLCLIENT_")} | {"OMP_NUM_THREADS": "1"}
    paths = (str(TESTS.parent), environment.get("PYTHONPATH"), str(code or ""))
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    said: dict[object, str] = {}
    with ExitStack() as stack:
        started = {}
        for client in ids:
            command = ["-m", "flclient", "--client-id", str(client), "--use-cuda", "False", *flags]
            process = warm.start(
                [*command, "--server-port", str(server.port)],
                cwd=Path.cwd(),
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            )
            stack.callback(process.wait)
            stack.callback(process.kill)
            started[client] = process
        yield said
        for client, process in started.items():
            said[client], _ = process.communicate(timeout=PATIENCE)
            assert process.returncode == 0, said[client]
