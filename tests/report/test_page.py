"""The page: what stands on it, and that what somebody chose is text on it and nothing else."""

import base64
import hashlib
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from flclient.cli import TOLD
from flserver.record.comparison import compare
from flserver.report import tables
from flserver.report.facts import NUMBERS_TOLD
from flserver.report.page import TEMPLATES, page
from flserver.store.reader import Reader
from flserver.store.schema import ensure_head
from flserver.store.snapshot import snapshot
from tests import facts
from tests.report.conftest import HOSTILE, NASTY, read
from tests.store import story

VOID = {"meta", "link", "br"}
SECTIONS = (
    "Summary",
    "Settings",
    "Processes, and who operated them",
    "Accuracy and loss",
    "Time",
    "Clients by rounds",
    "Update norms",
    "Contributions by weight",
    "Drop-outs and refusals",
    "Checkpoints and digests",
    "How to verify this",
    "What is not known",
)


class Parsed(HTMLParser):
    """A page's elements and text, as a browser would have them; every element that is opened is closed in turn."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[tuple[str, str]] = []
        self.open: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append((self.open[-1] if self.open else "", data))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def texts(self, tag: str) -> list[str]:
        return [data for name, data in self.text if name == tag and data.strip()]


@pytest.fixture(scope="session")
def parsed(eventful_page: str) -> Parsed:
    return Parsed(eventful_page)


def test_the_sections_are_there_in_order_under_one_heading(parsed: Parsed) -> None:
    headings = [tag for tag, _ in parsed.elements if re.fullmatch("h[1-6]", tag)]
    assert headings.count("h1") == 1
    assert all(int(after[1]) <= int(before[1]) + 1 for before, after in pairwise(headings))
    assert tuple(parsed.texts("h2")) == SECTIONS
    ids = {attributes["id"] for _, attributes in parsed.elements if "id" in attributes}
    assert {link["href"] for link in parsed.all("a")} <= {f"#{target}" for target in ids}


def test_every_id_is_there_once_and_every_reference_leads_to_one(eventful_page: str, parsed: Parsed) -> None:
    ids = [attributes["id"] for _, attributes in parsed.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    named = re.findall(r'(?:href="#|url\(#|labelledby=")([^")]+)', eventful_page)
    assert set(named) <= set(ids)
    assert len(named) > 20


def test_every_picture_has_a_name_and_a_table_below(parsed: Parsed) -> None:
    captions = {attributes["id"] for attributes in parsed.all("figcaption")}
    pictures = [attributes for attributes in parsed.all("svg") if attributes.get("aria-hidden") != "true"]
    assert len(pictures) == 7
    assert {picture["aria-labelledby"] for picture in pictures} == captions
    assert {picture["role"] for picture in pictures} == {"img"}
    said = parsed.texts("caption")
    for wanted in ("by round", "by client", "Seconds by attempt", "Update norms by round", "Weights by client"):
        assert any(wanted in caption for caption in said), wanted


def test_every_header_says_of_what(parsed: Parsed) -> None:
    assert {attributes.get("scope") for attributes in parsed.all("th")} == {"col", "row"}
    assert len(parsed.all("table")) == len(parsed.texts("caption")) > 15


def test_the_policy_lets_only_this_style_in(eventful_page: str, parsed: Parsed) -> None:
    (policy,) = [meta["content"] for meta in parsed.all("meta") if meta.get("http-equiv") == "Content-Security-Policy"]
    style = (TEMPLATES / "report.css").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert policy is not None
    assert policy.startswith(f"default-src 'none'; style-src 'sha256-{digest}';")
    assert f"<style>{style}</style>" in eventful_page
    assert parsed.all("script") == []
    assert [attributes for _, attributes in parsed.elements if "style" in attributes] == []
    assert not any(key.startswith("on") for _, attributes in parsed.elements for key in attributes)


def test_the_same_record_gives_the_same_page(eventful: Path, eventful_page: str) -> None:
    assert page([read(eventful, "night")]) == eventful_page


def test_it_says_what_the_record_says(eventful_page: str, parsed: Parsed) -> None:
    text = " ".join(data for _, data in parsed.text)
    assert "Of 6 updates that came, 2 were accepted" in text
    assert "An attempt" not in text
    assert "flserver --db PATH/TO/runs.sqlite verify" in text
    assert "wait is waiting for updates: training and sending." in text
    assert "(PATH/TO stands for where it is, which is left out here)" in text
    assert "sha256:1" in parsed.texts("code")
    for phrase in ("192.0.2.7", "10.0.0.7", "commonName", "a length of 5 GB"):
        assert phrase not in eventful_page, "personal data, and what peers wrote, are left out"


def test_with_personal_data_it_says_that_too(eventful: Path) -> None:
    found = page([read(eventful, "night", personal=True)])
    for phrase in ("10.0.0.7", "commonName=1", "epochs", "a length of 5 GB", "Registrations, with who they were"):
        assert phrase in found
    assert f"flserver --db {eventful} verify" in found
    assert "PATH/TO" not in found


@pytest.mark.parametrize("personal", [False, True])
def test_whatever_somebody_chose_is_text(hostile: Path, personal: bool) -> None:
    found = page([read(hostile, HOSTILE, personal)])
    made = Parsed(found)
    assert made.all("script") == []
    assert len(made.all("style")) == 1
    assert "1" not in made.texts("b"), "only legends are bold"
    assert "\u202e" not in found, "no mark turns the direction of the rest"
    assert "\\u202e" in found
    assert max(len(data) for tag, data in made.text if tag not in ("style",)) < 5000, "what is long is cut"
    assert NASTY[:20] in " ".join(data for _, data in made.text)
    assert any(HOSTILE in data for data in made.texts("title")), "no mathematics either"


def test_a_run_without_anything_still_has_its_page(recorded_night: Path) -> None:
    made = Parsed(page([read(recorded_night, "plain")]))
    assert tuple(made.texts("h2")) == SECTIONS
    assert list(made.all("svg")) == []
    assert "No client was invited to a round." in made.texts("p")


def test_several_runs_are_beside_each_other(recorded_night: Path, eventful: Path) -> None:
    runs = [read(recorded_night, "night"), read(recorded_night, "plain"), read(eventful, "night")]
    made = Parsed(page(runs))
    assert made.texts("h1") == ["3 runs compared"]
    assert len({head for head in made.texts("th") if head.startswith("night (")}) == 2, "of one name, and told apart"
    text = " ".join(data for _, data in made.text)
    assert "95.0% (round 2)" in text
    assert "90.0% (round 1)" in text
    assert "--num-rounds" in text
    pictures = [attributes for attributes in made.all("svg") if attributes.get("role") == "img"]
    assert [picture["aria-labelledby"] for picture in pictures] == ["compare-accuracy", "compare-loss"]
    assert sum("--db PATH/TO/runs.sqlite report " in command for command in made.texts("code")) == 3


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of one database: ``slow`` and ``fast`` differ in a port and their trainers' learning rate; to ``mute`` none
    told anything."""
    db = tmp_path_factory.mktemp("told") / "runs.sqlite"
    ensure_head(db)
    infos: dict[str, list[dict[str, Any]]] = {
        "slow": [{"learning_rate": 0.01, "epochs": 1, "site": "Lund"}, {"learning_rate": 0.02, "epochs": 1}],
        "fast": [{"learning_rate": 0.1, "epochs": 1, "batch_size": "secret", "site": "Oslo"}],
        "mute": [{}],
    }
    for process, (name, each) in enumerate(infos.items(), 1):
        clients = [str(number) for number in range(len(each))]
        config = {"server_port": 50000 + process, "host": "192.0.2.7" if process == 1 else "::1", "num_rounds": 2}
        events = [facts.run_started(name, name, config=config), facts.server_started(process)]
        for client, info in zip(clients, each, strict=True):
            connection = process * 10 + int(client)
            events += [facts.opened(connection), facts.registered(client, connection, info=info)]
        events += [facts.attempt(1, 1, clients, process_id=process)]
        events += [facts.committed(1, 1, [facts.silent(client) for client in clients], accuracy=0.5)]
        story.write(db, events, run_id=name, process_id=process)
    return db


