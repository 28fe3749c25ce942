"""A SavedModel in this process: what it answers, what it refuses, and the same piece however it is cut into calls."""

import json
import threading
import time
from concurrent import futures
from contextlib import contextmanager

import numpy as np
import pytest
import requests

from music import midi
from music.errors import BackendError, RecordError, Unavailable
from music.generation import Card, Generator, Settings
from serving import create_app
from serving.backends.embedded import Embedded
from tests.support.fakes import CARD, F, front_end, melody, save_toy_model

SEED = melody(70)  # more than one block of `prime`
PRIME = {
    "rows": np.full((1, 64, F), 5, "i4"),
    "length": np.array([64], "i4"),
    **Card.parse(json.dumps(CARD)).empty_state(),
}


@pytest.fixture(scope="module")
def toy_folder(tmp_path_factory):
    base = tmp_path_factory.mktemp("toy")
    save_toy_model(base, 3)
    return base


@pytest.fixture(scope="module")
def toy(toy_folder):
    return Embedded(toy_folder)


@pytest.fixture(scope="module")
def backend(tiny_export):
    return Embedded(tiny_export)


def piece(backend, url="/generate?random_seed=5&notes=70", **config) -> bytes:
    app = create_app({"TIMEOUT": 300} | config, backend)  # patient: others may compile, on a machine that is busy
    response = app.test_client().post(url, data=midi.write(SEED), content_type="audio/midi")
    assert response.status_code == 200, response.text
    return response.data


def test_a_call_is_answered_with_the_number_of_the_folder(toy):
    reply = toy.call("prime", PRIME, version=3)
    assert reply.version == 3
    assert reply.outputs["state_row"].tolist() == [[5] * F] and reply.outputs["state_at"].tolist() == [[64.0]]
    assert toy.call("describe", {"batch": np.zeros(2, "i4")}).outputs["card"].shape == (2,)


def test_another_version_is_not_there(toy):
    with pytest.raises(Unavailable, match="version 4 is not here, version 3 is"):
        toy.call("prime", PRIME, version=4)


@pytest.mark.parametrize(
    ("signature", "change", "message"),
    [
        ("improvise", {}, "the model has describe, generate, prime, serving_default, step"),
        ("prime", {"extra": np.zeros(1, "f4")}, "expected inputs .*got .*extra"),
        ("prime", {"rows": np.zeros((1, 64, F), "f4")}, "expected rows to be int32 .*got float32"),
        ("prime", {"rows": np.zeros((1, 63, F), "i4")}, r"got int32 of shape \(1, 63, "),
        ("prime", {"length": np.array([64, 64], "i4")}, "as many rows each"),
        ("prime", {"length": np.array([99], "i4")}, "98"),  # the kernel's own complaint
    ],
)
def test_a_wrong_call_is_a_backend_error(toy, signature, change, message):
    with pytest.raises(BackendError, match=message):
        toy.call(signature, {**PRIME, **change})


def test_a_damaged_model_is_refused(tmp_path):
    (tmp_path / "toy" / "1").mkdir(parents=True)
    (tmp_path / "toy" / "1" / "saved_model.pb").write_bytes(b"no graph")
    with pytest.raises(RecordError, match="cannot be loaded"):
        Embedded(tmp_path)


def test_the_same_random_seed_gives_the_same_bytes_and_another_another_piece(backend):
    assert piece(backend) == piece(backend)
    assert piece(backend) != piece(backend, "/generate?random_seed=6&notes=70")


def test_temperature_matters_and_at_0_the_random_seed_does_not(backend):
    urls = [f"/generate?notes=70&temperature={t}&random_seed={s}" for t, s in ((0, 1), (0, 2), (1.2, 1))]
    cold, also_cold, warm = (midi.read(piece(backend, url)) for url in urls)
    assert (cold == also_cold).all()
    assert len(cold) != len(warm) or (cold != warm).any()


def test_note_by_note_and_in_chunks_the_piece_is_the_same(backend):
    assert piece(backend, CHUNK=1) == piece(backend, CHUNK=7) == piece(backend, CHUNK=32)


def test_a_new_piece_needs_no_seed(backend):
    reply = create_app(backend=backend).test_client().post("/generate?notes=40&random_seed=2&format=json").get_json()
    assert reply["notes"][0]["start"] >= 0 and (len(reply["notes"]) == 40 or reply["ended"] == "final")


