"""The front end over a scripted backend: requests in, replies out, and every error with its status."""

import io
import json
import os
import socket
import subprocess
import sys
import threading
from concurrent import futures
from contextlib import ExitStack
from types import SimpleNamespace
from xml.etree import ElementTree

import mido
import numpy as np
import pytest
import requests
from PIL import Image

from infra.demo import __main__ as demo
from music import generation, midi
from music import notes as nt
from music.audio import synthesis
from music.errors import BackendError, DeadlineExceeded, MissingDependency, Overloaded, RecordError, Unavailable
from serving import create_app
from serving.__main__ import run
from serving.api import problems, responses
from serving.api import requests as front
from serving.backends.embedded import find_model
from serving.middleware import api_keys
from serving.middleware.concurrency import ConcurrencyLimit
from serving.middleware.metrics import Metrics
from serving.middleware.rate_limit import Rate
from tests.support import scores
from tests.support.fakes import ENCODING, ScriptedBackend, front_end, melody

SEED = nt.from_tuples([(0.5, 0.9, 60, 70), (0.75, 1.0, 64, 71), (1.0, 2.0, 67, 72)])
SCRIPT = melody(40, pitch=80)  # the script's first note comes at the seed's last onset
MIDI = {"Content-Type": "audio/midi"}
PNG = b"\x89PNG\r\n\x1a\n" + bytes(100)
URL = "/generate?random_seed=7"


@pytest.fixture
def backend():
    return ScriptedBackend(SCRIPT)


@pytest.fixture
def app(backend):
    return create_app({"TIMEOUT": 9}, backend)


@pytest.fixture
def client(app):
    return app.test_client()


def post_seed(client, url=URL, **options):
    return client.post(url, data=midi.write(SEED), headers=MIDI, **options)


def problem(response, status: int) -> str:
    """Check that a reply is a problem of this status, and return its detail."""
    body = json.loads(response.data)
    assert (response.status_code, response.mimetype) == (status, "application/problem+json")
    assert body["status"] == status and body["type"] == "about:blank" and body["title"]
    return body["detail"]


def same(notes, expected, tolerance=1e-9):
    assert notes[["pitch", "velocity"]].tolist() == expected[["pitch", "velocity"]].tolist()
    for name in ("start", "end"):
        np.testing.assert_allclose(notes[name], expected[name], atol=tolerance, rtol=0)


def failing(error, when):
    """An `on_call` that raises once `when(number, signature)` is true."""

    def on_call(number, signature):
        if when(number, signature):
            raise error

    return on_call


# A piece, in each of its forms


def test_a_seed_is_continued_on_its_own_clock(client):
    response = post_seed(client, f"{URL}&notes=4")
    assert response.status_code == 200 and response.mimetype == "audio/midi"
    same(midi.read(response.data), np.concatenate([SEED, nt.shift(SCRIPT[:4], 1.0)]))
    assert response.headers["X-Random-Seed"] == "7"
    assert response.headers["X-Model"] == "toy/1"
    assert response.headers["X-Notes"] == "4"
    assert response.headers["X-Ended"] == "length"
    assert response.headers["Content-Disposition"] == "attachment; filename=toy-1-7.mid"


def test_the_continuation_alone_stays_on_the_seeds_clock(client):
    response = post_seed(client, f"{URL}&notes=4&include_seed=false")
    same(midi.read(response.data), nt.shift(SCRIPT[:4], 1.0))


def test_from_start_the_reply_begins_with_its_first_note(client):
    late = midi.write(nt.shift(SEED, 2.0))
    for query, expected in (
        ("&include_seed=false", SCRIPT[:4]),
        ("", nt.shift(np.concatenate([SEED, nt.shift(SCRIPT[:4], 1.0)]), -0.5)),
    ):
        url = f"{URL}&notes=4&from_start=true{query}"
        same(midi.read(client.post(url, data=late, headers=MIDI).data), expected)
        piece = client.post(f"{url}&format=json", data=late, headers=MIDI).get_json()["notes"]
        assert [note["start"] for note in piece] == expected["start"].tolist()
        assert all(note["step"] >= 0 for note in piece) and piece[-1]["step"] == 0.25
        lines = client.post(f"{url}&format=ndjson", data=late, headers=MIDI).text.splitlines()[1:-1]
        assert [*map(json.loads, lines)] == piece


def test_from_start_sound_and_score_begin_with_the_first_new_note(client, sound):
    hour = midi.write(nt.shift(SEED, 3600.013))  # longer than what is rendered, and not on the beats of its file
    for format in ("wav", "musicxml", "png"):
        url = f"{URL}&notes=4&include_seed=false&format={format}"
        assert client.post(url, data=hour, headers=MIDI).status_code == 422
        alone = client.post(f"{url}&from_start=true", data=hour, headers=MIDI)
        assert alone.status_code == 200 and alone.data == client.post(url).data


def test_from_start_of_a_piece_without_notes_is_an_empty_reply():
    client = create_app(backend=ScriptedBackend(nt.empty())).test_client()
    for query in ("", "&include_seed=false"):
        reply = post_seed(client, f"{URL}&from_start=true&format=json{query}").get_json()
        assert [note["start"] for note in reply["notes"]] == ([] if query else [0.0, 0.25, 0.5])


def test_with_a_pedal_a_midi_file_has_presses_and_the_same_notes():
    broken = nt.from_tuples([(k / 4, 1.0, 60 + 4 * k) for k in range(4)])
    client = create_app(backend=ScriptedBackend(nt.transpose(broken, -12))).test_client()
    seed = midi.write(nt.shift(broken, 0.5))
    plain, pedalled = (client.post(f"{URL}{q}", data=seed, headers=MIDI).data for q in ("", "&pedal=true"))
    assert midi.inspect(plain).pedal_presses == 0 and midi.inspect(pedalled).pedal_presses == 2
    same(midi.read(pedalled), midi.read(plain))
    keys, notes = midi.read(pedalled, pedal=False), midi.read(plain)
    assert (keys["end"] < notes["end"]).sum() >= 4 and (keys["end"] <= notes["end"]).all()


@pytest.mark.parametrize(
    ("query", "part"),
    [
        ("seed_start=0.75", SEED[1:]),
        ("seed_notes=2", SEED[1:]),
        ("seed_notes=9", SEED),
        ("seed_start=0.5&seed_end=0.8&seed_notes=1", nt.from_tuples([(0.75, 0.8, 64, 71)])),
        ("seed_end=0.75", nt.from_tuples([(0.5, 0.75, 60, 70)])),
    ],
)
def test_a_part_of_a_file_is_continued_on_the_files_clock(client, query, part):
    alone = client.post(f"{URL}&notes=4", data=midi.write(part), headers=MIDI).data
    same(midi.read(post_seed(client, f"{URL}&notes=4&{query}").data), midi.read(alone))
    new = post_seed(client, f"{URL}&notes=4&include_seed=false&{query}").data
    same(midi.read(new), nt.shift(SCRIPT[:4], part["start"][-1]))


def test_a_note_at_the_very_end_of_a_part_is_not_in_it(client):
    data = midi.write(nt.from_tuples([(0.3, 0.8, 60), (0.9, 1.5, 62)]))
    reply = client.post(f"{URL}&notes=1&seed_start=0.3&seed_end=0.9&format=json", data=data, headers=MIDI).get_json()
    assert [note["start"] for note in reply["notes"]] == [0.3, 0.3]  # the first new one begins with the seed's last


