"""The page in a real browser: Chromium, without a window, before a scripted backend; once before the shipped model."""

import io
import os
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
import pytest
from werkzeug.serving import WSGIRequestHandler, make_server

from music import midi
from music import notes as nt
from music.errors import MissingDependency, Unavailable
from music.examples.pieces import EXAMPLES
from music.generation import Generator, Settings
from serving import create_app
from serving.api import responses
from serving.backends.embedded import Embedded
from serving.middleware import api_keys
from tests.serving.test_serving import recorded
from tests.support.fakes import AskedBackend, ScriptedBackend, melody

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
STATIC = Path(__file__).parents[2] / "serving" / "web" / "static"
SEED = nt.from_tuples([(0.5, 0.9, 60, 70), (0.75, 1.0, 64, 71), (1.0, 2.0, 67, 72)])
SCRIPT = melody(80, pitch=72)
ANOTHER = "laptop.test"  # this host, as another one in the house calls it: no secure context for a browser
PATIENCE = 20  # seconds for anything to show: a busy machine needs some
TAPPED = """  // whatever goes to the loudspeaker, we hear as well
const connect = AudioNode.prototype.connect;
AudioNode.prototype.connect = function (to, ...rest) {
  if (to === this.context.destination && this.context instanceof AudioContext) {
    const analyser = this.context.createAnalyser();
    connect.call(this, analyser);
    window.loudest = () => {
      const wave = new Float32Array(analyser.fftSize);
      analyser.getFloatTimeDomainData(wave);
      return Math.max(...wave.map(Math.abs));
    };
  }
  return connect.call(this, to, ...rest);
};
"""


# A server, a browser, a page


class Handler(WSGIRequestHandler):
    """As gunicorn does: HTTP/1.1, so that a stream goes in chunks, and one that breaks off is seen to."""

    protocol_version = "HTTP/1.1"

    def setup(self) -> None:
        super().setup()
        self.rfile = Uploaded(self.rfile.detach())

    def log(self, type: str, message: str, *args) -> None:
        pass


class Uploaded(io.BufferedReader):
    """What a browser sends; its end where the browser resets the connection.

    werkzeug's server reads once more behind a reply. A reset would then keep it from closing the reply's file.
    """

    def read(self, *size) -> bytes:
        try:
            return super().read(*size)
        except ConnectionError:
            return b""


@contextmanager
def serving(app) -> Iterator[str]:
    """The address of `app`, served in this process."""
    server = make_server("127.0.0.1", 0, app, threaded=True, request_handler=Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join(10)
        server.server_close()


@pytest.fixture(scope="module")
def chromium():
    """The browser. Where we test for others it has to be there; `make browser` installs it."""
    if not CHROMIUM:
        reason = "there is no Chromium to test the page in: apt-get install chromium"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=1000 * PATIENCE)
    sandbox = [] if os.geteuid() else ["--no-sandbox"]  # which root may not use
    with sync_playwright() as playwright:
        args = ["--mute-audio", f"--host-resolver-rules=MAP {ANOTHER} 127.0.0.1", *sandbox]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=args)
        yield browser
        browser.close()


@pytest.fixture
def backend(request):
    return getattr(request, "param", lambda: ScriptedBackend(SCRIPT))()


@pytest.fixture
def app(backend):
    return create_app(backend=backend)


@pytest.fixture
def address(app):
    with serving(app) as url:
        yield url


@pytest.fixture
def visit(chromium, address):
    """Open the page: visit(path, **how a context is made). At the end nothing may have gone wrong in silence, nor have
    left this host; a test that provokes refusals says so: `visit.refused`, beginnings of what the console may say."""
    contexts, wrong, away = [], [], []

    def open(path: str = "/", **options):
        context = chromium.new_context(viewport={"width": 1280, "height": 900}, **options)
        context.add_init_script(TAPPED)
        context.set_default_timeout(1000 * PATIENCE)
        page = context.new_page()
        page.on("console", lambda message: wrong.append(message.text) if message.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: wrong.append(f"uncaught: {error}"))
        page.on("request", lambda sent: away.append(sent.url) if not own(sent.url) else None)
        page.posted = []
        page.on("request", lambda sent: page.posted.append(sent) if "/generate" in sent.url else None)
        page.goto(path if path.startswith(("http", "about:")) else address + path)
        contexts.append(context)
        return page

    def own(url: str) -> bool:
        return url.startswith((f"{address}/", f"blob:{address}/", f"{elsewhere}/"))

    elsewhere = address.replace("127.0.0.1", ANOTHER)

    open.refused, open.address = (), address
    yield open
    for context in contexts:
        context.close()
    assert away == []
    expected = (*open.refused, "Canvas2D: Multiple readback")  # which `inked` does, and the page does not
    assert [text for text in wrong if not text.startswith(expected)] == []


REFUSED = "Failed to load resource"  # Chromium's own words for every reply of 400 and more


def shows(page, selector: str, text: str | re.Pattern) -> None:
    from playwright.sync_api import expect

    expect(page.locator(selector)).to_contain_text(text)


def eventually(true: Callable[[], object], what: str) -> None:
    until = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < until, f"never: {what}"
        time.sleep(0.05)


