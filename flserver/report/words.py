"""A run in plain words: what it was, and what is not known of it."""

from collections import Counter
from collections.abc import Mapping

from flserver.report.facts import Facts
from flserver.report.troubles import killed
from flserver.report.values import between, duration, listed, moment, of, real, share, size, text
from flserver.store.lock import Unheld

ENDS = {
    "completed": "It is complete",
    "interrupted": "It was interrupted and can be resumed",
    "failed": "It failed",
    "running": "It is not over",
}
UNHELD: Mapping[Unheld, str] = {
    "left": ", and no server has it: it was killed, or lost its power",
    "copy": ", and no server has it as far as this copy tells",
}


def summary(facts: Facts) -> list[str]:
    """Paragraphs: what was trained and how it ended, by whom, how good it is."""
    run = facts.run
    begun = f"{moment(run['started_at'])} UTC"
    made = f"{run['rounds_committed']:,} of {of(run['num_rounds'], 'round')}"
    have = "is" if run["rounds_committed"] == 1 else "are"
    first = (
        f"Run {text(run['name'], 80)} trained {text(run['model'], 120)} with the strategy {text(run['strategy'], 80)}."
    )
    if run["parent_run_id"] is not None:
        first += f" It began with the model of round {run['parent_round']} of run {text(run['parent_run_id'])}."
    lasted = duration(between(run["started_at"], run["ended_at"] or facts.moment.at))
    now = UNHELD[facts.unheld] if facts.unheld else ""
    ending = f"{ENDS.get(run['status'], text(run['status']))}{now}: {made} {have} committed. It began at {begun}"
    ending += f" and ended {lasted} later." if run["ended_at"] else f"; the last event on record is of {lasted} later."
    return [f"{first} {ending}", _by_whom(facts), _how_good(facts)]


def _by_whom(facts: Facts) -> str:
    clients = facts.participation.clients
    if not clients:
        return "No client was ever invited to a round."
    updates = sum(row["n"] for row in facts.updates)
    accepted = sum(row["n"] for row in facts.updates if row["decision"] == "accepted")
    came, went = facts.bytes
    said = f"{of(len(clients), 'client was', 'clients were')} invited, and {_who_answered(facts)}. "
    if not updates:
        said += "No update has come" if facts.run["status"] == "running" else "No update came"
    elif accepted == updates:
        said += f"All {updates:,} updates that came were accepted" if updates > 1 else "1 update came and counted"
    else:
        said += f"Of {of(updates, 'update')} that came, {accepted:,} {'was' if accepted == 1 else 'were'} accepted"
    heaviest = max(clients, key=lambda client: client.row["weight"] or 0)
    made = len([row for row in facts.committed if row["round"]])
    if made and heaviest.row["weight"] and len(clients) > 1:
        part = share(heaviest.row["weight"] / made)
        said += f"; client {text(heaviest.client_id, 60)} weighs most, with {part} of the run"
    who = {text(act["actor"], 60) for act in facts.acts if act["kind"] in ("start", "resume") and act.get("actor")}
    operators = sorted(who)
    said += f". Models sent came to {size(went)}, updates received to {size(came)}."
    count = of(len(facts.processes), "server process", "server processes")
    count += f" and {of(len(facts.nodes), 'ingest node')}" if facts.nodes else ""
    return f"{said} It took {count}" + (f", operated by {listed(operators[:5])}." if operators else ".")


def _who_answered(facts: Facts) -> str:
    invited, answered = len(facts.participation.clients), facts.answered
    if answered == invited:
        return "answered" if invited == 1 else "all answered"
    return f"{answered:,} of them answered" if answered else "none answered" if invited > 1 else "did not answer"


def _how_good(facts: Facts) -> str:
    last, best = facts.last, facts.best
    if last is None:
        return "No round is committed, so there is no model yet."
    if not facts.evaluated:
        return "Its models were not evaluated: there is neither a loss nor an accuracy of their own."
    said = f"The last model, that of round {last['round']}, has {_measured(facts, last['round'])}."
    if best is None:
        return f"{said} No model has a loss or an accuracy that is finite, so none is the best one."
    if best["round"] == last["round"]:
        return f"{said} It is the best one."
    return f"{said} The best one is that of round {best['round']}, with {_measured(facts, best['round'])}."


def _measured(facts: Facts, number: int) -> str:
    accuracy, loss = (facts.measured(name).get(number) for name in ("accuracy", "loss"))
    words = [f"an accuracy of {share(accuracy)}"] if accuracy is not None else []
    words += [f"a loss of {real(loss)}"] if loss is not None else []
    return listed(words) or "no measured quality"


def unknown(facts: Facts) -> list[str]:
    """What the record does not say, a sentence each."""
    said = []
    if facts.run["status"] == "running":
        attempts = [row for row in facts.attempts if row["status"] == "running"]
        open_ones = listed([f"attempt {row['attempt']} of round {row['round']}" for row in attempts])
        said.append(
            f"How it ends: the run was not over at {moment(facts.moment.at)} UTC"
            + (f", and {open_ones} was still open." if attempts else ".")
        )
    identities: Counter[str] = Counter()
    for row in facts.registrations:
        identities[row["identity"]] += row["n"]
    if identities["claimed"]:
        said.append(
            f"Who the clients were: {identities['claimed']:,} of {of(identities.total(), 'registration')} had no "
            "certificate, so that the id is a claim."
        )
    said.append(
        "What data the clients trained on: their numbers of samples, and whatever they measured, are what they said."
    )
    if not facts.evaluated and facts.committed:
        said.append("How good the models are: the server had no evaluation data.")
    if facts.purged:
        said.append(
            f"What was purged: of {of(facts.purged, 'event')} the payload is gone; number, time and digest are there."
        )
    if gone := [row for row in facts.committed if row["checkpoint_deleted_at"] is not None]:
        said.append(
            f"The models of {of(len(gone), 'round')}: their checkpoints were deleted, and the digests are left."
        )
    if facts.strangers:
        said.append("Who each stranger was: those beyond a rate are summed by minute, network and what was wrong.")
    if gone := killed(facts):
        said.append(f"When {of(len(gone), 'server process', 'server processes')} ended: nobody saw it.")
    if any(row["round"] and row["arithmetic"] is None for row in facts.committed):
        said.append("By which arithmetic some rounds were averaged: it is not on record.")
    if not facts.heads:
        said.append(
            "Whether the record as a whole was written anew: its heads are not signed. A head that was noted elsewhere "
            "at the time, or a witness, would tell."
        )
    if not facts.personal:
        said.append(
            "Addresses, certificates, what else clients told of themselves, roster names, and reasons in free text are "
            "on record, and are left out here."
        )
    return said