def test_the_model_reads_only_the_part(backend, client):
    for query, blocks in (("", 2), ("&seed_notes=60", 1), ("&seed_end=10", 1)):
        backend.calls.clear()
        client.post(f"{URL}&notes=1{query}", data=midi.write(melody(100, pitch=30)), headers=MIDI)
        assert [signature for signature, *_ in backend.calls].count("prime") == blocks


def test_a_part_without_notes_is_422(client):
    for query, message in (
        ("seed_start=1.5", "expected a part in which a note begins; the seed has 3, from 0.5 s to 2.0 s"),
        ("seed_start=2&seed_end=1.5", "seed_end: expected more than seed_start, 2, got 1.5"),
    ):
        assert message in problem(post_seed(client, f"{URL}&{query}"), 422)


def waltz_in_d() -> bytes:
    """Build a waltz of 90 quarters a minute that slows down to 60, in D major, then B minor, on 96 ticks a quarter."""
    conductor = mido.MidiTrack([
        mido.MetaMessage("track_name", name="Waltz"),
        mido.MetaMessage("set_tempo", tempo=666_667),
        mido.MetaMessage("time_signature", numerator=3, denominator=4),
        mido.MetaMessage("key_signature", key="D"),
        mido.MetaMessage("set_tempo", tempo=1_000_000, time=6 * 96),
        mido.MetaMessage("key_signature", key="Bm"),
    ])  # fmt: skip
    hands = [mido.MidiTrack([mido.MetaMessage("track_name", name=name)]) for name in ("Right", "Left")]
    hands[0].append(mido.MetaMessage("instrument_name", name="Upright"))
    for k in range(12):
        hands[0] += [mido.Message("note_on", note=74 + k % 5), mido.Message("note_off", note=74 + k % 5, time=96)]
    for k in range(4):
        hands[1] += [mido.Message("note_on", note=38 + k), mido.Message("note_off", note=38 + k, time=3 * 96)]
    file, out = mido.MidiFile(ticks_per_beat=96, tracks=[conductor, *hands]), io.BytesIO()
    file.save(file=out)
    return out.getvalue()


def test_a_midi_reply_keeps_the_tempos_metres_keys_and_names_of_the_seed(client):
    seed = waltz_in_d()
    for query in ("", "&include_seed=false", "&seed_notes=3"):
        reply = client.post(f"{URL}&notes=8{query}", data=seed, headers=MIDI).data
        file = mido.MidiFile(file=io.BytesIO(reply))
        assert file.ticks_per_beat == 96 * 11  # ticks of 1 ms at most, and the seed's own are some of them
        names = [[(m.type, m.name) for m in track if m.type.endswith("_name")] for track in file.tracks]
        assert names == [[("track_name", "Waltz")], [("track_name", "Right, Left"), ("instrument_name", "Upright")]]
        grid, own = midi.grid(reply), midi.grid(seed)
        assert (grid.times, grid.keys) == (own.times, own.keys) and own.keys == [(0, 2, False), (6, 2, True)]
        assert midi.inspect(reply).tempos == midi.inspect(seed).tempos
    plain = client.post(f"{URL}&notes=8&format=json", data=seed, headers=MIDI).get_json()["notes"]
    notes = midi.read(client.post(f"{URL}&notes=8", data=seed, headers=MIDI).data)
    np.testing.assert_allclose(notes["start"], [note["start"] for note in plain], atol=0.0005, rtol=0)
    same(notes[: len(midi.read(seed))], midi.read(seed))


def test_from_start_the_tempo_map_begins_where_the_reply_does(client):
    reply = client.post(f"{URL}&notes=8&include_seed=false&from_start=true", data=waltz_in_d(), headers=MIDI).data
    assert midi.inspect(reply).tempos == [(0.0, 60.0)]
    assert midi.grid(reply).times == [(0, 3, 4)] and midi.grid(reply).keys == [(0, 2, True)]
    same(midi.read(reply), SCRIPT[:8], 0.0005)


def test_a_seed_without_a_grid_gets_the_estimated_beats_where_they_are_asked_for():
    played = nt.stretch(melody(64), 0.83)  # 144.6 quarters a minute, in a file that says 120
    client = create_app(backend=ScriptedBackend(nt.stretch(melody(32, pitch=80), 0.83))).test_client()
    plain, estimated = (
        client.post(f"{URL}&notes=32{query}", data=midi.write(played), headers=MIDI).data
        for query in ("", "&tempo_map=estimate")
    )
    assert midi.inspect(plain).tempos == [(0.0, 120.0)]
    same(midi.read(estimated), midi.read(plain), 0.001)
    grid = midi.grid(estimated)
    beats = np.interp(midi.read(estimated)["start"][:64], grid.seconds, grid.quarters)
    assert np.mean(np.abs(4 * beats - np.rint(4 * beats)) < 0.2) > 0.9 and len(grid.seconds) > 2
    exact = client.post(f"{URL}&tempo_map=estimate", data=waltz_in_d(), headers=MIDI).data
    assert midi.grid(exact).times == [(0, 3, 4)]  # its notes are on the beats of its own file
    assert midi.inspect(client.post("/generate?tempo_map=estimate").data).tempos != [(0.0, 120.0)]


def test_estimated_beats_are_of_half_an_hour_of_music(backend, client):
    late = midi.write(nt.shift(SEED, responses.MOST_SECONDS + 0.013))
    detail = problem(client.post(f"{URL}&tempo_map=estimate", data=late, headers=MIDI), 422)
    assert detail.startswith("tempo_map 'estimate': expected at most 1,800 seconds of music, got 1,802.1;")
    assert not backend.calls
    url = f"{URL}&tempo_map=estimate&include_seed=false&from_start=true"
    assert client.post(url, data=late, headers=MIDI).status_code == 200


def test_a_score_of_an_exact_seed_is_on_its_own_grid_and_goes_on_in_it(client):
    def measures(query=""):
        reply = client.post(f"{URL}&notes=16&format=musicxml{query}", data=waltz_in_d(), headers=MIDI)
        return ElementTree.fromstring(reply.data).find("part").findall("measure")

    written = measures()
    assert written[0].findtext(".//beats") == "3" and written[0].findtext(".//fifths") == "2"
    tempos = [float(sound.get("tempo")) for measure in written for sound in measure.iter("sound") if sound.get("tempo")]
    assert tempos == [pytest.approx(90, abs=0.01), 60]
    assert [sign.findtext("pitch/step") for sign in written[0].findall("note")][:3] == ["D", "E", "E"]  # D, E flat, E
    assert len(written) == 5  # four of the seed; the new notes begin at its last onset and last for four seconds
    alone = measures("&include_seed=false")
    assert alone[0].findtext(".//beats") == "3" and len(alone) == 2


def test_without_a_body_a_new_piece_begins(client):
    response = client.post("/generate")
    same(midi.read(response.data), SCRIPT)
    assert response.headers["X-Ended"] == "final" and response.headers["X-Notes"] == "40"
    assert 0 <= int(response.headers["X-Random-Seed"]) < 2**32


def test_an_absent_random_seed_is_drawn_anew(client):
    assert len({client.post("/generate?notes=1").headers["X-Random-Seed"] for _ in range(5)}) > 1


