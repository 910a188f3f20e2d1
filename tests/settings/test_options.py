"""Settings from flags, environment, file and defaults."""

import tomllib

import click
import pytest

from flserver.errors import FlserverError, UsageError
from flserver.settings import SERVER_SETTINGS, Setting, defaults, server_settings
from flserver.settings.options import load_config, options, print_config, run, sources

TABLE = (
    Setting(name="num-rounds", kind="int", default=30, minimum=1, maximum=99, help="Rounds."),
    Setting(name="run-name", kind="str", default=None, help="Name."),
    Setting(name="use-cuda", kind="tristate", default=None, help="CUDA."),
    Setting(name="rejoin", kind="bool", default=True, help="Rejoin."),
    Setting(name="join-window", kind="choice", default="fixed", choices=("fixed", "sliding"), help="Window."),
    Setting(name="timeout", kind="float", default=2.5, minimum=0, help="Seconds."),
    Setting(name="db", kind="path", default="runs.sqlite", help="Database."),
    Setting(name="weight", kind="share", default=1.0, minimum=0.001, maximum=1, help="Share."),
)


@pytest.fixture
def invoke(capsys):
    """Runs a command with the table's options: (exit code, values, sources, standard output, standard error)."""

    def call(*args, action=None):
        seen = []

        @click.command(name="prog")
        @options(TABLE)
        @click.pass_context
        def command(ctx, **values):
            seen.append((values, sources(ctx)))
            return action() if action else None

        code = run(command, "PROG", list(args))
        out, err = capsys.readouterr()
        return code, *(seen[0] if seen else (None, None)), out, err

    return call


def test_without_anything_the_defaults_stand(invoke):
    code, values, where, _, err = invoke()
    assert (code, err) == (0, "")
    assert values == defaults(TABLE)
    assert all(where[setting.key] == "default" for setting in TABLE)


def test_flag_before_environment_before_file_before_default(invoke, tmp_path, monkeypatch):
    config = tmp_path / "prog.toml"
    config.write_text('num-rounds = 5\nrun-name = "from file"\ntimeout = 7\n')
    arguments = ("--config", str(config))
    assert invoke(*arguments)[1] == defaults(TABLE) | {"num_rounds": 5, "run_name": "from file", "timeout": 7.0}
    monkeypatch.setenv("PROG_NUM_ROUNDS", "6")
    monkeypatch.setenv("PROG_RUN_NAME", "from environment")
    _, values, where, _, _ = invoke(*arguments, "--num-rounds", "7")
    assert (values["num_rounds"], values["run_name"], values["timeout"]) == (7, "from environment", 7.0)
    assert [where[key] for key in ("num_rounds", "run_name", "timeout", "db")] == [
        "flag",
        "environment",
        "file",
        "default",
    ]
    monkeypatch.setenv("PROG_CONFIG", str(config))
    assert invoke()[1]["timeout"] == 7.0


@pytest.mark.parametrize("setting", TABLE, ids=lambda setting: setting.name)
def test_an_empty_environment_variable_counts_as_unset(invoke, monkeypatch, tmp_path, setting):
    monkeypatch.setenv(f"PROG_{setting.key.upper()}", "")
    monkeypatch.setenv("PROG_CONFIG", "")
    code, values, where, _, _ = invoke()
    assert (code, values, where[setting.key]) == (0, defaults(TABLE), "default")


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [
        ([], None),
        (["--use-cuda"], True),
        (["--use-cuda", "True"], True),
        (["--use-cuda=true"], True),
        (["--use-cuda", "1"], True),
        (["--use-cuda", "False"], False),
        (["--use-cuda=False"], False),
        (["--use-cuda=no"], False),
        (["--use-cuda="], False),
        (["--use-cuda", ""], False),
        (["--use-cuda", "--num-rounds", "3"], True),
        (["--num-rounds", "3", "--use-cuda"], True),
    ],
)
def test_use_cuda_means_what_it_says(invoke, arguments, meant):
    code, values, _, _, _ = invoke(*arguments)
    assert code == 0
    assert values["use_cuda"] is meant


@pytest.mark.parametrize(("value", "meant"), [("True", True), ("False", False), ("0", False)])
def test_use_cuda_from_the_environment(invoke, monkeypatch, value, meant):
    monkeypatch.setenv("PROG_USE_CUDA", value)
    assert invoke()[1]["use_cuda"] is meant


@pytest.mark.parametrize(("text", "meant"), [("true", True), ("false", False)])
def test_use_cuda_from_a_file(invoke, tmp_path, text, meant):
    (tmp_path / "c.toml").write_text(f"use-cuda = {text}")
    assert invoke("--config", str(tmp_path / "c.toml"))[1]["use_cuda"] is meant


def test_a_pair_of_flags(invoke, monkeypatch):
    assert invoke("--no-rejoin")[1]["rejoin"] is False
    monkeypatch.setenv("PROG_REJOIN", "false")
    assert invoke()[1]["rejoin"] is False
    assert invoke("--rejoin")[1]["rejoin"] is True