def compared(db: Path, *runs: str, personal: bool = False) -> tuple[str, Parsed]:
    html = page([read(db, run, personal) for run in runs])
    return " ".join(" ".join(data for _, data in Parsed(html).text).split()), Parsed(html)


def test_of_what_trainers_told_only_flclients_numbers_are_compared(told: Path) -> None:
    text, made = compared(told, "slow", "fast")
    assert "learning_rate 0.01, 0.02 0.1" in text
    assert "epochs" not in made.texts("code"), "it is the same"
    assert "Only the numbers learning_rate, epochs, batch_size, seed and num_clients are shown" in text
    assert not re.search("Lund|Oslo|secret|site", text)
    text, made = compared(told, "slow", "fast", personal=True)
    assert {"learning_rate", "batch_size", "site"} <= set(made.texts("code"))
    assert "site Lund Oslo" in text
    assert "are left out" not in text


def test_where_trainers_told_nothing_the_comparison_says_so(told: Path, recorded_night: Path) -> None:
    assert "Of mute trainers’ own settings are not on record" in compared(told, "slow", "mute")[0]
    assert "They told nothing: trainers’ own settings" in compared(recorded_night, "night", "plain")[0]


def test_flclient_tells_what_is_shown_of_what_was_told() -> None:
    assert set(NUMBERS_TOLD) <= set(TOLD)