def link_of(page) -> str:
    """What the address bar says; `page.url` is what Playwright has heard of it, which is later."""
    return page.evaluate("location.href")


def ready(page) -> None:
    """The page begins with the nocturne."""
    shows(page, "#status", "163 notes")


def choose(page, notes: nt.Notes = SEED, name: str = "song.mid") -> bytes:
    data = midi.write(notes)
    page.set_input_files("#seed", {"name": name, "mimeType": "audio/midi", "buffer": data})
    shows(page, "#status", f"song: {len(notes):,} note")
    return data


def generate(page, number: int = 1, **settings) -> None:
    """Fill in some fields, press the button, and wait for the take."""
    for name, value in settings.items():
        page.fill(f"#{name.replace('_', '-')}", str(value))
    page.click("#generate")
    shows(page, "#status", f"Take {number} is ready")


def pause(page) -> None:
    """Stop what plays, if it has not come to its end."""
    if page.get_attribute("#play", "aria-label") == "Pause":
        page.click("#play")


def inked(page, colour: str) -> int:
    """How many pixels of the roll have about this CSS variable's colour, at whatever loudness."""
    return page.evaluate(
        """(name) => {
          const canvas = document.getElementById("roll");
          const style = getComputedStyle(document.documentElement);
          const rgb = (text) => [1, 3, 5].map((at) => parseInt(text.slice(at, at + 2), 16));
          const [ink, paper] = [name, "--roll"].map((which) => rgb(style.getPropertyValue(which).trim()));
          const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
          const way = ink.map((value, k) => value - paper[k]);
          const far = Math.hypot(...way);
          let count = 0;
          for (let at = 0; at < pixels.length; at += 4) {
            const off = paper.map((value, k) => pixels[at + k] - value);
            const along = off.reduce((sum, value, k) => sum + value * way[k], 0) / far;
            const aside = Math.hypot(...off.map((value, k) => value - (along * way[k]) / far));
            if (along > 0.3 * far && aside < 12) count++;
          }
          return count;
        }""",
        colour,
    )


def audible(page) -> bool:
    return page.evaluate("window.loudest ? loudest() : 0") > 0.003


def held_at(backend: ScriptedBackend, number: int) -> threading.Event:
    """Let the model stop before its `number`th piece of music until the event is set."""
    go, calls = threading.Event(), []

    def on_call(_, signature: str) -> None:
        if signature in ("step", "generate"):
            calls.append(signature)
            if len(calls) == number:
                assert go.wait(3 * PATIENCE)

    backend.on_call = on_call
    return go


# Beginnings


def test_the_page_begins_with_a_beginning_to_see(visit):
    page = visit()
    ready(page)
    eventually(lambda: inked(page, "--seed") > 500, "the nocturne on the roll")
    assert page.get_attribute("[data-example=nocturne]", "aria-pressed") == "true"
    assert "163 notes from 0:00 to 0:32" in page.get_attribute("#roll", "aria-label")


def test_a_chosen_file_is_on_the_roll_at_once_and_its_very_bytes_are_continued(visit):
    page = visit()
    ready(page)
    data = choose(page)
    eventually(lambda: inked(page, "--seed") > 50, "the file on the roll")
    assert "3 notes from 0:00 to 0:02, between C 4 and G 4" in page.get_attribute("#roll", "aria-label")
    generate(page, notes=20, random_seed=7, temperature=0.9, top_p=0.95, min_p=0.01)
    assert page.posted[0].post_data_buffer == data
    query = "format=ndjson&include_seed=false&notes=20&temperature=0.9&top_p=0.95&min_p=0.01&random_seed=7"
    assert page.posted[0].url.endswith(query)
    eventually(lambda: inked(page, "--take-0") > 50, "the take on the roll")


def test_a_file_may_be_dropped_anywhere(visit):
    page = visit()
    ready(page)
    transfer = page.evaluate_handle(
        """(bytes) => {
          const transfer = new DataTransfer();
          transfer.items.add(new File([new Uint8Array(bytes)], "dropped.mid", {type: "audio/midi"}));
          return transfer;
        }""",
        list(midi.write(SEED)),
    )
    for name in ("dragenter", "dragover", "drop"):
        page.dispatch_event("h1", name, {"dataTransfer": transfer})
    shows(page, "#status", "dropped: 3 notes")


def test_drums_are_left_out_and_counted(visit):
    page = visit()
    ready(page)
    drums = nt.with_program(SEED[:2], 0).copy()
    drums["program"] = nt.DRUMS
    both = nt.sort(np.concatenate([SEED, drums]))
    page.set_input_files("#seed", {"name": "song.mid", "mimeType": "audio/midi", "buffer": midi.write(both)})
    shows(page, "#status", "song: 3 notes; 2 drum strokes left out")


def test_keys_that_the_model_does_not_know_are_counted_and_stay(visit):
    page = visit()
    ready(page)
    both = nt.sort(np.concatenate([SEED, nt.from_tuples([(0, 0.1, 0), (0.6, 0.7, 119)])]))
    page.set_input_files("#seed", {"name": "song.mid", "mimeType": "audio/midi", "buffer": midi.write(both)})
    shows(page, "#status", "song: 5 notes; the model does not know the pitch of 2 notes, and continues the others.")
    generate(page, notes=5)
    assert page.is_hidden("#message")