@pytest.mark.parametrize(
    "arguments",
    [
        ["--num-rounds", "0"],
        ["--num-rounds", "100"],
        ["--num-rounds", "x"],
        ["--num-rounds", "3.7"],
        ["--use-cuda", "perhaps"],
        ["--timeout", "-1"],
        ["--timeout", "nan"],
        ["--timeout", "inf"],
        ["--join-window", "open"],
        ["--no-such-option"],
        ["surplus\nargument"],
        ["--config", "/no/such\n/file.toml"],
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(invoke, arguments):
    code, values, _, out, err = invoke(*arguments)
    assert (code, values, out) == (2, None, "")
    assert err.startswith("prog: ")
    assert err.count("\n") == 1


def test_a_bad_environment_variable_is_one_line_and_exit_code_2(invoke, monkeypatch):
    monkeypatch.setenv("PROG_NUM_ROUNDS", "many")
    code, _, _, _, err = invoke()
    assert code == 2
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("unheard-of = 1", "there is no setting 'unheard-of'"),
        ("num_rounds = 1", "there is no setting 'num_rounds'"),
        ("config = 'other'", "there is no setting 'config'"),
        ("[server]\nnum-rounds = 1", "there is no setting 'server'"),
        ("num-rounds = 3.7", "num-rounds is a float, not a int"),
        ("num-rounds = true", "num-rounds is a bool, not a int"),
        ("num-rounds = '3'", "num-rounds is a str, not a int"),
        ("rejoin = 'yes'", "rejoin is a str, not a bool"),
        ("timeout = false", "timeout is a bool, not a float"),
        ("run-name = ['a']", "run-name is a list, not a str"),
        ("num-rounds = ", "is not TOML"),
        ("num-rounds = 500", "num-rounds"),
        ("timeout = inf", "not a finite number"),
    ],
)
def test_a_bad_file_is_one_line_and_exit_code_2(invoke, tmp_path, text, reason):
    (tmp_path / "c.toml").write_text(text)
    code, _, _, _, err = invoke("--config", str(tmp_path / "c.toml"))
    assert code == 2
    assert reason in err
    assert err.count("\n") == 1


def test_a_file_that_is_not_text_is_a_usage_error(tmp_path):
    (tmp_path / "c.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="is not TOML"):
        load_config(tmp_path / "c.toml", TABLE)


def test_what_is_printed_is_read_back(invoke, tmp_path):
    arguments = ["--num-rounds", "9", "--use-cuda=False", "--no-rejoin", "--timeout", "1e-05"]
    name = "Grüße 😀 \x7f \" \\ \t'"
    code, values, _, out, _ = invoke(*arguments, "--run-name", name, "--print-config")
    assert (code, values) == (0, None), "the command itself must not run"
    assert tomllib.loads(out)["run-name"] == name
    (tmp_path / "c.toml").write_text(out, encoding="utf-8")
    assert invoke("--config", str(tmp_path / "c.toml"))[1] == invoke(*arguments, "--run-name", name)[1]


def test_the_servers_defaults_survive_the_round_trip(tmp_path):
    values = defaults(SERVER_SETTINGS)
    (tmp_path / "c.toml").write_text(print_config(values, SERVER_SETTINGS))
    assert values | load_config(tmp_path / "c.toml", SERVER_SETTINGS) == values


def test_exit_codes_and_errors_of_the_command(invoke):
    def fail():
        raise FlserverError("the disk is full")

    assert invoke(action=lambda: 3)[0] == 3
    code, _, _, _, err = invoke(action=fail)
    assert (code, err) == (1, "prog: the disk is full\n")


def test_ctrl_c_before_anything_has_begun_is_one_line_and_exit_code_3(capsys: pytest.CaptureFixture[str]) -> None:
    @click.command("slow")
    def slow() -> None:
        raise KeyboardInterrupt

    assert run(slow, "SLOW", []) == 3
    assert capsys.readouterr().err.strip() == "slow: interrupted"


@pytest.mark.parametrize(
    ("written", "meant"), [("0.5", 0.5), ("1", 1.0), ("cap:0.50", "cap:0.5"), ("cap:1e-3", "cap:0.001")]
)
def test_a_share_is_a_number_or_a_cap(invoke, tmp_path, monkeypatch, written, meant):
    assert invoke("--weight", written)[1]["weight"] == meant
    monkeypatch.setenv("PROG_WEIGHT", written)
    assert invoke()[1]["weight"] == meant
    monkeypatch.delenv("PROG_WEIGHT")
    config = tmp_path / "prog.toml"
    config.write_text(print_config(defaults(TABLE) | {"weight": meant}, TABLE))
    assert invoke("--config", str(config))[1]["weight"] == meant


@pytest.mark.parametrize("written", ["0", "1.1", "cap:0", "cap:1.1", "cap:", "cap:nan", "nan", "half", "Cap:0.5"])
def test_what_is_no_share_is_refused(invoke, written):
    code, values, _, _, err = invoke("--weight", written)
    assert (code, values) == (2, None)
    assert "--weight" in err


def test_the_policy_of_a_cap():
    for value, meant in ((1.0, (1.0, False)), ("cap:0.25", (0.25, True)), (0.5, (0.5, False))):
        rounds = server_settings({"max_weight_share": value}).rounds
        assert (rounds.max_weight_share, rounds.caps_weight) == meant


def test_how_many_rounds_updates_stay_needs_updates_that_are_kept() -> None:
    with pytest.raises(UsageError, match="--keep-updates-rounds 3 needs --keep-updates"):
        server_settings({"keep_updates_rounds": 3})
    kept = server_settings({"keep_updates": True, "keep_updates_rounds": 3}).store
    assert (kept.keep_updates, kept.keep_updates_rounds) == (True, 3)
    assert server_settings({}).store.keep_updates is False


def test_until_when_a_run_is_retained_is_a_date():
    assert server_settings({"retain_until": "2031-12-31"}).values["retain_until"] == "2031-12-31"
    with pytest.raises(UsageError, match="--retain-until soon: no date, such as 2026-01-31"):
        server_settings({"retain_until": "soon"})