def test_settings_of_a_place_are_a_line_and_the_same_are_counted_once(told: Path) -> None:
    text, made = compared(told, "slow", "fast")
    assert "Only where it ran: --host (left out), (left out); --server-port 50001, 50002." in text
    assert len(re.findall(r"\d+ (?:others )?are the same", text)) == 1
    with snapshot(told) as reader:
        (equal,) = {compare(reader, [reader.run("slow"), reader.run("fast")]).equal}
    assert f" {equal} are the same." in text
    headings = [*made.texts("h2"), *made.texts("caption")]
    assert len(headings) == len(set(headings))


def test_a_comparison_is_that_of_the_command(told: Path, tmp_path: Path) -> None:
    db = tmp_path / "runs.sqlite"
    ensure_head(db)
    events = [*story.started(), *story.registered("1", 1), *story.registered("2", 2), facts.attempt(1, 1, ["1"])]
    story.write(db, [*events, facts.committed(1, 1, [facts.silent("1")], accuracy=0.25, seconds=7.0)])
    one, other = read(db, "night"), read(told, "mute")
    one = replace(one, run={**one.run, "server_version": "9.9"})
    made = Parsed(page([one, other]))
    text = " ".join(" ".join(data for _, data in made.text).split())
    assert "clients that registered 2 1 " in text, "not those that were invited, 1 and 1"
    assert "median of a round 7 s 4 s" in text
    assert "last accuracy 25.0% 50.0%" in text
    assert re.search(r"(?<!-)server_version 9\.9 0\.1\.0", text), "no option, and not left out"


def test_what_is_not_known_of_several_runs_is_said_once_and_of_which(told: Path, eventful: Path) -> None:
    text, made = compared(told, "slow", "fast")
    assert made.texts("h2")[-1] == "What is not known"
    assert text.count("What made the difference: the record says what was set and told") == 1
    assert text.count("What data the clients trained on") == 1
    assert "Of slow: Who the clients were: 2 of 2 registrations" in text
    assert "of the same kind" not in text
    runs = [read(told, "slow"), read(told, "fast")]
    otherwise = replace(runs[0], settings={**runs[0].settings, "eval_data": "digits"})
    otherwise = replace(otherwise, run={**otherwise.run, "config": json.dumps(otherwise.settings)})
    assert "Whether their accuracies and losses are of the same kind" in page([otherwise, runs[1]])


COLOUR = re.compile(r"--([\w-]+): (#[0-9a-f]{6})")


