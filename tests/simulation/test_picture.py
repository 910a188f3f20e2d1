"""The README's picture of a fleet: drawn from a record, in the report's colours, and small."""

from pathlib import Path
from xml.etree import ElementTree

from flserver.store.reader import Reader
from flserver.store.schema import ensure_head
from tests import fleet_picture
from tests.store import story


def texts(svg: str) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(svg).iter() if element.tag.endswith("text")]


def test_a_record_is_drawn_with_its_trainers_rounds_and_what_came_of_them(tmp_path: Path) -> None:
    path = tmp_path / "runs.sqlite"
    ensure_head(path)
    story.write(path, story.whole_run())
    reader = Reader(path)
    run_id = reader.run()["run_id"]
    ((accepted,),) = reader.query(
        "SELECT COUNT(*) FROM v1_client_rounds WHERE run_id = :run_id AND decision = 'accepted'", {"run_id": run_id}
    )[1]
    svg = fleet_picture.draw(reader)
    assert f"accepted {accepted:,}" in texts(svg)
    assert "--s-accepted: #" in svg
    assert "var(--s-accepted)" in svg


def test_the_picture_in_the_readme_is_of_a_thousand_trainers_and_small() -> None:
    svg = fleet_picture.DRAWN.read_text(encoding="utf-8")
    title, *_ = texts(svg)
    trainers, rounds = f"{fleet_picture.TRAINERS:,}", fleet_picture.ROUNDS
    assert title == f"{trainers} simulated trainers, from left to right, in {rounds} rounds, from top to bottom"
    assert len(svg.encode()) < 200_000
    assert {"accepted", "rejected", "dropped"} <= {text.split()[0] for text in texts(svg)}
    readme = (fleet_picture.ROOT / "README.md").read_text(encoding="utf-8")
    assert ".github/fleet.svg" in readme
    assert fleet_picture.COMMAND.replace(" --lag-seconds 0.5", "").replace(" --seed 7", "") in readme
