"""What is typed after --db."""

from pathlib import Path

import pytest

from flserver.errors import UsageError
from flserver.settings import SERVER_SETTINGS, server_settings
from flserver.settings.options import print_config
from flserver.settings.places import Address, checkpoints_beside, name_of, place_of, typed_anywhere, without_its_place

SECRET = "tr0ub4dor"


@pytest.mark.parametrize("typed", ["runs.sqlite", "/a/runs.sqlite", "postgresql", "postgres/runs", "./service=x"])
def test_what_is_no_url_is_a_file(typed: str) -> None:
    assert place_of(typed) == Path(typed)


@pytest.mark.parametrize(
    "typed",
    [
        *("postgresql://fl@db.example:5432/runs", "postgres:///runs", "postgresql://", "service=fl"),
        *("postgresql://h1:5432,h2:5433/runs", "postgresql://fl@[::1]:5432/runs?sslmode=verify-full"),
        *("postgresql:///runs?host=/run/postgresql&user=fl", "postgresql://%2Frun%2Fpostgresql/runs"),
    ],
)
def test_a_url_is_shown_as_it_was_typed(typed: str) -> None:
    place = place_of(typed)
    assert isinstance(place, Address)
    assert str(place) == typed_anywhere(place) == typed


@pytest.mark.parametrize(
    "typed",
    [
        *(f"postgresql://fl:{SECRET}@db/runs", f"postgres://fl:@db/runs?password={SECRET}"),
        *(f"postgresql://db/runs?password={SECRET}", f"postgresql://db/runs?sslpassword={SECRET}"),
        *(f"postgresql://db/runs?pass%77ord={SECRET}", f"postgresql://fl:{SECRET}/x@db/runs"),
        *(f"postgresql://fl:{SECRET}/x", f"postgresql://fl:{SECRET}#x@db/runs", f"service=fl password={SECRET}"),
        *(f"postgresql://fl:{SECRET}?x@db/runs", f"postgresql://[{SECRET}/runs"),
        *(f"host=localhost password={SECRET} dbname=x", f"dbname=x PASSWORD = '{SECRET}'"),
        *(f"postgresql+psycopg://fl:{SECRET}@db/runs", f"POSTGRESQL://fl:{SECRET}@db/runs", f"postgresql:/{SECRET}"),
        *(f"postgresql://db/runs?a=1;password={SECRET}", f"postgresql://db/runs?scram_client_key={SECRET}"),
        *(f"postgresql://fl:1234?{SECRET}@db/runs", f"postgresql://db/runs?sslmode=require&key={SECRET}"),
    ],
)
def test_a_url_with_a_password_is_refused_and_not_repeated(typed: str) -> None:
    with pytest.raises(UsageError) as refused:
        place_of(typed)
    assert SECRET not in str(refused.value)


def test_a_password_is_not_printed_with_the_settings() -> None:
    with pytest.raises(UsageError) as refused:
        print_config({"db": f"postgresql://fl:{SECRET}@db/runs"}, SERVER_SETTINGS)
    assert SECRET not in str(refused.value)


def test_nothing_is_no_place() -> None:
    with pytest.raises(UsageError, match="--db: there is no name"):
        server_settings({"db": ""})


def test_models_lie_beside_a_file_and_nowhere_beside_a_url() -> None:
    assert checkpoints_beside(Path("a/runs.sqlite")) == Path("a/runs.sqlite.checkpoints")
    with pytest.raises(UsageError, match="--checkpoint-dir has to say"):
        server_settings({"db": "postgresql://db/runs"})
    assert server_settings({"db": "postgresql://db/runs", "checkpoint_dir": "m"}).store.checkpoint_dir == Path("m")
    assert server_settings({"db": "postgresql://db/runs", "resume": True}).store.db == Address("postgresql://db/runs")


def test_a_place_is_called_by_its_name() -> None:
    assert name_of(Path("/a/runs.sqlite")) == "runs.sqlite"
    assert name_of(Address("postgresql://fl@db/runs")) == "runs"
    assert name_of(Address("service=fl")) == "service=fl"


def test_what_is_typed_for_it_can_leave_out_where_it_is() -> None:
    shown = {
        "/home/ada/night runs.sqlite": "PATH/TO/night runs.sqlite",
        "postgresql://fl@10.0.0.7:5432/runs?sslmode=require": "postgresql://USER@HOST/runs",
        "postgres:///runs": "postgresql://USER@HOST/runs",
        "service=fl": "service=fl",
    }
    assert {typed: without_its_place(place_of(typed)) for typed in shown} == shown