def test_listeners_at_once_do_not_disturb_each_other(backend):
    alone = piece(backend)
    pieces = []
    threads = [threading.Thread(target=lambda: pieces.append(piece(backend))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(300)
    assert pieces == [alone] * 4


@contextmanager
def watched(backend, signature: str, until):
    """Record the runs of one signature, by their numbers of rows; the first one waits for `until(batcher)`."""
    batcher, runs = backend._batcher, []
    run = batcher._run

    def watching(name, inputs):
        if name == signature:
            runs.append(len(next(iter(inputs.values()))))
            if len(runs) == 1:
                eventually(lambda: until(batcher))
        return run(name, inputs)

    batcher._run = watching
    try:
        yield runs
    finally:
        batcher._run = run


def eventually(true) -> None:
    end = time.monotonic() + 60
    while not true():
        assert time.monotonic() < end
        time.sleep(0.002)


@pytest.mark.slow
def test_thirty_two_listeners_are_merged_and_each_hears_what_it_hears_alone(backend):
    """Other settings, lengths and seeds: so different blocks of `prime` and chunks of `generate` are joined, too."""

    def play(who: int):
        how = Settings(notes=30 + who % 7, temperature=0.5 + who / 32, top_p=1 - who % 3 / 10, random_seed=who)
        return [(c.notes.tobytes(), c.ended) for c in Generator(backend).stream(SEED[: 2 * who], how)]

    alone = [play(who) for who in range(32)]
    backend.warm()  # else they would go one by one for some seconds
    with (
        watched(backend, "prime", lambda batcher: batcher.waiting == 31) as primed,
        watched(backend, "generate", lambda batcher: batcher.waiting) as generated,
        futures.ThreadPoolExecutor(32) as listeners,
    ):
        assert list(listeners.map(play, range(32))) == alone
    assert primed == [1, 31]
    assert max(generated) > 1


def test_what_is_compiled_answers_as_the_plain_graph(backend, tiny_export):
    plain = Embedded(tiny_export, xla=False)
    card = Card.parse(plain.call("describe", {"batch": np.zeros(1, "i4")}).outputs["card"][0])
    seed = card.encoding.encode(SEED, begin=True, end=False)[None, :64]
    inputs = {"rows": seed, "length": np.array([64], "i4"), **card.empty_state()}
    assert backend._compiled.keys() == {"generate_xla", "prime_xla"} and not plain._compiled
    states = [one.call("prime", inputs).outputs for one in (backend, plain)]
    how = {name: np.ones(1, "f4") for name in ("temperature", "top_p")} | {"min_p": np.zeros(1, "f4")}
    noise = np.full((1, seed.shape[-1]), 0.3, "f4")
    drawn = [one.call("step", {"noise": noise, **how, **states[0]}).outputs for one in (backend, plain)]
    for compiled, graph in (states, drawn):
        assert compiled.keys() == graph.keys()
        for name in graph:
            np.testing.assert_allclose(compiled[name], graph[name], atol=1e-4, err_msg=name)


def test_a_server_may_compile_for_many_before_they_come(monkeypatch, toy_folder):
    warmed: list[Embedded] = []
    monkeypatch.setattr(Embedded, "warm", lambda self: warmed.append(self))
    create_app({"MODEL": toy_folder})
    assert not warmed
    create_app({"MODEL": toy_folder, "WARM": True})
    assert len(warmed) == 1


def test_an_error_among_merged_calls_is_for_the_one_that_brings_it_about(toy):
    wrong = {**PRIME, "length": np.array([99], "i4")}
    with (
        watched(toy, "prime", lambda batcher: batcher.waiting == 2) as runs,
        futures.ThreadPoolExecutor(3) as callers,
    ):
        first = callers.submit(toy.call, "prime", PRIME)
        eventually(lambda: runs)
        second, third = (callers.submit(toy.call, "prime", inputs) for inputs in (wrong, PRIME))
        assert isinstance(second.exception(), BackendError) and "98" in str(second.exception())
        assert first.result().outputs["state_at"].tolist() == [[64.0]] == third.result().outputs["state_at"].tolist()
    assert runs == [1, 2, 1, 1]  # the two together, which fails, and then one by one


def ask(backend, **config):
    return create_app(config, backend).test_client().post("/generate?notes=1&random_seed=1")


def test_one_more_than_may_wait_is_429(toy_folder):
    backend, refused = Embedded(toy_folder, waiting=1), threading.Event()
    with watched(backend, "step", lambda _: refused.is_set()) as runs, futures.ThreadPoolExecutor(2) as listeners:
        first = listeners.submit(ask, backend)
        eventually(lambda: runs)
        second = listeners.submit(ask, backend)
        eventually(lambda: backend._batcher.waiting)
        response = ask(backend)
        refused.set()
        assert response.status_code == 429 and response.headers["Retry-After"] == "2"
        assert "1 calls of the model wait already" in response.json["detail"]
        assert first.result().status_code == second.result().status_code == 200


def test_who_waits_for_longer_than_a_call_may_take_is_504(toy_folder):
    backend, late = Embedded(toy_folder), threading.Event()
    with watched(backend, "step", lambda _: late.is_set()) as runs, futures.ThreadPoolExecutor(1) as listeners:
        first = listeners.submit(ask, backend)
        eventually(lambda: runs)
        response = ask(backend, TIMEOUT=0.2)
        late.set()
        assert response.status_code == 504 and "no turn for this call" in response.json["detail"]
        assert first.result().status_code == 200
    assert runs == [1]


@pytest.mark.slow
def test_the_command_serves_a_model_by_itself(toy_folder, toy):
    with front_end("--model", str(toy_folder)) as address:
        assert requests.get(f"{address}/readyz", timeout=60).json() == {"status": "ready", "model": "toy/3"}
        files = {"seed": ("music.mid", midi.write(SEED))}
        response = requests.post(f"{address}/generate", params={"random_seed": 5, "notes": 70}, files=files, timeout=60)
    assert response.content == piece(toy)