def luminance(colour: str) -> float:
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("mode", [0, 1], ids=["light", "dark"])
def test_text_and_marks_stand_out_from_the_page(mode: int) -> None:
    style = (TEMPLATES / "report.css").read_text(encoding="utf-8")
    root = re.findall(r":root \{(.*?)\}", style, re.DOTALL)[mode]
    colours = dict(COLOUR.findall(root))

    def contrast(one: str, other: str) -> float:
        light, dark = sorted((luminance(colours[one]), luminance(colours[other])), reverse=True)
        return (light + 0.05) / (dark + 0.05)

    for name in ("ink", "muted", "link", "one", "two", "three", "six"):  # texts, of 4.5 (WCAG AA)
        assert contrast(name, "paper") >= 4.5, name
        assert contrast(name, "ground") >= 4.5, name
    for name in colours:  # marks, of 3
        if name.startswith("s-") or name in ("four", "five"):
            assert contrast(name, "paper") >= 3, name
            assert contrast(name, "cell") >= 2.9, name


def test_200_clients_in_1000_rounds_are_less_than_5_megabytes(large_page: str) -> None:
    assert len(large_page.encode()) < 4_000_000
    assert large_page.count("<title>") < 2000, "rows say what they are, and not each cell"
    assert "/> <b>accepted 1" in large_page or "accepted 18" in large_page


def test_of_long_tables_the_middle_is_left_out_and_it_is_said_how_to_ask(
    small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "FIRST", 2)
    monkeypatch.setattr(tables, "LAST", 3)
    made = Parsed(page([read(small, "many")]))
    assert any(text.startswith("7 rows in the middle are left out") for text in made.texts("p"))
    (asked,) = {text for text in made.texts("code") if "v1_round_metrics" in text}
    sql = asked.partition('query "')[2].rstrip('"')
    assert len(Reader(small).query(sql)[1]) == 0, "the query runs; nothing was measured beyond the rounds' own numbers"


def test_what_trainers_told_is_on_the_page_and_who_told_otherwise(tmp_path: Path) -> None:
    path = tmp_path / "runs.sqlite"
    ensure_head(path)
    infos: dict[str, list[dict[str, Any]]] = {
        "1": [{"learning_rate": 0.1, "epochs": 8, "site": "Lund"}],
        "2": [{"learning_rate": 0.1, "epochs": 8}, {"learning_rate": 0.01, "epochs": "8</td>"}],
        "3": [{"learning_rate": 0.1, "epochs": 8}],
    }
    events = [*story.started(name="told")]
    for client, told in infos.items():
        for registration, info in enumerate(told, 1):
            connection = 10 * int(client) + registration
            events += [facts.opened(connection), facts.registered(client, connection, registration, info=info)]
    events += [facts.attempt(1, 1, [*infos]), facts.committed(1, 1, [facts.silent(client) for client in infos])]
    story.write(path, events)
    made = page([read(path, "told")])
    assert "0.1: 2 clients (1 and 3); 0.01: 1 client (2)" in made
    assert "8: 2 clients (1 and 3); (left out): 1 client (2)" in made
    assert "Trainers do not tell the same epochs and learning_rate." in made
    assert "What a trainer told otherwise when it registered again" in made
    assert ("Lund" in made, "only the numbers" in made.lower()) == (False, True)
    personal = page([read(path, "told", personal=True)])
    assert "Lund: 1 client (1)" in personal
    assert "nothing: 2 clients (2 and 3)" in personal
    assert "8&lt;/td&gt;: 1 client (2)" in personal


def test_where_trainers_told_nothing_that_is_on_the_page(small: Path, tmp_path: Path) -> None:
    assert "epochs</code></th><td><bdi>8: all 8 that were invited" in page([read(small, "many")])
    path = tmp_path / "runs.sqlite"
    ensure_head(path)
    silent = [facts.opened(1), facts.registered("1", 1, info={}), facts.attempt(1, 1, ["1"])]
    story.write(path, [*story.started(name="mute"), *silent])
    assert "Trainers told nothing: their own settings, such as a learning rate" in page([read(path, "mute")])