@pytest.mark.parametrize(
    "kind",
    ["audio/midi", "audio/mid", "audio/x-midi", "audio/x-mid", "audio/sp-midi", "application/x-midi",
     "application/octet-stream", None],
)  # fmt: skip
def test_a_seed_may_be_the_raw_body(client, kind):
    headers = {"Content-Type": kind} if kind else {}
    response = client.post(URL, data=midi.write(SEED), headers=headers)
    assert response.data == post_seed(client).data


def test_a_seed_may_be_a_part_and_parameters_form_fields(client):
    form = {"seed": (io.BytesIO(midi.write(SEED)), "music.mid"), "random_seed": "7", "notes": "5"}
    response = client.post("/generate", data=form)
    assert response.data == post_seed(client, f"{URL}&notes=5").data


def test_what_a_browser_sends_for_an_empty_form_is_a_new_piece(client):
    form = {"seed": (io.BytesIO(), "", "application/octet-stream"), "random_seed": "", "notes": "5", "temperature": ""}
    response = client.post("/generate", data=form)
    assert response.status_code == 200 and response.headers["X-Notes"] == "5"


def test_parameters_may_be_a_plain_form(client):
    assert client.post("/generate", data={"notes": "5"}).headers["X-Notes"] == "5"


def test_json(client):
    response = post_seed(client, f"{URL}&notes=2&format=json")
    assert response.mimetype == "application/json" and response.headers["X-Notes"] == "2"
    assert response.text == (
        '{"model":"toy/1","random_seed":7,"ended":"length","notes":['
        '{"pitch":60,"name":"C4","start":0.5,"end":0.9,"velocity":70,"step":0.0,"duration":0.4,"seed":true},'
        '{"pitch":64,"name":"E4","start":0.75,"end":1.0,"velocity":71,"step":0.25,"duration":0.25,"seed":true},'
        '{"pitch":67,"name":"G4","start":1.0,"end":2.0,"velocity":72,"step":0.25,"duration":1.0,"seed":true},'
        '{"pitch":80,"name":"G#5","start":1.0,"end":1.25,"velocity":60,"step":0.0,"duration":0.25},'
        '{"pitch":81,"name":"A5","start":1.25,"end":1.5,"velocity":61,"step":0.25,"duration":0.25}]}\n'
    )


def test_ndjson(client):
    response = post_seed(client, f"{URL}&notes=1&format=ndjson")
    assert response.mimetype == "application/x-ndjson" and response.headers["X-Model"] == "toy/1"
    assert response.text.splitlines() == [
        '{"model":"toy/1","random_seed":7}',
        '{"pitch":60,"name":"C4","start":0.5,"end":0.9,"velocity":70,"step":0.0,"duration":0.4,"seed":true}',
        '{"pitch":64,"name":"E4","start":0.75,"end":1.0,"velocity":71,"step":0.25,"duration":0.25,"seed":true}',
        '{"pitch":67,"name":"G4","start":1.0,"end":2.0,"velocity":72,"step":0.25,"duration":1.0,"seed":true}',
        '{"pitch":80,"name":"G#5","start":1.0,"end":1.25,"velocity":60,"step":0.0,"duration":0.25}',
        '{"end":"length"}',
    ]


def test_json_and_ndjson_hold_the_same_notes(client):
    for url in (URL, f"{URL}&include_seed=false", f"{URL}&notes=33"):
        lines = [json.loads(line) for line in post_seed(client, f"{url}&format=ndjson").text.splitlines()]
        piece = post_seed(client, f"{url}&format=json").get_json()
        assert lines == [{k: piece[k] for k in ("model", "random_seed")}, *piece["notes"], {"end": piece["ended"]}]


def test_no_note_comes_before_drums_that_outlast_the_piano_and_json_marks_them(client):
    drums = nt.from_tuples([(k / 2, k / 2 + 0.06, 36 + 6 * (k % 2), 100, nt.DRUMS) for k in range(24)])
    band = nt.sort(np.concatenate([SEED, nt.with_program(nt.transpose(SEED, -12), 33), drums]))
    reply = client.post(f"{URL}&notes=4&format=json", data=midi.write(band), headers=MIDI).get_json()["notes"]
    lines = client.post(f"{URL}&notes=4&format=ndjson", data=midi.write(band), headers=MIDI).text.splitlines()
    assert [json.loads(line) for line in lines[1:-1]] == reply
    assert [note["start"] for note in reply if "seed" not in note] == [11.5, 11.75, 12.0, 12.25]
    assert all(note["step"] >= 0 for note in reply)
    assert [note["pitch"] for note in reply if note.get("drum")] == drums["pitch"].tolist()
    assert all("drum" not in note for note in reply if note["pitch"] > 47)


def test_new_notes_have_a_channel_that_no_other_program_uses(client):
    seed = nt.from_tuples([(k, k + 0.9, 60, 80, 6 * k) for k in range(20)])
    response = client.post(f"{URL}&notes=4", data=midi.write(seed), headers=MIDI)
    reply = mido.MidiFile(file=io.BytesIO(response.data))
    new = {message.channel for message in reply if message.type == "note_on" and message.note >= 80}
    changes = [message.program for message in reply if message.type == "program_change" and {message.channel} == new]
    assert len(new) == 1 and changes == [0]
    assert midi.read(response.data)["program"].tolist() == [*range(0, 120, 6), 0, 0, 0, 0]


def test_a_piece_may_end_before_its_first_note():
    client = create_app(backend=ScriptedBackend(nt.empty())).test_client()
    response = client.post("/generate")
    assert response.headers["X-Ended"] == "final" and not len(midi.read(response.data))
    assert [*map(json.loads, client.post(f"{URL}&format=ndjson").text.splitlines())] == [
        {"model": "toy/1", "random_seed": 7}, {"end": "final"}
    ]  # fmt: skip


def test_a_stream_is_sent_note_by_note(backend, client):
    lines = post_seed(create_app({"CHUNK": 1}, backend).test_client(), f"{URL}&format=ndjson", buffered=False).response
    next(lines)
    assert [signature for signature, *_ in backend.calls] == ["describe", "prime", "step"]
    next(lines)
    assert len(backend.calls) == 4


def test_a_stream_that_its_listener_leaves_calls_the_model_no_more(backend, client):
    response = post_seed(client, f"{URL}&format=ndjson")
    next(response.response)
    calls = len(backend.calls)
    response.close()
    assert len(backend.calls) == calls < 8


def test_a_new_version_in_the_middle_of_a_piece_loses_nothing(backend, client):
    expected = post_seed(client, f"{URL}&format=json").get_json()["notes"]

    def replace(number, signature):
        if signature == "generate":
            backend.version = 2

    backend.on_call = replace
    lines = [json.loads(line) for line in post_seed(client, f"{URL}&format=ndjson").text.splitlines()]
    assert [line for line in lines if "pitch" in line] == expected
    assert [line["model"] for line in lines if "model" in line] == ["toy/1", "toy/2"]
    backend.version = 1
    assert post_seed(client, f"{URL}&format=json").get_json()["model"] == "toy/1, toy/2"


def test_the_backend_is_given_the_timeout(backend, client):
    client.post(URL)
    assert {timeout for _, _, timeout in backend.calls} == {9}


# Sound and pictures


@pytest.fixture
def sound():
    """Tests that need FluidSynth do without where it is missing; that it is missing is tested everywhere."""
    try:
        synthesis.check()
    except MissingDependency as error:
        pytest.skip(str(error))