def test_what_is_damaged_in_a_file_is_reported_in_a_sentence(visit):
    page = visit()
    ready(page)
    for data, sentence in (
        (recorded(60, held=2), "2 notes are never released; they are left out."),
        (midi.write(SEED)[:-9], "a track is said to have 35 bytes, 26 are there; it has no end mark; 1 note is"),
    ):
        page.set_input_files("#seed", {"name": "song.mid", "mimeType": "audio/midi", "buffer": data})
        shows(page, "#status", f"The file is damaged or incomplete: {sentence}")
    generate(page, notes=5)


def test_one_may_play_a_beginning_with_letters_and_with_the_mouse(visit):
    page = visit()
    ready(page)
    page.click("#own")
    page.wait_for_selector("#piano .key:focus")  # letters play at once
    for letter in "adg":
        page.keyboard.down(letter)
        time.sleep(0.1)
        page.keyboard.up(letter)
    page.locator("#piano .key[data-pitch='60']").click(position={"x": 8, "y": 100})
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    generate(page, notes=4)
    posted = midi.read(page.posted[0].post_data_buffer)
    assert posted["pitch"].tolist() == [48, 52, 55, 60, 61]
    assert np.all(np.diff(posted["start"]) > 0) and np.all(posted["end"] - posted["start"] > 0.045)
    eventually(lambda: audible(page), "what is played sounds")


def test_without_a_beginning_a_new_piece_is_made(visit):
    page = visit()
    ready(page)
    page.click("#nothing")
    generate(page, notes=10)
    assert page.posted[0].post_data_buffer is None
    shows(page, "#takes .facts", "10 notes · after nothing")


# Generating, and hearing it


def test_notes_appear_and_sound_while_they_are_made(visit, backend):
    go = held_at(backend, 4)  # two single notes, then 32, then this one
    page = visit()
    ready(page)
    choose(page)
    page.click("#generate")
    shows(page, "#takes .facts", "34 notes · being made")
    assert page.inner_text("#generate") == "Stop"
    eventually(lambda: inked(page, "--take-0") > 50, "notes on the roll before the stream has ended")
    eventually(lambda: audible(page), "sound before the stream has ended")
    assert not go.is_set()
    go.set()
    shows(page, "#status", "Take 1 is ready: 80 notes")
    shows(page, "#takes .facts", "80 notes · ended by itself")
    assert page.inner_text("#generate") == "Generate"


def test_playing_waits_where_the_music_is_not_made_yet(visit, backend):
    go = held_at(backend, 3)  # after two notes, a quarter of a second apart
    page = visit()
    ready(page)
    choose(page)
    page.click("#generate")
    shows(page, "#takes .facts", "2 notes · being made")
    shows(page, "#now", "0:01")
    time.sleep(1.5)
    assert page.inner_text("#now") == "0:01" and page.get_attribute("#play", "aria-label") == "Pause"
    go.set()
    shows(page, "#now", "0:03")


def test_play_pause_and_seek(visit):
    page = visit()
    ready(page)
    page.click("#play")
    eventually(lambda: audible(page), "sound")
    shows(page, "#now", "0:01")
    page.click("#play")
    assert page.get_attribute("#play", "aria-label") == "Play"
    eventually(lambda: not audible(page), "silence after pausing")
    page.focus("#overview")
    page.keyboard.press("Home")
    for key in ("PageUp", "ArrowRight", "ArrowRight"):
        page.keyboard.press(key)
    assert page.get_attribute("#overview", "aria-valuetext") == "0:12 of 0:32"
    page.click("#roll", position={"x": 46 + 5, "y": 200})  # the roll's left edge
    assert int(page.inner_text("#now").split(":")[1]) < 12


def test_a_take_can_be_stopped_and_what_came_is_kept(visit, backend):
    go = held_at(backend, 3)
    page = visit()
    ready(page)
    page.click("#generate")
    shows(page, "#takes .facts", "2 notes · being made")
    page.click("#generate")
    shows(page, "#takes .facts", "2 notes · stopped")
    shows(page, "#status", "Take 1 was stopped: 2 notes")
    go.set()


def test_one_goes_on_from_any_point_with_other_settings(visit):
    page = visit()
    ready(page)
    generate(page, notes=40, random_seed=1)
    pause(page)
    page.click("#to-start")
    page.focus("#overview")
    for _ in range(3):
        page.keyboard.press("PageUp")
    page.fill("#temperature", "0.5")
    page.click("#continue")
    shows(page, "#status", "Take 2 is ready")
    before = midi.read(page.posted[1].post_data_buffer)
    nocturne = midi.read(midi.write(EXAMPLES["nocturne"].notes()))
    assert before["pitch"].tolist() == nocturne["pitch"][nocturne["start"] < 30.02].tolist()
    np.testing.assert_allclose(before["start"], nocturne["start"][: len(before)], atol=0.00051)
    assert "temperature=0.5" in page.posted[1].url
    shows(page, "#takes li:first-child .facts", "after take 1 up to 0:30")


