"""How the trainer leaves, and where it comes back to, against a plain-pickle server on real sockets."""

import pytest

from flserver.models.architectures import DEFAULT_MODEL, build
from flserver.wire.messages import UNDERSTANDS_GOODBYE
from tests.flclient.plain_server import PlainServer

STOPPED = {"complete": False}


@pytest.fixture
def take_part(flclient, fldata):
    """Runs flclient as client 3 against a scripted server: (exit code, standard output, standard error)."""

    def call(server, *arguments):
        return flclient("--client-id", 3, "--server-port", server.port, "--data-dir", fldata, *arguments)

    return call


def one_round(server, connection):
    server.round(connection, build(DEFAULT_MODEL, 1))


def test_a_stop_in_the_middle_of_the_run_is_exit_code_3_without_reconnect(take_part):
    def script(server):
        connection = server.admit()
        one_round(server, connection)
        server.finish(connection, **STOPPED)

    with PlainServer(script) as server:
        code, out, err = take_part(server)
    assert (code, err) == (3, "flclient: the server stopped in the middle of the run\n")
    assert "the run is over" not in out
    assert server.hellos[0]["info"][UNDERSTANDS_GOODBYE] is True


def test_with_reconnect_it_waits_for_the_server_to_come_back(take_part):
    def script(server):
        for more in (STOPPED, {}):
            connection = server.admit(run="night")
            one_round(server, connection)
            server.finish(connection, **more)

    with PlainServer(script) as server:
        code, out, err = take_part(server, "--reconnect", 20)
    assert code == 0
    assert err.startswith("client 3: the server stopped in the middle of the run; trying again in ")
    assert len(server.hellos) == 2
    assert out.endswith("the run is over; models trained: 2\n")


@pytest.mark.parametrize(("more", "code"), [(STOPPED, 3), ({}, 0)])
def test_a_server_that_ended_while_it_trained_has_said_why(take_part, more, code):
    def script(server):
        connection = server.admit()
        server.close_the_door()
        server.send_model(connection, build(DEFAULT_MODEL, 1))
        server.finish(connection, **more)

    with PlainServer(script) as server:
        assert take_part(server)[0] == code


def test_a_server_that_ended_without_a_word_is_a_lost_connection(take_part):
    def script(server):
        connection = server.admit()
        server.close_the_door()
        server.send_model(connection, build(DEFAULT_MODEL, 1))
        assert connection.recv(1) == b"", "until it has given up"

    with PlainServer(script) as server:
        code, _, err = take_part(server)
    assert (code, err) == (1, f"flclient: cannot connect to localhost:{server.port}: Connection refused\n")


@pytest.mark.parametrize(("first", "second"), [({"run": "a"}, {"run": "a"}), ({}, {"run": "b"}), ({"run": "a"}, {})])
def test_it_goes_on_with_the_run_it_joined_and_with_a_server_that_does_not_say(take_part, first, second):
    def script(server):
        server.finish(server.admit(**first), **STOPPED)
        server.finish(server.admit(**second))

    with PlainServer(script) as server:
        assert take_part(server, "--reconnect", 20)[0] == 0


@pytest.mark.parametrize("more", [("--reconnect", 20), ("--reconnect", 20, "--any-run")])
def test_another_runs_server_is_refused_unless_told(take_part, more):
    def script(server):
        server.finish(server.admit(run="first"), **STOPPED)
        connection = server.admit(run="sec\x1bond")
        if "--any-run" in more:
            server.finish(connection)
        else:
            assert connection.recv(1) == b"", "it leaves"

    with PlainServer(script) as server:
        code, _, err = take_part(server, *more)
    if "--any-run" in more:
        assert code == 0
    else:
        assert code == 1
        assert err.splitlines()[-1] == (
            "flclient: the server is at work on run 'sec\\x1bond', and this trainer took part in run 'first'; "
            "--any-run takes part in whatever run there is"
        )