def is_a_file(response, kind, name):
    assert (response.status_code, response.headers["Content-Type"]) == (200, kind)
    assert response.headers["Content-Disposition"] == f"attachment; filename={name}"
    assert response.headers["X-Random-Seed"] == "7" and response.headers["X-Model"] == "toy/1"
    assert response.headers["X-Ended"] in ("final", "length") and int(response.headers["X-Notes"]) > 0


@pytest.mark.parametrize(("format", "kind"), [("wav", "audio/wav"), ("mp3", "audio/mpeg")])
def test_a_continuation_may_be_played(client, sound, format, kind):
    import soundfile

    response = post_seed(client, f"{URL}&notes=8&format={format}")
    is_a_file(response, kind, f"toy-1-7.{format}")
    assert response.headers["X-Notes"] == "8" and int(response.headers["Content-Length"]) == len(response.data)
    samples, rate = soundfile.read(io.BytesIO(response.data), dtype="float32")
    seconds = nt.length(midi.read(post_seed(client, f"{URL}&notes=8").data))
    assert seconds - 0.1 < len(samples) / rate < seconds + synthesis.TAIL + 0.1
    assert 0.1 < np.abs(samples).max() < 1
    by_accept = client.post(f"{URL}&notes=8", data=midi.write(SEED), headers={**MIDI, "Accept": kind})
    assert by_accept.data == response.data


def test_what_is_played_is_what_the_midi_says(client, sound):
    for parameters in ("", "&include_seed=false", "&program=40"):
        written, file = midi.read(post_seed(client, f"{URL}&notes=8{parameters}").data), io.BytesIO()
        synthesis.write(written, file, "wav")
        assert post_seed(client, f"{URL}&notes=8&format=wav{parameters}").data == file.getvalue()


def test_a_piece_that_ended_before_its_first_note_may_be_played_too(sound):
    client = create_app(backend=ScriptedBackend(nt.empty())).test_client()
    for format in ("wav", "mp3", "png"):
        response = client.post(f"/generate?format={format}")
        assert response.status_code == 200 and response.headers["X-Notes"] == "0" and response.data


def test_a_program_is_the_instrument_of_seed_and_continuation(client):
    seed = nt.from_tuples([(0.5, 0.9, 60, 70, 6), (0.75, 1.0, 38, 71, nt.DRUMS)])

    def programs(query):
        return set(midi.read(client.post(f"{URL}&notes=4{query}", data=midi.write(seed), headers=MIDI).data)["program"])

    assert programs("") == {6, nt.DRUMS, 0}
    assert programs("&program=40") == {40, nt.DRUMS}
    assert programs("&program=40&include_seed=false") == {40}
    plain, violin = (post_seed(client, f"{URL}&format=json{query}").data for query in ("", "&program=40"))
    assert plain == violin  # JSON names no instruments
    score = ElementTree.fromstring(post_seed(client, f"{URL}&notes=4&format=musicxml&program=40").data)
    assert score.findtext(".//instrument-name") == "Violin" and score.findtext(".//midi-program") == "41"  # from 1 on


def test_a_picture_has_the_seed_in_another_colour(client):
    both = post_seed(client, f"{URL}&format=png")
    is_a_file(both, "image/png", "toy-1-7.png")
    alone = post_seed(client, f"{URL}&format=png&include_seed=false")
    shades = []
    for response in (both, alone):
        pixels = np.asarray(Image.open(io.BytesIO(response.data)).convert("HSV")).reshape(-1, 3)
        hues, counts = np.unique(pixels[pixels[:, 1] > 120][:, 0] // 16, return_counts=True)
        shades.append({int(hue) for hue, count in zip(hues, counts, strict=True) if count > 500})
    (orange,) = shades[0] - {8}  # blue is for the seed
    assert len(shades[0]) == 2 and orange not in shades[1]


def test_a_score_has_all_the_notes(client):
    response = post_seed(client, f"{URL}&notes=5&format=musicxml")
    is_a_file(response, "application/vnd.recordare.musicxml+xml", "toy-1-7.musicxml")
    signs = [sign for sign in ElementTree.fromstring(response.data).iter("note") if sign.find("pitch") is not None]
    begun = [sign for sign in signs if "stop" not in [tie.get("type") for tie in sign.iter("tie")]]
    assert len(begun) == len(SEED) + 5 and {"C", "E", "G"} < {sign.findtext("pitch/step") for sign in begun}
    assert post_seed(client, f"{URL}&notes=5&format=musicxml").data == response.data


def test_a_score_is_of_so_many_notes(client, monkeypatch):
    monkeypatch.setattr(responses, "MOST_SCORED", 7)
    assert "at most 7 notes, got 8" in problem(post_seed(client, f"{URL}&notes=5&format=musicxml"), 422)


@pytest.mark.parametrize("format", ["wav", "png", "musicxml"])
def test_what_is_not_midi_is_bounded(backend, client, sound, format):
    late = nt.shift(SEED, responses.MOST_SECONDS)
    for seed, calls in ((late, 0), (nt.shift(late, -2.5), 4)):  # before and behind what the model makes
        response = client.post(f"{URL}&format={format}", data=midi.write(seed), headers=MIDI)
        assert "expected at most 1,800 seconds of music, got 1,80" in problem(response, 422)
        assert len(backend.calls) >= calls and bool(backend.calls) == bool(calls)
    barely = nt.from_tuples([(0.0, responses.MOST_SECONDS + 0.01, 60)])
    response = client.post(f"{URL}&format={format}", data=midi.write(barely), headers=MIDI)
    assert "got 1,800.1; only" in problem(response, 422)
    assert client.post(URL, data=midi.write(late), headers=MIDI).status_code == 200


def test_what_is_too_long_is_reported_to_a_tenth_of_a_second(client, sound):
    for end, shown in ((1800.083, "1,800.1"), (1804.2, "1,804.2"), (1800.001, "1,800.1")):
        seed = nt.from_tuples([(0, 1, 60), (1799, end, 62)])
        detail = problem(client.post(f"{URL}&format=wav", data=midi.write(seed), headers=MIDI), 422)
        assert f"at most 1,800 seconds of music, got {shown};" in detail


def test_notes_that_an_instrument_does_not_have_are_422(client, sound):
    url = f"{URL}&notes=4&include_seed=false&format=wav&program=67"  # a saxophone, and notes above its own
    assert "has no sound for any of the notes" in problem(post_seed(client, url), 422)


def test_without_fluidsynth_sound_is_406_and_says_what_installs_it(backend, client, monkeypatch):
    monkeypatch.setitem(sys.modules, "fluidsynth", None)  # what import takes for "not there"
    synthesis._fluidsynth.cache_clear()
    for format in ("wav", "mp3"):
        assert "`pip install '.[audio]'`" in problem(client.post(f"/generate?format={format}"), 406)
    assert not backend.calls
    assert client.post("/generate").status_code == 200


def test_without_an_extra_its_format_is_406_and_names_it(backend, client, monkeypatch):
    for name in ("matplotlib", "music21"):
        monkeypatch.setitem(sys.modules, name, None)  # what import takes for "not there"
    detail = problem(client.post("/generate?format=png"), 406)
    assert detail == "format 'png' needs matplotlib: `pip install '.[plots]'` on the server brings it"
    assert "music21: `pip install '.[score]'`" in problem(client.post("/generate?format=musicxml"), 406)
    assert not backend.calls


def test_a_place_is_held_until_the_sound_is_sent(backend, sound):
    client = create_app({"MAX_GENERATIONS": 1}, backend).test_client()
    response = client.post(f"{URL}&notes=3&format=wav")
    assert client.post("/generate").status_code == 429
    response.close()
    assert client.post("/generate").status_code == 200


# The format, by parameter and by Accept


def test_every_format_that_may_be_asked_for_is_made():
    assert front.FORMATS.keys() == responses._MAKERS.keys()


@pytest.mark.parametrize(
    ("accept", "mimetype"),
    [
        ("*/*", "audio/midi"),
        ("text/html,application/xhtml+xml,*/*;q=0.8", "audio/midi"),
        ("audio/*", "audio/midi"),
        ("audio/x-midi", "audio/midi"),
        ("application/json", "application/json"),
        ("application/x-ndjson", "application/x-ndjson"),
        ("audio/midi;q=0.5, application/json", "application/json"),
        ("text/html,application/xml;q=0.9,image/png,image/svg+xml,*/*;q=0.8", "audio/midi"),  # Firefox
        ("image/png", "image/png"),
    ],
)
def test_accept_chooses_the_format(client, accept, mimetype):
    assert client.post("/generate?notes=1", headers={"Accept": accept}).mimetype == mimetype


def test_the_parameter_goes_before_accept(client):
    response = client.post("/generate?notes=1&format=JSON", headers={"Accept": "audio/midi"})
    assert response.mimetype == "application/json"


def test_a_format_that_is_not_made_is_406_and_names_those_that_are(client):
    for format in ("ogg", "cassette", "MP4"):
        detail = problem(client.post(f"/generate?format={format}"), 406)
        assert format in detail and "mid, json, ndjson, wav, mp3, png, musicxml" in detail
    assert "audio/midi" in problem(client.post("/generate", headers={"Accept": "image/gif"}), 406)


# What a listener may get wrong


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("notes=-1", "notes: expected a whole number from 1 to 4096, got '-1'"),
        ("notes=0", "got '0'"),
        ("notes=4097", "got '4097'"),
        ("notes=many", "got 'many'"),
        ("notes=1.5", "got '1.5'"),
        ("notes=" + "9" * 5000, "notes: expected"),
        ("temperature=nan", "temperature: expected a number from 0 to 2, got 'nan'"),
        ("temperature=inf", "got 'inf'"),
        ("temperature=2.01", "got '2.01'"),
        ("temperature=-0.1", "got '-0.1'"),
        ("top_p=0", "top_p: expected a number above 0 to 1, got '0'"),
        ("top_p=1.1", "got '1.1'"),
        ("min_p=1", "min_p: expected a number from 0 and below 1, got '1'"),
        ("min_p=nan", "got 'nan'"),
        ("random_seed=4294967296", "random_seed: expected a whole number from 0 to 4294967295"),
        ("random_seed=-1", "got '-1'"),
        ("program=128", "program: expected a whole number from 0 to 127, got '128'"),
        ("program=-1", "got '-1'"),
        ("program=violin", "got 'violin'"),
        ("include_seed=perhaps", "include_seed: expected true or false, got 'perhaps'"),
        ("seed_start=-1", "seed_start: expected a number from 0 to 86400, got '-1'"),
        ("seed_end=0", "seed_end: expected a number above 0 to 86400, got '0'"),
        ("seed_notes=0", "seed_notes: expected a whole number from 1 to 30000, got '0'"),
        ("seed_notes=4", "seed_notes: expected a seed as well, to take a part of, got none"),
        ("tempo_map=mine", "tempo_map: expected seed or estimate, got 'mine'"),
        ("temprature=1", "unknown parameter 'temprature', did you mean 'temperature'?"),
        ("xyzzy=1", "unknown parameter 'xyzzy'. Expected notes, temperature, top_p, min_p, random_seed"),
        ("seed=5", "unknown parameter 'seed'"),
        ("notes=1&notes=2", "notes is given 2 times, expected once"),
    ],
)
def test_a_wrong_parameter_is_422_and_says_what_was_expected(client, backend, query, message):
    assert message in problem(client.post(f"/generate?{query}"), 422)
    assert not backend.calls