def test_takes_stand_side_by_side_and_can_be_compared(visit):
    page = visit()
    ready(page)
    generate(page, 1, notes=20, random_seed=1)
    generate(page, 2, notes=30, random_seed=2)
    assert page.locator("#takes .take").count() == 2
    assert page.locator(".take.chosen .title").inner_text() == "Take 2"
    eventually(lambda: inked(page, "--take-1") > 50, "the second take in its colour")
    pause(page)
    at = page.get_attribute("#overview", "aria-valuenow")
    page.click(".take:not(.chosen) .choose")
    eventually(lambda: inked(page, "--take-0") > 50, "the first take in its colour")
    assert page.get_attribute("#overview", "aria-valuenow") == at  # it stays where it was
    assert "take 1: 20 notes" in page.get_attribute("#roll", "aria-label")
    page.fill("#random-seed", "")
    page.get_by_label("Same settings as for take 1").click()
    assert (page.input_value("#notes"), page.input_value("#random-seed")) == ("20", "1")
    page.get_by_label("Remove take 1").click()
    assert page.locator("#takes .take").count() == 1


def test_the_piano_is_in_tune_and_dies_away(visit):
    """Keys rendered by the page's own modules, faster than they sound."""
    page = visit()
    ready(page)
    rate = 22050
    for pitch in (45, 69, 81):
        wave = np.array(
            page.evaluate(
                """async ([pitch, rate]) => {
                  const { Bank, Piano } = await import("/static/sound.js");
                  const context = new OfflineAudioContext(1, 3 * rate, rate);
                  const piano = new Piano(context, context.destination, await Bank.load());
                  piano.strike(pitch, 90, 0.1).release(1.6);
                  return [...(await context.startRendering()).getChannelData(0)];
                }""",
                [pitch, rate],
            )
        )
        spectrum = np.abs(np.fft.rfft(wave[rate // 2 : rate * 3 // 2] * np.hanning(rate), 2**19))
        hertz = 440 * 2 ** ((pitch - 69) / 12)
        band = np.arange(len(spectrum)) * rate / 2**19
        near = (band > hertz * 0.94) & (band < hertz * 1.06)
        cents = 1200 * np.log2(band[near][spectrum[near].argmax()] / hertz)
        assert abs(cents) < 12, (pitch, cents)
        assert np.abs(wave[: rate // 20]).max() == 0  # not struck yet
        level = [np.abs(wave[int(second * rate) :][: rate // 10]).max() for second in (0.15, 1.4, 2.5)]
        assert level[0] > 0.005 and level[0] > level[1] > 20 * level[2], (pitch, level)


# Links and files


def test_a_link_makes_a_take_again_its_beginning_included(visit):
    page = visit()
    ready(page)
    data = choose(page)
    generate(page, notes=20, temperature=0.7, top_p=0.9, min_p=0.02)
    eventually(lambda: "#midi=" in link_of(page), "the take in the page's address")
    other = visit(link_of(page))
    shows(other, "#status", "Take 1 is ready: 20 notes")
    assert other.posted[0].post_data_buffer == data
    drawn = page.inner_text(".facts").split("random seed ")[1]
    assert other.posted[0].url == page.posted[0].url + f"&random_seed={drawn}"
    assert other.input_value("#temperature") == "0.7" and other.input_value("#random-seed") == drawn
    assert other.get_attribute("#play", "aria-label") == "Play"  # it sounds when somebody wishes


def test_a_link_to_a_take_of_an_example_is_short(visit):
    page = visit()
    ready(page)
    page.click("[data-example=waltz]")
    shows(page, "#status", "Waltz: 120 notes")
    generate(page, notes=12, random_seed=5)
    eventually(lambda: "seed=waltz" in link_of(page), "the take in the page's address")
    assert link_of(page).endswith("/?notes=12&temperature=1&top_p=1&min_p=0&random_seed=5&model=toy%2F1&seed=waltz")
    other = visit(link_of(page))
    shows(other, "#status", "Take 1 is ready: 12 notes")
    assert other.posted[0].post_data_buffer == page.posted[0].post_data_buffer


def test_a_beginning_that_is_too_long_for_a_link_is_asked_for(visit, chromium):
    page = visit()
    ready(page)
    rng = np.random.default_rng(5)
    rows = [(n / 9, n / 9 + rng.uniform(0.05, 2), rng.integers(30, 90), rng.integers(1, 128)) for n in range(3000)]
    choose(page, nt.from_tuples(rows))
    generate(page, notes=5)
    page.get_by_label("Link to take 1").click()
    shows(page, "#status", "The beginning is too long for a link: send song.mid along.")
    eventually(lambda: "file=song.mid" in link_of(page), "the file's name in the page's address")
    other = visit(link_of(page))
    shows(other, "#message", "began with song.mid, which is too long for a link")
    assert other.input_value("#notes") == "5" and not other.posted


def test_a_phone_in_the_house_hears_it_too_and_has_its_links(visit, address):
    """Over plain HTTP a browser has neither AudioWorklet nor clipboard."""
    visit.refused = ("The Cross-Origin-Opener-Policy header has been ignored",)  # as it is over plain HTTP
    page = visit(address.replace("127.0.0.1", ANOTHER), has_touch=True)
    ready(page)
    assert not page.evaluate("isSecureContext")
    generate(page, notes=40)
    eventually(lambda: audible(page), "sound")
    page.get_by_label("Link to take 1").click()
    assert "random_seed=" in page.get_by_role("textbox", name="Link to take 1").input_value()


def test_a_link_by_another_model_says_so(visit):
    page = visit("/?notes=5&random_seed=1&seed=waltz&model=performance/9")
    shows(page, "#message", "The link's take was made by performance/9, and this server plays toy/1: it may differ.")


def test_a_damaged_link_says_so(visit):
    page = visit("/?notes=5&random_seed=1#midi=no*such*thing")
    shows(page, "#message", "The link is damaged")


def test_a_take_is_downloaded_as_midi(visit):
    page = visit()
    ready(page)
    choose(page)
    generate(page, notes=20, random_seed=9)
    with page.expect_download() as download:
        page.get_by_label("MIDI: download take 1").click()
    assert download.value.suggested_filename == "toy-1-9.mid"
    notes = midi.read(Path(download.value.path()).read_bytes())
    expected = np.concatenate([SEED, nt.shift(SCRIPT[:20], 1.0)])
    assert notes["pitch"].tolist() == expected["pitch"].tolist()
    np.testing.assert_allclose(notes["start"], expected["start"], atol=0.006)


@pytest.mark.parametrize("backend", [lambda: AskedBackend(melody(300))], indirect=True)
def test_a_take_that_ends_at_a_second_has_all_its_notes_in_a_file_and_in_a_link(visit):
    page = visit()
    ready(page)
    choose(page)
    page.select_option("#style", "Frédéric Chopin")
    generate(page, seconds=60, random_seed=9)
    shows(page, "#status", "Take 1 is ready: 300 notes")
    with page.expect_download() as download:
        page.get_by_label("MIDI: download take 1").click()
    assert len(midi.read(Path(download.value.path()).read_bytes())) == len(SEED) + 300
    eventually(lambda: "#midi=" in link_of(page), "the take in the page's address")
    page.get_by_label("Same settings as for take 1").click()
    assert page.input_value("#notes") == "256"
    other = visit(link_of(page))
    shows(other, "#status", "Take 1 is ready: 300 notes")
    assert other.posted[0].url == page.posted[0].url and "notes" not in other.posted[0].url
    assert other.input_value("#style") == "Frédéric Chopin"
    shows(visit("/?seconds=60&notes=20&random_seed=9"), "#status", "Take 1 is ready: 20 notes")


def test_a_link_asks_for_nothing_that_this_model_does_not_have(visit):
    page = visit("/?notes=5&seconds=60&density=8&style=chopin&random_seed=9&seed=nocturne&model=other%2F1")
    shows(page, "#status", "Take 1 is ready: 5 notes")
    shows(page, "#message", "The link's take was made by other/1, and this server plays toy/1: it may differ.")
    generate(page, notes=6, number=2)
    assert not any(name in sent.url for sent in page.posted for name in ("seconds", "density", "style"))


def test_a_format_that_the_server_cannot_make_says_what_is_missing(visit, monkeypatch):
    def check():
        raise MissingDependency("FluidSynth is missing: `apt-get install libfluidsynth3` brings it")

    monkeypatch.setattr(responses.audio, "check", check)
    visit.refused = (REFUSED,)
    page = visit()
    ready(page)
    generate(page, notes=5)
    page.get_by_label("MP3: download take 1").click()
    shows(page, "#message", "This server cannot make that format. FluidSynth is missing: `apt-get install libfluid")


# What may go wrong


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"this is no music", re.compile("^This is neither a MIDI nor a MusicXML file, or it is damaged.$")),
        (midi.write(nt.empty()), "The server cannot do that. The seed is a file without notes"),
        (midi.write(nt.from_tuples([(0, 1, 5, 60)])), "The server cannot do that."),  # below the model's lowest
        (bytes(6 * 2**20), "song.mid is too large: 6.0 MB, and the server takes 5."),
    ],
    ids=["text", "no notes", "too low", "too large"],
)
def test_a_file_that_cannot_be_continued_is_refused_in_words(visit, tmp_path, data, message):
    (tmp_path / "song.mid").write_bytes(data)
    visit.refused = (REFUSED,)
    page = visit()
    ready(page)
    page.set_input_files("#seed", tmp_path / "song.mid")
    shows(page, "#message", message)
    shows(page, "#choices [aria-pressed=true]", "Nocturne")  # what was there stays
    generate(page, notes=5)
    assert page.is_hidden("#message")


def test_a_server_that_wants_a_key_is_given_one_and_no_other_page_hears_of_it(visit, app):
    api_keys.guard(app, api_keys.Keys(["a-key-of-this-server"]))
    visit.refused = (REFUSED,)
    prompts, answers = [], ["wrong", "a-key-of-this-server"]

    def answer(dialog) -> None:
        prompts.append(dialog.message)
        dialog.accept(answers.pop(0)) if answers else dialog.dismiss()

    page = visit("about:blank")
    page.on("dialog", answer)
    page.goto(visit.address)
    ready(page)
    generate(page, notes=5)
    assert prompts == ["This server needs a key:", "This key is not valid. The key of this server:"]
    assert page.evaluate("[localStorage.length, sessionStorage.length, document.cookie]") == [0, 0, ""]
    page.reload()  # and nobody answers now
    shows(page, "#message", re.compile("^This server needs a valid key.$"))


def test_a_model_that_is_away_is_reported(visit, backend):
    visit.refused = (REFUSED,)
    page = visit()
    ready(page)

    def away(*_):
        raise Unavailable("no model server answers at 127.0.0.1:8500")

    backend.on_call = away
    page.click("#generate")
    answer = "The model is not available. No model server answers at 127.0.0.1:8500. Try again in 2 seconds."
    shows(page, "#message", answer)
    assert page.locator("#takes .take").count() == 0
    assert page.inner_text("#generate") == "Generate"
    page.click("[data-example=waltz]")  # which can be seen all the same
    shows(page, "#status", "Waltz: 120 notes")
    page.reload()
    shows(page, "#message", "The model is not available.")  # told before anybody tries
    eventually(lambda: inked(page, "--seed") > 500, "the nocturne on the roll")


def test_a_model_that_goes_away_in_the_middle_is_reported_and_what_came_is_kept(visit, backend):
    def on_call(number, _):
        if number > 8:
            raise Unavailable("the model server stopped")

    page = visit()
    ready(page)
    backend.calls.clear()
    backend.on_call = on_call
    page.click("#generate")
    shows(page, "#message", "The model is not available. The model server stopped.")
    shows(page, "#takes .facts", re.compile(r"^\d+ notes · broke off"))
    assert page.is_enabled("#continue")


def test_a_server_that_stops_in_the_middle_is_reported_and_what_came_is_kept(visit, app):
    inner = app.wsgi_app

    def breaking(environ, start_response):
        with closing(inner(environ, start_response)) as body:
            for number, data in enumerate(body):
                if number == 3 and environ["PATH_INFO"] == "/generate":
                    time.sleep(0.5)  # a browser forgets what it has not handed over when a connection breaks
                    raise ConnectionAbortedError("the server stops here")
                yield data

    app.wsgi_app = breaking
    visit.refused = (REFUSED,)
    page = visit()
    ready(page)
    page.click("#generate")
    shows(page, "#message", "The connection broke off before the end. What came is kept")
    shows(page, "#takes .facts", re.compile(r"^34 notes · broke off"))


def test_a_server_that_is_gone_is_reported(visit, chromium, app):
    visit.refused = (REFUSED,)
    with serving(app) as other:
        context = chromium.new_context()
        page = context.new_page()
        page.goto(other)
        ready(page)
    page.click("#generate")
    shows(page, "#message", "The server does not answer. Is it still running")
    context.close()


def test_a_setting_that_is_wrong_is_reported_where_it_stands(visit):
    page = visit()
    ready(page)
    for field, value in (("#temperature", "3"), ("#top-p", "0"), ("#min-p", "1"), ("#notes", "5000")):
        before = page.input_value(field)
        page.fill(field, value)
        page.click("#generate")
        assert page.evaluate("document.activeElement.id") == field[1:]
        page.fill(field, before)
    assert not page.posted


def test_what_a_model_has_no_controls_for_is_not_offered(visit):
    page = visit()
    ready(page)
    shows(page, "#model", "the model toy/1")
    assert not page.is_visible("#controls")


class TestControls:
    @pytest.fixture
    def backend(self):
        return AskedBackend(SCRIPT)

    def test_style_density_loudness_and_length_are_asked_for_and_in_the_link(self, visit, backend):
        page = visit()
        ready(page)
        shows(page, "#model", "the model toy/1")
        names = page.locator("#style option").all_inner_texts()
        assert names == ["as it comes", "Claude Debussy", "Frédéric Chopin"]
        assert (page.get_attribute("#density", "min"), page.get_attribute("#density", "max")) == ("1", "10")
        page.select_option("#style", "Frédéric Chopin")
        generate(page, density=9, loudness=45, seconds=60, random_seed=5)
        shows(page, ".facts", "Frédéric Chopin · 9 notes a second · velocity 45 · to end at 1:00")
        assert backend.asked[0][:3] == [2, 3, 1] and backend.asked[0][3] > 2000
        query = "density=9&loudness=45&seconds=60"
        assert query in page.posted[0].url and "notes=" not in page.posted[0].url
        eventually(lambda: query in link_of(page), "the take in the page's address")
        other = visit(link_of(page))
        shows(other, "#status", "Take 1 is ready")
        assert other.input_value("#style") == "Frédéric Chopin" and backend.asked[-1][:3] == [2, 3, 1]

    def test_what_is_shown_is_brought_to_an_end(self, visit, backend):
        page = visit()
        ready(page)
        page.wait_for_selector("#end", state="visible")
        page.click("#end")
        shows(page, "#status", "Take 1 is ready")
        assert 1600 < backend.asked[0][3] < 2200  # the cells from the last onset to 2.4 s before the end, 20 s later
        assert page.posted[0].url.endswith(f"seconds={page.input_value('#seconds')}")

    def test_a_length_that_the_seed_has_already_is_a_sentence(self, visit):
        visit.refused = ("Failed to load resource: the server responded with a status of 422",)
        page = visit()
        ready(page)
        page.wait_for_selector("#controls", state="visible")
        page.fill("#seconds", "1")
        page.click("#generate")
        shows(page, "#message", "Seconds: expected more than")


# For everybody


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_to_object_to(visit, scheme):
    from axe_playwright_python.sync_playwright import Axe

    visit.refused = (REFUSED,)
    page = visit(color_scheme=scheme)
    ready(page)
    generate(page, notes=20)
    page.get_by_text("The notes as a table").click()
    page.set_input_files("#seed", {"name": "no.mid", "mimeType": "audio/midi", "buffer": b"no"})
    shows(page, "#message", "This is neither a MIDI nor a MusicXML file")
    assert violations(Axe().run(page)) == []
    page.click("#own")
    page.wait_for_selector("#piano .key")
    page.set_viewport_size({"width": 390, "height": 844})
    assert violations(Axe().run(page)) == []


def violations(results) -> list[str]:
    report = results.response
    assert report["passes"]  # it did look
    return [f"{one['id']}: {[node['target'] for node in one['nodes']]}" for one in report["violations"]]


def test_the_keyboard_alone_is_enough(visit):
    page = visit()
    ready(page)

    def tab_to(selector: str) -> None:
        for _ in range(40):
            page.keyboard.press("Tab")
            if page.evaluate("(selector) => document.activeElement.matches(selector)", selector):
                return
        raise AssertionError(f"no way to {selector}")

    tab_to("[data-example=chorale]")
    page.keyboard.press("Enter")
    shows(page, "#status", "Chorale: 71 notes")
    tab_to("#seed")  # the file's field, which opens with Space or Enter
    tab_to("#overview")
    page.keyboard.press("End")
    assert page.get_attribute("#overview", "aria-valuetext") == "0:20 of 0:20"
    page.keyboard.press("Home")
    page.keyboard.press(" ")
    shows(page, "#now", "0:01")
    page.keyboard.press(" ")
    tab_to("#generate")
    page.keyboard.press("Enter")
    shows(page, "#status", "Take 1 is ready")
    tab_to("#takes .choose")
    tab_to("[aria-label='MIDI: download take 1']")


@pytest.mark.parametrize("width", [320, 390, 820, 1440])
def test_nothing_is_wider_than_the_screen(visit, width):
    page = visit(has_touch=width < 800)
    ready(page)
    page.set_viewport_size({"width": width, "height": 800})
    generate(page, notes=20)
    page.click("#own")
    page.wait_for_selector("#piano .key")
    assert page.evaluate("document.documentElement.scrollWidth") == width
    key = page.locator("#piano .key.white").first.bounding_box()
    assert key["width"] >= 30 and key["height"] >= 100  # a finger's


def test_the_notes_can_be_read_as_a_table(visit):
    page = visit()
    ready(page)
    choose(page)
    generate(page, notes=2)
    page.get_by_text("The notes as a table").click()
    rows = page.locator("#table-body tbody tr").all_inner_texts()
    assert [row.split("\t") for row in rows[:4]] == [
        ["0.50", "C4", "0.40", "70", "beginning"],
        ["0.75", "E4", "0.25", "71", "beginning"],
        ["1.00", "G4", "1.00", "72", "beginning"],
        ["1.00", "C5", "0.25", "60", "take 1"],
    ]
    assert len(rows) == 5


def test_without_scripts_the_page_is_a_form_that_answers_with_a_file(visit):
    page = visit(java_script_enabled=False)
    assert page.is_visible("#format") and page.is_visible("#program")
    assert page.is_hidden("#roll") and page.is_hidden("#own") and page.is_hidden(".slide >> nth=0")
    page.fill("#notes", "6")
    page.set_input_files("#seed", {"name": "song.mid", "mimeType": "audio/midi", "buffer": midi.write(SEED)})
    with page.expect_download() as download:
        page.click("#generate")
    assert len(midi.read(Path(download.value.path()).read_bytes())) == 3 + 6


# What the browser is given, without a browser


def test_every_reply_says_what_a_browser_may_do_with_it(app):
    client = app.test_client()
    for path in ("/", "/static/app.js", "/piano.json", "/healthz", "/nowhere"):
        with client.get(path) as response:
            headers = response.headers
        policy = headers["Content-Security-Policy"]
        assert "default-src 'self'" in policy and "frame-ancestors 'none'" in policy and "unsafe" not in policy
        assert headers["X-Content-Type-Options"] == "nosniff" and headers["Referrer-Policy"] == "no-referrer"


def test_the_page_has_nothing_inline_and_names_no_other_host(app):
    html = app.test_client().get("/").text
    assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\sstyle=|\son[a-z]+=|javascript:", html)
    assert "GNU GPL version 2" in html and "TimGM6mb" in html
    files = [path.read_text() for path in sorted(STATIC.iterdir())]
    named = {url for text in (html, *files) for url in re.findall(r"https?://[^\s\"'`)>]+", text)}
    assert named <= {"http://www.w3.org/2000/svg"}  # a name, not a place


def test_the_page_is_small(app):
    client = app.test_client()
    served = ["/", "/piano.json", "/piano.pcm", *(f"/static/{path.name}" for path in STATIC.iterdir())]
    size = 0
    for path in served:
        with client.get(path) as response:
            size += len(response.data)
    assert size < 350_000  # bytes: all that a phone fetches


def test_the_piano_is_kept_by_the_browser(app):
    client = app.test_client()
    first = client.get("/piano.pcm")
    assert first.headers["Cache-Control"] == "max-age=86400, public"
    again = client.get("/piano.pcm", headers={"If-None-Match": first.headers["ETag"]})
    assert again.status_code == 304 and not again.data
    facts = client.get("/piano.json").json
    assert len(first.data) == 2 * sum(sample["frames"] for sample in facts["samples"])
    assert "GPL" in facts["font"]


def test_notes_are_those_that_generate_hears(app):
    client = app.test_client()
    reply = client.post("/notes", data=midi.write(SEED), content_type="audio/midi").json
    generated = client.post("/generate?format=json&notes=1", data=midi.write(SEED), content_type="audio/midi").json
    assert reply["drums"] == 0
    assert [{**note, "seed": True} for note in reply["notes"]] == generated["notes"][:3]


@pytest.mark.parametrize(
    ("data", "kind", "status"),
    [
        (b"", None, 400),
        (b"no MIDI", "audio/midi", 400),
        (midi.write(nt.empty()), "audio/midi", 422),
        (midi.write(nt.from_tuples([(0, 1, 5, 60)])), "audio/midi", 422),
        (b"{}", "application/json", 415),
        (bytes(6 * 2**20), "audio/midi", 413),
    ],
)
def test_notes_has_the_errors_of_generate(app, data, kind, status):
    response = app.test_client().post("/notes", data=data, content_type=kind)
    assert (response.status_code, response.mimetype) == (status, "application/problem+json")


def test_the_notes_of_a_file_can_be_had_while_the_model_is_away(app, backend):
    def away(*_):
        raise Unavailable("gone")

    backend.on_call = away
    response = app.test_client().post("/notes", data=midi.write(SEED), content_type="audio/midi")
    assert len(response.json["notes"]) == 3


@pytest.mark.parametrize("name", sorted(EXAMPLES))
def test_an_example_is_music_that_can_be_continued(app, name):
    response = app.test_client().get(f"/examples/{name}.mid")
    notes = midi.read(response.data)
    assert response.mimetype == "audio/midi"
    assert 50 < len(notes) < 200 and 15 < nt.length(notes) < 40
    assert notes["pitch"].min() >= 24 and notes["pitch"].max() <= 100 and notes["velocity"].max() < 110
    assert max(np.diff(notes["start"])) < 2  # it moves
    assert EXAMPLES[name].title in app.test_client().get("/").text


def test_an_example_that_is_not_there_is_a_problem(app):
    response = app.test_client().get("/examples/sonata.mid")
    assert (response.status_code, response.mimetype) == (404, "application/problem+json")


# The shipped model


@pytest.mark.slow
def test_the_shipped_model_from_the_beginning_to_the_file(chromium):
    """With a random seed of the server's own: what is heard, what its link makes, and its file are the same music."""
    from playwright.sync_api import expect

    backend = Embedded(None)
    with serving(create_app(backend=backend)) as url:
        context = chromium.new_context()
        page = context.new_page()
        bodies: list[str] = []
        page.on("requestfinished", lambda sent: bodies.append(sent.response().text()) if "ndjson" in sent.url else None)
        page.goto(url)
        page.click("[data-example=chorale]")
        shows(page, "#status", "Chorale: 71 notes")
        page.fill("#notes", "40")
        done = re.compile(r"Take \d+ is ready|the piece ends here")
        for _ in range(5):  # of forty random seeds, one ends the chorale at once
            page.click("#generate")
            expect(page.locator("#status")).to_contain_text(done, timeout=60_000)
            if "is ready" in page.text_content("#status"):
                break
        eventually(lambda: "random_seed=" in link_of(page), "the take in the page's address")
        link = link_of(page)
        drawn = int(link.split("random_seed=")[1].split("&")[0])
        with page.expect_download() as download:
            page.get_by_label("MIDI: download take").click()
        notes = midi.read(Path(download.value.path()).read_bytes())
        page.goto("about:blank")
        page.goto(link)
        expect(page.locator("#status")).to_contain_text("Take 1 is ready", timeout=60_000)
        context.close()
    assert len(bodies) >= 2 and bodies[-2] == bodies[-1]
    seed = midi.read(midi.write(EXAMPLES["chorale"].notes()))
    chunks = list(Generator(backend).stream(seed, Settings(notes=40, random_seed=drawn)))
    continuation = np.concatenate([chunk.notes for chunk in chunks])
    expected = nt.sort(np.concatenate([seed, continuation]))
    assert len(continuation) and notes["pitch"].tolist() == expected["pitch"].tolist()
