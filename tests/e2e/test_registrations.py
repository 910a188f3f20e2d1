"""Registrations as trainers in the field write them: taken as meant, on record as sent; or refused, and told why."""

import json

from tests.e2e.conftest import Start
from tests.e2e.harness import FAST, connect, receive, send

TAKEN = {
    "NaN where nobody asks": ('"id": 1, "data_size": 10, "last_loss": NaN', "1", 10),
    "Infinity in a list of one's own": ('"id": 2, "data_size": 11, "history": [0.5, -Infinity, Infinity]', "2", 11),
    "NaN in what it tells of itself": ('"id": 3, "data_size": 12, "info": {"loss": NaN}', "3", 12),
    "a float": ('"id": 4, "data_size": 10.0', "4", 10),
    "a float with an exponent": ('"id": 5, "data_size": 1.4e3', "5", 1400),
    "a number as a text": ('"id": "6", "data_size": 10', "6", 10),
    "all at once": ('"id": "7", "data_size": 1e1, "a": NaN, "b": {"c": [Infinity]}', "7", 10),
}
REFUSED = {
    "-1": "data_size -1 is not an integer from 1 to 536870911",
    "1.5": "data_size 1.5 is not an integer from 1 to 536870911",
    "true": "data_size True is not an integer from 1 to 536870911",
    '"100"': "data_size '100', a text, is not an integer from 1 to 536870911",
    "NaN": "data_size nan is not an integer from 1 to 536870911",
    "0.0": "data_size 0.0 is not an integer from 1 to 536870911",
}


def test_registrations_of_the_field(start: Start) -> None:
    server = start("--num-rounds", "1", "--min-clients", "100", *FAST)
    answers: dict[str, dict[str, str]] = {}
    bodies = {what: '{"header": "<METADATA>", ' + fields + "}" for what, (fields, _, _) in TAKEN.items()}
    bodies |= {size: f'{{"header": "<METADATA>", "id": 50, "data_size": {size}}}' for size in REFUSED}
    connections = []
    try:
        for what, body in bodies.items():
            connections.append(connect(server.port))
            send(connections[-1], body.encode())
            answers[what] = json.loads(receive(connections[-1]))
    finally:
        for connection in connections:
            connection.close()
    assert server.terminate() == 3

    assert {what: answers[what]["header"] for what in TAKEN} == dict.fromkeys(TAKEN, "<SUCCESS>")
    clients = server.sql("SELECT client_id, data_size FROM v1_clients ORDER BY client_id")
    assert clients == [(client_id, size) for _, client_id, size in TAKEN.values()]
    on_record = dict(server.sql("SELECT client_id, metadata FROM v1_clients"))
    assert on_record["1"] == '{"data_size":10,"id":1,"last_loss":"NaN"}'
    assert on_record["2"] == '{"data_size":11,"history":[0.5,"-Infinity","Infinity"],"id":2}'
    assert on_record["4"] == '{"data_size":10.0,"id":4}'
    assert on_record["6"] == '{"data_size":10,"id":"6"}'
    assert on_record["7"] == '{"a":"NaN","b":{"c":["Infinity"]},"data_size":10.0,"id":"7"}'
    assert server.sql("SELECT info FROM v1_clients WHERE client_id = '3'") == [('{"loss":"NaN"}',)]

    assert {what: answers[what]["msg"] for what in REFUSED} == REFUSED
    reasons = server.sql("SELECT reason FROM v1_messages WHERE outcome = 'refused' ORDER BY message_id")
    assert reasons == [(reason,) for reason in REFUSED.values()]