@pytest.mark.parametrize(
    "query",
    ["notes=1", "temperature=0&notes=1", "temperature=2&notes=1", "top_p=1&min_p=0&notes=1", "min_p=0.99&notes=1",
     "program=0&notes=1", "program=127&notes=1", "random_seed=0&notes=1", "random_seed=4294967295&notes=1",
     "include_seed=0&notes=1", "notes=4096"],
)  # fmt: skip
def test_the_edges_of_the_ranges_are_inside(client, query):
    assert client.post(f"/generate?{query}").status_code == 200


def test_a_seed_that_is_not_midi_is_400(client):
    assert "not a MIDI file" in problem(client.post("/generate", data=PNG, headers=MIDI), 400)
    assert "not a MIDI file" in problem(client.post("/generate", data={"seed": (io.BytesIO(PNG), "a.png")}), 400)
    no_clock = midi.write(SEED)[:12] + bytes(2) + midi.write(SEED)[14:]
    assert "damaged MIDI header" in problem(client.post("/generate", data=no_clock, headers=MIDI), 400)
    assert "without notes" in problem(client.post("/generate", data=midi.write(SEED)[:40], headers=MIDI), 422)


@pytest.mark.parametrize("kind", [*front.SCORE_TYPES, "application/octet-stream", "audio/midi"])
@pytest.mark.parametrize("data", [scores.STUDY, scores.packed(scores.STUDY)], ids=["musicxml", "mxl"])
def test_a_score_is_a_seed_like_a_midi_file(client, data, kind):
    listed = client.post("/notes", data=data, headers={"Content-Type": kind}).get_json()
    assert len(listed["notes"]) == 13 and listed["notes"][0]["end"] == pytest.approx(60 / 90, abs=1e-4)
    reply = client.post(f"{URL}&notes=4&format=json", data=data, headers={"Content-Type": kind}).get_json()
    assert [note["pitch"] for note in reply["notes"] if note.get("seed")] == midi.read(data)["pitch"].tolist()
    assert sum(not note.get("seed") for note in reply["notes"]) == 4
    form = client.post(f"{URL}&notes=4&format=json", data={"seed": (io.BytesIO(data), "a.musicxml")}).get_json()
    assert form == reply


def test_a_score_that_is_damaged_or_hostile_is_a_problem(client):
    assert "damaged MusicXML" in problem(client.post("/generate", data=scores.STUDY[:-9], headers=MIDI), 400)
    assert "at most 20,000 measures" in problem(
        client.post("/notes", data=scores.score(scores.bars(*[scores.closes("9999")] * 9)), headers=MIDI), 400
    )


def test_a_server_without_music21_says_that_it_reads_no_score(client, monkeypatch):
    monkeypatch.setitem(sys.modules, "music21", None)
    for path in ("/generate", "/notes"):
        detail = problem(client.post(path, data=scores.STUDY, headers=MIDI), 415)
        assert detail.startswith(
            "this server reads no MusicXML, export it as MIDI; reading MusicXML needs music21: `pip"
        )
    assert client.post(f"{URL}&notes=4", data=midi.write(SEED), headers=MIDI).status_code == 200


def test_an_empty_seed_is_400(client):
    assert "empty" in problem(client.post("/generate", data={"seed": (io.BytesIO(), "music.mid")}), 400)
    assert "empty" in problem(client.post("/generate", headers=MIDI), 400)


