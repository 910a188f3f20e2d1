"""How a node's process ended, as it is said."""

import signal
import subprocess
import threading
from collections.abc import Iterator

import pytest

from flserver.process.nodes import ending
from flserver.process.nodes.ending import Ending
from tests.patience import PATIENCE


@pytest.fixture
def lasting() -> Iterator["subprocess.Popen[bytes]"]:
    process = subprocess.Popen(["sleep", "3600"])
    yield process
    process.kill()
    process.wait()


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (signal.SIGKILL, "SIGKILL"),
        (signal.SIGTERM, "SIGTERM"),
        (signal.SIGRTMIN + 1, f"signal {signal.SIGRTMIN + 1}"),  # it has no name
    ],
)
def test_by_which_signal(lasting: "subprocess.Popen[bytes]", number: int, said: str) -> None:
    lasting.send_signal(number)
    lasting.wait(PATIENCE)
    assert Ending(lasting).explain("its process ended") == f"its process was killed by {said}"


@pytest.mark.parametrize("code", [0, 7])
def test_with_which_exit_code(code: int) -> None:
    with subprocess.Popen(["sh", "-c", f"exit {code}"]) as process:
        process.wait(PATIENCE)
        assert Ending(process).explain("its process ended") == f"its process ended with exit code {code}"


def test_what_is_known_already_stays(lasting: "subprocess.Popen[bytes]") -> None:
    lasting.kill()
    assert Ending(lasting).explain("it has not given its sum") == "it has not given its sum"


def test_a_process_that_goes_on_is_waited_for_a_moment_and_what_ends_it_then_is_not_how_it_ended(
    lasting: "subprocess.Popen[bytes]", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ending, "LOOK_SECONDS", 0.05)
    one, said = Ending(lasting), list[str]()
    threads = [threading.Thread(target=lambda: said.append(one.how())) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert len(said) == 2
    lasting.kill()
    lasting.wait(PATIENCE)
    assert [*said, one.how()] == ["its process ended"] * 3
