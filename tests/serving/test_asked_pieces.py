"""Style, density, loudness and length over HTTP: what the model's state carries, and what is refused in a sentence."""

import json

import numpy as np
import pytest

from music import midi
from music.errors import SettingError
from music.generation import Generator, Settings
from serving import create_app
from tests.support.fakes import CARD, CONTROLS, AskedBackend, ScriptedBackend, melody


@pytest.fixture
def backend():
    return AskedBackend(melody(300))


@pytest.fixture
def client(backend):
    return create_app({}, backend).test_client()


SEED = midi.write(melody(8))  # its last note begins at 1.75 s


@pytest.mark.parametrize(
    "query, asked",
    [
        ("", [0, 0, 0, 0]),
        ("&style=chopin", [2, 0, 0, 0]),
        ("&density=9&loudness=45.5", [0, 3, 1, 0]),
        ("&seconds=60", [0, 0, 0, 1 + 5585]),
        ("&style=&density=&loudness=&seconds=", [0, 0, 0, 0]),
    ],
)
def test_what_is_asked_is_in_the_models_state(client, backend, query, asked):
    reply = client.post(f"/generate?notes=4{query}", data=SEED, headers={"Content-Type": "audio/midi"})
    assert reply.status_code == 200
    np.testing.assert_array_equal(backend.asked[0], asked)


def test_a_length_in_seconds_is_not_cut_at_the_usual_number_of_notes(client):
    notes = [client.post(f"/generate?format=json{query}").json["notes"] for query in ("", "&seconds=60", "&notes=5")]
    assert [len(each) for each in notes] == [256, 300, 5]


def test_a_version_that_comes_in_the_middle_is_asked_by_its_own_classes(backend):
    stream = Generator(backend).stream(melody(8), Settings(40, style="chopin", seconds=60))
    next(stream)
    backend.version, backend.card = 2, backend.card | {"controls": CONTROLS | {"styles": ["Bach", *CONTROLS["styles"]]}}
    assert sum(len(chunk.notes) for chunk in stream) == 39
    assert [asked[0] for asked in backend.asked] == [2, 3, 3, 3] and backend.asked[0][3] == 1 + 5585


def test_a_version_without_controls_that_comes_in_the_middle_says_so(backend):
    stream = Generator(backend).stream(melody(8), Settings(40, style="chopin"))
    next(stream)
    backend.version, backend.card = 2, CARD
    with pytest.raises(SettingError, match="style: the model toy was trained without controls"):
        list(stream)


@pytest.mark.parametrize("query", ["", "&seed_start=1250", "&seed_start=1250&from_start=true"])
def test_the_end_of_a_long_seeds_continuation_counts_from_the_beginning_of_its_file(client, backend, query):
    seed = midi.write(melody(5001))  # its last note begins at 1,250 s
    reply = client.post(f"/generate?notes=4&seconds=1260{query}", data=seed, headers={"Content-Type": "audio/midi"})
    assert reply.status_code == 200
    np.testing.assert_array_equal(backend.asked[0], [0, 0, 0, 761])


@pytest.mark.parametrize(
    "query, detail",
    [
        ("style=Elgar", "style: expected one of Claude Debussy, Frédéric Chopin; got 'Elgar'"),
        ("density=0.5", "density: expected 1 to 10, got 0.5"),
        ("density=many", "density: expected a number above 0 to 100, got 'many'"),
        ("loudness=127", "loudness: expected 40 to 80, got 127"),
        ("seconds=1.5", "seconds: expected more than 1.8, which the seed lasts; got 1.5"),
        ("seconds=3601", "seconds: expected a number above 0 to 3600, got '3601'"),
        ("seconds=0", "seconds: expected a number above 0 to 3600, got '0'"),
    ],
)
@pytest.mark.parametrize("format", ["mid", "ndjson"])
def test_what_this_model_cannot_do_is_422(client, query, detail, format):
    url = f"/generate?format={format}&{query}"
    reply = client.post(url, data=SEED, headers={"Content-Type": "audio/midi"})
    assert (reply.status_code, reply.json["detail"]) == (422, detail)


def test_a_model_without_controls_says_so():
    client = create_app({}, ScriptedBackend(melody(9))).test_client()
    reply = client.post("/generate?style=Chopin&seconds=9")
    name = CARD["recipe"]
    detail = f"style, seconds: the model {name} was trained without controls; leave them out"
    assert (reply.status_code, reply.json["detail"]) == (422, detail)


def test_the_card_lists_what_can_be_asked(client):
    assert client.get("/model").json["card"]["controls"] == CONTROLS


def test_the_contract_has_them(client):
    operation = json.loads(client.get("/openapi.json").data)["paths"]["/generate"]["post"]
    assert {"style", "density", "loudness", "seconds"} <= {each["name"] for each in operation["parameters"]}
