"""The trainer's data, its certificates, and the trainer as its user runs it."""

import sys

import pytest

from flclient.__main__ import main
from tests.certificates import Authority
from tests.fldata import write_fldata


@pytest.fixture(scope="module")
def fldata(tmp_path_factory):
    return write_fldata(tmp_path_factory.mktemp("fldata"), [3, "host-a"], samples=60)


@pytest.fixture
def flclient(monkeypatch, capsys):
    """Runs flclient in this process: (exit code, standard output, standard error)."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["flclient", *map(str, arguments)])
        code = main()
        return code, *capsys.readouterr()

    return call


@pytest.fixture(scope="module")
def ca(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def other_ca(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("other"))


@pytest.fixture
def trainer(flclient, fldata, ca):
    """Runs flclient with our CA, against a port, patiently: (exit code, standard output, standard error)."""

    def call(port, *arguments):
        common = ("--client-id", 3, "--data-dir", fldata, "--epochs", 1, "--reconnect", 5)
        return flclient(*common, "--server-port", port, "--tls-ca", ca.path, *arguments)

    return call