def test_a_seed_sent_as_text_is_400_and_says_how_to_send_it(client):
    form = {"seed": "music.mid", "notes": "5"}
    detail = problem(client.post("/generate", data=form, content_type="multipart/form-data"), 400)
    assert "-F seed=@music.mid" in detail


def test_a_midi_without_notes_is_422(client):
    assert "without notes" in problem(client.post("/generate", data=midi.write(nt.empty()), headers=MIDI), 422)


def test_a_seed_of_too_many_notes_is_422_and_never_reaches_the_model(backend, client):
    count = 30_000
    start = np.arange(count + 5) / 100
    notes = nt.from_columns(start, start + 0.005, 60, 64)
    detail = problem(client.post("/generate?notes=1", data=midi.write(notes), headers=MIDI), 422)
    assert "has 30,005 notes, expected at most 30,000" in detail
    assert not backend.calls
    assert client.post("/generate?notes=1", data=midi.write(notes[:count]), headers=MIDI).status_code == 200
    part = client.post("/generate?notes=1&seed_notes=9", data=midi.write(notes), headers=MIDI)
    assert part.status_code == 200 and len(midi.read(part.data)) == 10


def test_a_seed_of_which_the_model_can_express_nothing_is_422(client):
    low = nt.from_tuples([(0, 1, 5)])
    for format in ("mid", "json", "ndjson"):
        detail = problem(client.post(f"/generate?format={format}", data=midi.write(low), headers=MIDI), 422)
        assert "pitch outside 21-108, the first one 5" in detail


def test_stray_keys_stay_in_the_reply_and_are_counted(client):
    """Keyswitches and the low keys of an imperial grand: the model has no such keys."""
    stray = nt.from_tuples([(0, 0.1, 0), (0.25, 0.3, 12), (0.8, 0.9, 119), (0.8, 0.9, 36, 80, nt.DRUMS)])
    seed = nt.sort(np.concatenate([SEED, stray]))
    replies = {
        format: client.post(f"{URL}&notes=4&format={format}", data=midi.write(seed), headers=MIDI)
        for format in ("mid", "json", "ndjson", "png")
    }
    assert {reply.status_code for reply in replies.values()} == {200}
    assert {reply.headers["X-Unheard-Notes"] for reply in replies.values()} == {"4"}
    same(midi.read(replies["mid"].data), np.concatenate([seed, nt.shift(SCRIPT[:4], 1.0)]))
    piece = replies["json"].get_json()
    assert piece["unheard_notes"] == json.loads(replies["ndjson"].text.splitlines()[0])["unheard_notes"] == 4
    assert [note["pitch"] for note in piece["notes"]] == [*seed["pitch"].tolist(), 80, 81, 82, 83]
    notes = client.post("/notes", data=midi.write(seed), headers=MIDI).get_json()
    assert (len(notes["notes"]), notes["drums"], notes["unheard_notes"]) == (6, 1, 3)


def test_a_seed_that_the_model_reads_whole_has_no_unread_notes(client):
    response = post_seed(client, f"{URL}&notes=4&format=json")
    assert "X-Unheard-Notes" not in response.headers and "unheard_notes" not in response.get_json()


def recorded(*released: int, held: int = 0) -> bytes:
    """Build a file of quarters of half a second; each of the keys behind them is held beyond the recording's end."""
    track = mido.MidiTrack()
    for pitch in released:
        track += [mido.Message("note_on", note=pitch), mido.Message("note_off", note=pitch, time=480)]
    track += [mido.Message("note_on", note=72 + k) for k in range(held)]
    file, out = mido.MidiFile(ticks_per_beat=480, tracks=[track]), io.BytesIO()
    file.save(file=out)
    return out.getvalue()


def test_what_is_damaged_in_a_seed_is_in_every_reply(client):
    data, warning = recorded(60, 64, held=3), "3 notes are never released; they are left out"
    for format in ("mid", "json", "ndjson", "png"):
        response = client.post(f"{URL}&notes=2&format={format}", data=data, headers=MIDI)
        assert response.status_code == 200 and response.headers["X-Warnings"] == warning
        if format == "json":
            assert response.get_json()["warnings"] == [warning]
        if format == "ndjson":
            assert json.loads(response.text.splitlines()[0])["warnings"] == [warning]
    assert client.post("/notes", data=data, headers=MIDI).get_json()["warnings"] == [warning]


def test_an_undamaged_seed_has_no_warnings(client):
    for url in (f"{URL}&format=json", "/notes"):
        response = post_seed(client, url)
        assert "warnings" not in response.get_json() and "X-Warnings" not in response.headers


def test_a_header_of_warnings_is_short_and_of_plain_letters(backend, monkeypatch):
    monkeypatch.setattr(midi, "read_with_warnings", lambda data: (SEED, ["part \u201cKlavier\u201d\r\nX: y"] * 99))
    header = post_seed(create_app({}, backend).test_client()).headers["X-Warnings"]
    assert header.startswith("part ?Klavier???X: y; part ?Kla") and len(header) == 1000


def test_a_file_without_notes_says_why(client):
    for url in ("/generate", "/notes"):
        detail = problem(client.post(url, data=recorded(held=8), headers=MIDI), 422)
        assert detail == (
            "the seed is a file without notes, so there is nothing to continue; "
            "8 notes are never released; they are left out"
        )


def test_a_file_under_another_name_is_422(client):
    detail = problem(client.post("/generate", data={"file": (io.BytesIO(midi.write(SEED)), "music.mid")}), 422)
    assert "'file'" in detail and "a file named 'seed'" in detail


def test_two_seeds_are_422(client):
    files = [(io.BytesIO(midi.write(SEED)), name) for name in ("a.mid", "b.mid")]
    assert "got 2" in problem(client.post("/generate", data={"seed": files}), 422)


def test_another_content_type_is_415(client):
    detail = problem(client.post("/generate", json={"notes": 5}), 415)
    assert "application/json" in detail and "audio/midi" in detail


def test_a_midi_file_that_says_it_is_a_form_is_415_with_the_type_to_send(client):
    ascii_only = b"MThd=&\x00\x00"
    for kind in ("application/x-www-form-urlencoded", "multipart/form-data"):  # curl --data-binary says the first one
        for data in (midi.write(SEED), ascii_only):
            detail = problem(client.post("/generate", data=data, headers={"Content-Type": kind}), 415)
            assert "needs the header 'Content-Type: audio/midi'" in detail


def test_too_large_a_body_is_413(client):
    big = midi.write(SEED) + bytes(5 * 2**20)
    assert "at most 5 MB, got 5.0 MB" in problem(client.post("/generate", data=big, headers=MIDI), 413)


def test_unknown_paths_and_methods_are_problems_too(client):
    assert "/generate" in problem(client.get("/nowhere"), 404)
    response = client.get("/generate")
    assert "expected OPTIONS, POST" in problem(response, 405) and "POST" in response.headers["Allow"]


# What may go wrong behind us

ERRORS = [
    (Unavailable("no server"), 503, "2"),
    (Overloaded("too many"), 429, "2"),
    (DeadlineExceeded("too late"), 504, None),
    (BackendError("nonsense"), 502, None),
    (RecordError("a card of schema 2"), 502, None),
]


@pytest.mark.parametrize("format", ["mid", "json", "ndjson"])
@pytest.mark.parametrize(("error", "status", "retry"), ERRORS)
def test_an_error_before_the_first_note_has_its_status(backend, client, format, error, status, retry):
    backend.on_call = failing(error, lambda number, signature: True)
    response = post_seed(client, f"{URL}&format={format}")
    assert problem(response, status) == str(error)
    assert response.headers.get("Retry-After") == retry


@pytest.mark.parametrize("format", ["mid", "json", "png"])
@pytest.mark.parametrize(("error", "status", "retry"), ERRORS)
def test_an_error_in_the_middle_of_a_piece_has_its_status(backend, client, format, error, status, retry):
    backend.on_call = failing(error, lambda number, signature: number > 4)
    response = post_seed(client, f"{URL}&format={format}")
    assert problem(response, status) == str(error)
    assert backend.calls[2][0] == "step"  # there was music before


@pytest.mark.parametrize(("error", "status", "retry"), ERRORS)
def test_an_error_in_the_middle_of_a_stream_is_its_last_line(backend, client, error, status, retry):
    backend.on_call = failing(error, lambda number, signature: number > 4)
    response = post_seed(client, f"{URL}&format=ndjson&include_seed=false")
    lines = [json.loads(line) for line in response.text.splitlines()]
    assert response.status_code == 200
    assert [line.get("pitch") for line in lines[1:-1]] == [80, 81]
    assert lines[-1] == {"error": str(error), "status": status}


@pytest.mark.parametrize("format", ["mid", "ndjson"])
def test_a_piece_that_takes_too_long_is_504_or_the_last_line_of_its_stream(backend, monkeypatch, format):
    clock = [100.0]
    monkeypatch.setattr(generation, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    client = create_app({"TIMEOUT": 9, "PIECE_TIMEOUT": 20}, backend).test_client()

    def on_call(number, signature):
        clock[0] += 6

    backend.on_call = on_call
    response = post_seed(client, f"{URL}&format={format}&include_seed=false")
    message = "the piece was not finished within 20 seconds"
    if format == "mid":
        assert problem(response, 504) == message
    else:
        lines = [json.loads(line) for line in response.text.splitlines()]
        assert response.status_code == 200 and [line.get("pitch") for line in lines[1:-1]] == [80, 81]
        assert lines[-1] == {"error": message, "status": 504}
    assert backend.calls == [("describe", None, 9), ("prime", 1, 9), ("step", 1, 8), ("step", 1, 2)]


def test_every_error_of_ours_has_a_status():
    def kinds(error):
        return [error, *(kind for child in error.__subclasses__() for kind in kinds(child))]

    for kind in kinds(problems.errors.MusicError):
        assert problems.status_of(kind.__new__(kind, "x")) in {400, 406, 422, 429, 500, 502, 503, 504}


def test_an_unforeseen_error_is_500_and_logged(backend, client, caplog):
    backend.on_call = failing(ZeroDivisionError("a secret"), lambda number, signature: number > 4)
    assert "log" in problem(post_seed(client), 500)
    assert "a secret" in caplog.text
    caplog.clear()
    backend.calls.clear()
    line = json.loads(post_seed(client, f"{URL}&format=ndjson").text.splitlines()[-1])
    assert line["status"] == 500 and "secret" not in line["error"]
    assert "a secret" in caplog.text


def test_a_card_that_is_too_new_is_502(backend, client):
    backend.card = {**backend.card, "schema": 2}
    assert "schema 2" in problem(client.post("/generate"), 502)


def test_one_more_than_the_limit_is_429_until_one_has_ended(backend):
    client = create_app({"MAX_GENERATIONS": 1}, backend).test_client()
    stream = client.post(f"{URL}&format=ndjson")
    refused = client.post("/generate")
    assert "1 at once" in problem(refused, 429) and refused.headers["Retry-After"] == "2"
    assert client.get("/healthz").status_code == 200
    assert stream.text.endswith('{"end":"final"}\n')
    stream.close()
    assert client.post("/generate").status_code == 200
    backend.on_call = failing(Unavailable("x"), lambda number, signature: True)
    problem(client.post("/generate"), 503)  # an error gives the place back, too
    problem(client.post("/generate"), 503)


def test_who_has_read_the_last_line_of_a_stream_may_ask_at_once(backend):
    client = create_app({"MAX_GENERATIONS": 1}, backend).test_client()
    stream = client.post(f"{URL}&format=ndjson")
    assert any(b'{"end":"final"}' in lines for lines in stream.response)
    assert client.post("/generate").status_code == 200  # though the stream is not closed yet
    stream.close()
    assert client.post("/generate").status_code == 200


def test_a_listener_who_leaves_before_the_first_line_gives_the_place_back(backend):
    client = create_app({"MAX_GENERATIONS": 1}, backend).test_client()
    client.post(f"{URL}&format=ndjson").close()
    assert client.post("/generate").status_code == 200


def test_listeners_at_once_do_not_disturb_each_other(app):
    alone = app.test_client().post(f"{URL}&format=json").data
    replies = []
    threads = [
        threading.Thread(target=lambda: replies.append(app.test_client().post(f"{URL}&format=json").data))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert replies == [alone] * 8


# The other paths


def test_health_readiness_and_the_card(backend, client):
    assert client.get("/healthz").get_json() == {"status": "ok"}
    assert client.get("/readyz").get_json() == {"status": "ready", "model": "toy/1"}
    facts = client.get("/model").get_json()
    assert (facts["name"], facts["version"]) == ("toy", 1)
    assert facts["card"]["encoding"] == ENCODING.config()


def test_without_a_model_we_are_healthy_but_not_ready(backend, client):
    backend.on_call = failing(Unavailable("no server"), lambda number, signature: True)
    assert client.get("/healthz").status_code == 200
    assert problem(client.get("/readyz"), 503) == "no server"
    assert problem(client.get("/model"), 503) == "no server"


def test_the_page_is_a_form_that_generate_understands(client):
    page = client.get("/").text
    names = {part.split('"')[0] for part in page.split('name="')[1:]} - {"viewport"}
    names -= {"description", "theme-color"}
    asked = {"style", "density", "loudness", "seconds"}
    assert names == {"seed", "notes", "temperature", "top_p", "min_p", "random_seed", "program", "format"} | asked
    assert names - {"seed"} <= set(front.PARAMETERS)
    assert 'action="/generate" method="post" enctype="multipart/form-data"' in page
    assert all(f'for="{name.replace("_", "-")}"' in page for name in names)
    assert '<option value="0">Acoustic Grand Piano</option>' in page and '<option value="127">Gunshot</option>' in page
    answers = page.split('name="format"')[1].split("</select>")[0]
    values = [part.split('"')[0] for part in answers.split('value="')[1:]]
    assert set(values) == front.FORMATS.keys() - {"json", "ndjson"}


def test_what_a_browser_sends_for_the_whole_form_is_understood(client):
    form = {
        "seed": (io.BytesIO(), ""),
        "notes": "3",
        "temperature": "1",
        "top_p": "1",
        "min_p": "0",
        "random_seed": "7",
        "program": "",
        "format": "mid",
    }
    assert client.post("/generate", data=form).data == client.post(f"{URL}&notes=3").data


def test_the_demo_tells_what_a_card_knows_and_no_more():
    card = {
        "dataset": {"source": "maestro.zip"},
        "metrics": {"trained": {"notes": 12_000, "seconds": 90}},
        "made": {"run": "first", "backend": "jax"},
    }
    assert demo.training_summary(card) == "run first: 12,000 notes of maestro.zip in 2 minutes with jax"
    assert demo.training_summary({"dataset": {"source": "maestro.zip"}, "made": {}}) == "of maestro.zip"
    assert demo.training_summary({}) == "its card says nothing of it"


# Two applications in one process


def test_a_busy_application_leaves_another_one_of_its_process_free():
    busy, free = (create_app({"API_KEYS": [key]}, ScriptedBackend(SCRIPT)) for key in ("a" * 16, "b" * 16))
    client, headers = free.test_client(), {"X-API-Key": "b" * 16}
    services = busy.extensions["cadenza"]
    limits = [services.pieces] * busy.config["MAX_GENERATIONS"] + [services.reading] * front.READERS
    limits += [services.renderers.sound] * (os.cpu_count() or 1) + [services.renderers.drawing]
    with ExitStack() as taken:
        for limit in limits:
            taken.enter_context(limit.take())
        assert busy.test_client().post("/generate", headers={"X-API-Key": "a" * 16}).status_code == 429
        for url in (f"{URL}&notes=4", f"{URL}&notes=4&format=png", "/notes"):
            assert client.post(url, data=midi.write(SEED), headers=MIDI | headers).status_code == 200
    assert busy.test_client().post("/generate", headers=headers).status_code == 401


def test_applications_of_one_process_share_no_service():
    first, second = (
        create_app({"API_KEYS": ["k" * 16], "RATE": 9}, ScriptedBackend(SCRIPT)).extensions["cadenza"] for _ in range(2)
    )
    for one, other in ((first, second), (first.renderers, second.renderers)):
        shared = [name for name, value in vars(one).items() if value is vars(other)[name] and value is not None]
        assert not shared


def test_no_module_of_the_front_end_holds_a_limit_or_threads():
    modules = [module for name, module in sys.modules.items() if name.split(".")[0] == "serving"]
    assert len(modules) > 15
    for module in modules:
        for value in vars(module).values():
            assert not isinstance(value, ConcurrencyLimit | futures.Executor | Rate | Metrics | api_keys.Keys), module


# Finding a model, and the command


def saved(folder):
    folder.mkdir(parents=True)
    (folder / "saved_model.pb").touch()
    return folder


def test_find_model_takes_the_newest_version_at_any_of_three_levels(tmp_path):
    for version in ("1", "9", "00000010"):
        saved(tmp_path / "models" / "toy" / version)
    (tmp_path / "models" / "toy" / "11").mkdir()  # not complete: saved_model.pb comes last
    saved(tmp_path / "models" / "toy" / "backup")
    newest = tmp_path / "models" / "toy" / "00000010"
    assert [find_model(folder) for folder in (newest.parents[1], newest.parent, newest)] == [newest] * 3
    assert find_model(newest.parent / "9").name == "9"


def test_find_model_says_what_is_missing(tmp_path):
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(Unavailable, match="no model in"):
            find_model(folder)
    saved(tmp_path / "a" / "1")
    saved(tmp_path / "b" / "1")
    with pytest.raises(Unavailable, match="several models"):
        find_model(tmp_path)
    with pytest.raises(Unavailable, match="no version"):
        find_model(saved(tmp_path / "export"))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--model", "nowhere"], "no model in nowhere"),
        (["--server", "127.0.0.1:1"], "--model-name"),
        (["--model", "x", "--server", "127.0.0.1:1"], "not allowed with"),
        (["--server", "127.0.0.1:1", "--model-name", "x", "--port", "99999"], "--port: expected 0 to 65535, got 99999"),
        (["--server", "127.0.0.1:1", "--model-name", "x", "--port", "-1"], "expected 0 to 65535, got -1"),
        (["--server", "127.0.0.1:1", "--model-name", "x", "--warm"], "--warm is about a model in this process"),
        (["--chunk", "33"], "expected 1 to 32, got 33"),
        (["--timeout", "nan"], "--timeout"),
        (["--piece-timeout", "0"], "--piece-timeout: expected more than 0 seconds, got 0"),
    ],
)
def test_a_wrong_command_line_exits_with_2(capsys, flags, message):
    with pytest.raises(SystemExit) as exit:
        run(flags)
    assert exit.value.code == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_the_command_without_a_model_says_so_in_one_line(tmp_path):
    command = [sys.executable, "-m", "serving", "--model", str(tmp_path)]
    process = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert process.returncode == 2 and process.stdout == ""
    assert process.stderr == (
        f"python -m serving: no model in {tmp_path}: expected [<name>/]<version>/saved_model.pb, the version a number\n"
    )


def test_a_damaged_model_is_reported_in_one_line(tmp_path):
    (saved(tmp_path / "1") / "saved_model.pb").write_bytes(b"damaged")
    command = [sys.executable, "-m", "serving", "--model", str(tmp_path), "--port", "0"]
    process = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert process.returncode == 4 and "Traceback" not in process.stderr
    (line,) = [line for line in process.stderr.splitlines() if line.startswith("python -m serving: ")]
    assert line == process.stderr.splitlines()[-1]  # behind all that gunicorn says
    assert f"the model in {tmp_path / '1'} cannot be loaded" in line


def test_without_tensorflow_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow", None)  # what import takes for "not there"
    saved(tmp_path / "1")
    with pytest.raises(Unavailable, match=r"\.\[embedded\].*--server"):
        create_app({"MODEL": tmp_path})


@pytest.fixture(scope="module")
def address():
    """A front end as a process of its own; the model server that it is told of is absent."""
    with front_end("--server", "127.0.0.1:1", "--model-name", "toy") as address:
        yield address


@pytest.mark.parametrize("host", ["::1", "[::1]"])
def test_an_ipv6_address_needs_no_brackets(host):
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError as error:
        pytest.skip(f"this machine has no IPv6: {error}")
    with front_end("--server", "[::1]:1", "--model-name", "toy", "--host", host) as address:
        assert address.startswith("http://[::1]:")
        assert requests.get(f"{address}/healthz", timeout=10).status_code == 200


def test_over_a_socket_the_model_server_may_be_absent(address):
    assert requests.get(f"{address}/healthz", timeout=10).status_code == 200
    response = requests.post(f"{address}/generate", timeout=10)
    assert response.status_code == 503 and response.headers["Retry-After"] == "2"
    assert "'toy' at 127.0.0.1:1" in response.json()["detail"]


def test_over_a_socket_50_mb_are_refused(address):
    for files in ({"data": bytes(50 * 2**20), "headers": MIDI}, {"files": {"seed": bytes(50 * 2**20)}}):
        response = requests.post(f"{address}/generate", timeout=30, **files)
        assert response.status_code == 413 and "got 50.0 MB" in response.json()["detail"]


def test_over_a_socket_50_mb_are_refused_without_being_read(address):
    host, port = address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        head = f"POST /generate HTTP/1.1\r\nHost: {host}\r\nContent-Type: audio/midi\r\nContent-Length: {50 * 2**20}"
        connection.sendall(f"{head}\r\n\r\n".encode() + midi.write(SEED))
        assert connection.recv(4096).startswith(b"HTTP/1.1 413 ")


def test_over_a_socket_50_mb_in_chunks_are_refused(address):
    """Without a Content-Length the limit falls while reading."""
    blocks = (bytes(2**20) for _ in range(50))
    response = requests.post(f"{address}/generate", data=blocks, headers=MIDI, timeout=30)
    assert response.status_code == 413 and "at most 5 MB" in response.json()["detail"]
