"""Sound: the samples are those of the notes. Where FluidSynth is not installed, only its absence is tested."""

import io
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from music import __main__ as cli
from music import midi, storage
from music import notes as nt
from music.audio import sound_fonts, synthesis
from music.errors import MissingDependency, MusicError, SettingError, SoundFontError
from music.examples.nocturne import nocturne

ROOT = Path(__file__).parents[2]
A4, VIOLIN, WOODBLOCK = 69, 40, 115

try:
    synthesis.check()
    MISSING = ""
except MissingDependency as error:
    MISSING = str(error)
audible = pytest.mark.skipif(bool(MISSING), reason=MISSING)


def sound_of(notes, sound_font=None):
    """Render all the samples, [frames, 2]."""
    return np.concatenate(list(synthesis.render(notes, sound_font)))


def loudness(samples, start, end):
    """Compute the root mean square between two seconds."""
    part = samples[int(start * synthesis.RATE) : int(end * synthesis.RATE)]
    return float(np.sqrt(np.mean(part.astype("f8") ** 2)))


def frequency(samples, low, high):
    """Find the strongest frequency between two, Hz."""
    mono = samples.mean(1) * np.hanning(len(samples))
    spectrum = np.abs(np.fft.rfft(mono, 8 * len(mono)))
    scale = np.fft.rfftfreq(8 * len(mono), 1 / synthesis.RATE)
    inside = (scale > low) & (scale < high)
    return float(scale[inside][spectrum[inside].argmax()])


# --- what sounds -------------------------------------------------------------------------------------------------


@audible
@pytest.mark.parametrize(
    "notes",
    [
        nocturne(),
        nt.from_tuples([(0, 0.001, 60)]),
        nt.from_tuples([(2.5, 4.25, 60), (3, 3.5, 64)]),
        nt.from_tuples([(0, 1, 60, 80, 48), (0, 7, 48, 80, 89)]),  # strings, and a pad that rings for long
        nt.from_tuples([(0, 1, 36, 80, nt.DRUMS)]),
    ],
)
def test_sound_is_as_long_as_the_music_and_then_dies_away(notes):
    samples = sound_of(notes)
    assert samples.dtype == np.float32 and samples.shape[1] == 2
    assert nt.length(notes) - 0.01 <= len(samples) / synthesis.RATE <= nt.length(notes) + synthesis.TAIL + 0.01
    written = nt.length(midi.read(midi.write(notes)))
    assert abs(nt.length(notes) - written) < 0.01
    assert np.abs(samples[-1]).max() < 0.01


@audible
def test_a_piano_dies_away_sooner_than_a_sound_may():
    notes = nt.from_tuples([(0, 1, 60, 100)])
    assert len(sound_of(notes)) / synthesis.RATE < 1 + 0.75 * synthesis.TAIL


@audible
@pytest.mark.parametrize("velocity", [1, 20, 64, 127])
def test_neither_silent_nor_clipped(velocity):
    one, all_keys = [(0, 1, A4, velocity)], [(0, 1, pitch, velocity) for pitch in range(21, 109)]
    for rows in (one, all_keys):
        samples = sound_of(nt.from_tuples(rows))
        assert 0.002 < np.abs(samples).max() < 0.9


@audible
def test_quiet_music_stays_quieter_but_is_brought_half_the_way():
    peaks = [float(np.abs(sound_of(nt.from_tuples([(0, 1, A4, velocity)]))).max()) for velocity in (1, 30, 60, 100)]
    assert peaks == sorted(peaks) and peaks[0] < 0.1 * peaks[-1]
    loud = sound_of(nt.from_tuples([(0, 1, A4 + k, 127) for k in range(12)]))
    assert np.abs(loud).max() == pytest.approx(synthesis.PEAK, abs=1e-4)


@audible
def test_dynamics_within_a_piece_are_the_synthesisers():
    samples = sound_of(nt.from_tuples([(0, 1, A4, 100), (3, 4, A4, 40)]))
    assert loudness(samples, 0, 1) > 4 * loudness(samples, 3, 4) > 0


@audible
@pytest.mark.parametrize(("pitch", "hertz"), [(A4, 440.0), (A4 - 12, 220.0), (60, 261.63), (84, 1046.5)])
def test_the_pitch_is_right(pitch, hertz):
    measured = frequency(sound_of(nt.from_tuples([(0, 2, pitch, 90)])), hertz / 1.4, hertz * 1.4)
    assert abs(1200 * np.log2(measured / hertz)) < 10  # cents: a tenth of a semitone


@audible
def test_notes_begin_when_they_should():
    at = np.array([0.0, 0.5003, 1.1234, 1.87, 2.6021, 61.7777])
    samples = np.abs(sound_of(nt.from_columns(at, at + 0.05, 76, 100, WOODBLOCK))).max(1)
    looked = [int(t * synthesis.RATE) for t in np.maximum(at - 0.02, 0)]
    begins = [(np.argmax(samples[first:] > 0.05) + first) / synthesis.RATE for first in looked]
    late = np.array(begins) - at
    assert np.ptp(late) < 0.002  # blocks of 1.5 ms
    assert np.abs(late).max() < 0.005


@audible
def test_a_note_ends_when_it_should():
    samples = sound_of(nt.from_tuples([(0, 1, 60, 90, VIOLIN), (3, 3.5, 60, 90, VIOLIN)]))
    assert loudness(samples, 0.5, 1) > 50 * loudness(samples, 2.5, 3)


@audible
def test_a_key_struck_again_sounds_on_when_the_first_note_ends():
    again = sound_of(nt.from_tuples([(0, 1, 60, 90, VIOLIN), (0.5, 3, 60, 90, VIOLIN)]))
    assert loudness(again, 2, 2.9) > 0.3 * loudness(again, 0.6, 0.95)
    inside = nt.from_tuples([(0, 6, 60, 90, VIOLIN), (0.5, 1, 60, 90, VIOLIN)])  # in MIDI one release ends both
    assert len(sound_of(inside)) / synthesis.RATE < nt.length(midi.read(midi.write(inside))) + synthesis.TAIL + 0.01


@audible
def test_music_without_notes_is_a_little_silence():
    samples = sound_of(nt.empty())
    assert len(samples) == int(synthesis.TAIL * synthesis.RATE) and np.abs(samples).max() < 1e-6


@audible
def test_the_same_notes_give_the_same_samples_in_every_thread():
    notes = nt.excerpt(nocturne(), 0, 4)
    expected, got = sound_of(notes), []
    threads = [threading.Thread(target=lambda: got.append(sound_of(notes))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(got) == 4 and all(np.array_equal(samples, expected) for samples in got)


@audible
def test_a_long_piece_waits_on_disk_and_sounds_the_same(monkeypatch):
    expected = sound_of(nocturne())
    monkeypatch.setattr(synthesis, "_IN_MEMORY", 1000)
    monkeypatch.setattr(synthesis, "_BLOCKS", 7)
    np.testing.assert_array_equal(sound_of(nocturne()), expected)


# --- instruments -------------------------------------------------------------------------------------------------


@audible
def test_a_program_changes_the_sound():
    piano = nt.from_tuples([(0, 3, A4, 90)])
    violin = nt.with_program(piano, VIOLIN)
    held, struck = sound_of(violin), sound_of(piano)
    assert loudness(struck, 2.5, 3) < 0.3 * loudness(struck, 0, 0.5)  # a piano dies away
    assert loudness(held, 2.5, 3) > 0.5 * loudness(held, 0.5, 1)  # a bow goes on
    assert frequency(held, 400, 480) == pytest.approx(440, abs=3)


@audible
def test_drums_stay_drums():
    beat = nt.from_tuples([(0, 0.2, 36, 100, nt.DRUMS), (0.5, 0.7, 38, 100, nt.DRUMS)])
    np.testing.assert_array_equal(nt.with_program(beat, VIOLIN), beat)
    piano = nt.with_program(nt.from_columns(beat["start"], beat["end"], beat["pitch"], 100), 0)
    both = sound_of(np.sort(np.concatenate([beat, nt.shift(piano, 1)]), order=["start", "pitch"]))
    mono = both.mean(1)
    early, late = mono[: synthesis.RATE // 2], mono[synthesis.RATE : synthesis.RATE * 3 // 2]
    assert abs(np.corrcoef(early, late)[0, 1]) < 0.3


@audible
def test_more_instruments_than_midi_has_channels_keep_their_sounds():
    programs = [*range(0, 120, 5), nt.DRUMS]  # 25 of them
    rows = [(3.0 * k, 3.0 * k + 1, 60, 90, program) for k, program in enumerate(programs)]
    together = sound_of(nt.from_tuples(rows)).mean(1)
    for k in (0, 8, 9, 10, 16, 20, 24):
        alone = sound_of(nt.from_tuples([(0, 1, 60, 90, programs[k])])).mean(1)[: synthesis.RATE]
        there = together[round(3 * k * synthesis.RATE / 64) * 64 :][: len(alone)]
        assert np.corrcoef(alone, there)[0, 1] > 0.98, programs[k]


def test_a_program_has_a_number_and_a_name():
    assert [midi.find_program(text) for text in ("0", "127", "violin", " Honky-tonk piano ", "honky")] == [
        0,
        127,
        40,
        3,
        3,
    ]
    for text, message in [
        ("128", "expected 0 to 127, got 128"),
        ("-1", "no instrument is called '-1'"),
        ("", "no instrument is called ''"),
        ("kazoo", "no instrument is called 'kazoo', expected 0 to 127 or a General MIDI name"),
        ("choir", r"'choir' may be Choir Aahs \(52\), Synth Choir \(54\)"),
    ]:
        with pytest.raises(SettingError, match=message):
            midi.find_program(text)


# --- files -------------------------------------------------------------------------------------------------------


@audible
@pytest.mark.parametrize("format", synthesis.FORMATS)
def test_a_file_decodes_to_what_was_written(format):
    import soundfile

    notes, file = nocturne(), io.BytesIO()
    expected = sound_of(notes)
    synthesis.write(notes, file, format)
    file.seek(0)
    samples, rate = soundfile.read(file, dtype="float32")
    assert rate == synthesis.RATE and samples.shape == expected.shape
    assert np.abs(samples).max() < 1
    assert np.abs(samples - expected).max() < (0.1 if format in ("mp3", "ogg") else 1 / 2**15)
    file.seek(0)
    info = soundfile.info(file)
    assert (info.format, info.channels) == (synthesis.FORMATS[format]["format"], 2)


@audible
@pytest.mark.parametrize("format", synthesis.FORMATS)
def test_even_silence_is_a_file_that_can_be_read(format):
    import soundfile

    file = io.BytesIO()
    synthesis.write(nt.empty(), file, format)
    file.seek(0)
    assert len(soundfile.read(file)[0]) == int(synthesis.TAIL * synthesis.RATE)


@audible
def test_an_mp3_may_be_smaller_and_is_as_long():
    import soundfile

    notes, sizes, lengths = nt.excerpt(nocturne(), 0, 8), [], []
    for compression in (None, 0.7):
        file = io.BytesIO()
        synthesis.write(notes, file, "mp3", compression=compression)
        sizes.append(file.tell())
        file.seek(0)
        lengths.append(soundfile.info(file).duration)
    assert sizes[1] < 0.75 * sizes[0]
    assert lengths[1] == pytest.approx(lengths[0], abs=0.1)


def test_a_files_ending_says_its_format():
    assert [synthesis.format_of(path) for path in ("a.wav", "b/C.MP3", "x.y.flac", Path("z.ogg"))] == [
        *synthesis.FORMATS
    ]
    for path in ("a.txt", "a", "wav", ".mp3"):
        with pytest.raises(SettingError, match=r"ends in one of \.wav, \.mp3, \.flac, \.ogg"):
            synthesis.format_of(path)


def test_a_file_that_could_not_be_written_to_its_end_leaves_the_old_one(tmp_path):
    storage.write(tmp_path / "a", b"old")
    with pytest.raises(ZeroDivisionError), storage.writing(tmp_path / "a") as file:
        file.write(b"new")
        raise ZeroDivisionError
    assert storage.read(tmp_path / "a") == b"old" and storage.entries(tmp_path) == ["a"]
    with storage.writing(tmp_path / "b" / "c") as file:
        file.write(b"new")
    assert storage.read(tmp_path / "b" / "c") == b"new"


# --- the command -------------------------------------------------------------------------------------------------


@pytest.fixture
def song(tmp_path):
    path = tmp_path / "nocturne.mid"
    path.write_bytes(midi.write(nocturne()))
    return path


def mistake(capsys, *argv):
    """Run a wrong command; give the one line that it prints."""
    try:
        status = cli.run(["render", *map(str, argv)])
    except SystemExit as stopped:
        status = stopped.code
    out, err = capsys.readouterr()
    assert (status, out, err.count("\n")) == (2, "", 1)
    return err


@audible
def test_render_plays_a_part_on_an_instrument(tmp_path, song, capsys):
    import soundfile

    out = tmp_path / "new" / "part.wav"
    assert cli.run(["render", str(song), str(out), "--start", "10", "--seconds", "5", "--program", "violin"]) == 0
    assert capsys.readouterr().out == f"{out}\n"
    samples, _ = soundfile.read(out, dtype="float32")
    part = nt.with_program(nt.excerpt(midi.read(song.read_bytes()), 10, 5), VIOLIN)
    assert np.abs(samples - sound_of(part)).max() <= 1 / 2**15
    assert nt.length(part) - 0.01 <= len(samples) / synthesis.RATE <= 5 + synthesis.TAIL
    assert loudness(samples, 0, 0.5) > 0.001  # the part's own beginning, not ten seconds of silence


def test_render_names_the_endings_that_it_knows(tmp_path, song, capsys):
    line = mistake(capsys, song, tmp_path / "a.aac")
    assert "a.aac: expected a name that ends in one of .wav, .mp3, .flac, .ogg" in line


@audible
def test_renders_mistakes_are_one_line_and_leave_no_file(tmp_path, song, capsys):
    out = tmp_path / "a.wav"
    assert "No such file" in mistake(capsys, tmp_path / "b.mid", out)
    assert "'choir' may be" in mistake(capsys, song, out, "--program", "choir")
    assert "no note begins in that part" in mistake(capsys, song, out, "--start", "99")
    assert "expected a sound font" in mistake(capsys, song, out, "--sound-font", tmp_path / "none.sf2")
    assert storage.entries(tmp_path) == ["nocturne.mid"]


# --- sound fonts -------------------------------------------------------------------------------------------------


@audible
def test_another_sound_font_is_taken(tmp_path):
    other = tmp_path / "Größe.sf2"
    other.write_bytes(sound_fonts.default().read_bytes())
    notes = nt.from_tuples([(0, 1, 60)])
    np.testing.assert_array_equal(sound_of(notes, other), sound_of(notes))


@audible
@pytest.mark.parametrize("size", [0, 11, 12, 1000, 1_000_000, -1, "junk", "list"])
def test_a_damaged_sound_font_is_an_error_and_no_noise(tmp_path, capfd, size):
    font = sound_fonts.default().read_bytes()
    path = tmp_path / "damaged.sf2"
    path.write_bytes({"junk": b"no sound at all", "list": font[:12] + b"LIST\0\0\0\0" * 3}.get(size) or font[:size])
    with pytest.raises(SoundFontError, match=r"damaged\.sf2: (no|a damaged) sound font"):
        sound_of(nt.from_tuples([(0, 1, 60)]), path)
    if size != "list":  # its frame is complete, so that FluidSynth has to detect it
        assert capfd.readouterr() == ("", "")


@audible
def test_a_missing_sound_font_is_an_error(tmp_path):
    for path in (tmp_path / "none.sf2", tmp_path):
        with pytest.raises(SoundFontError, match=r"expected a sound font, a \.sf2 or \.sf3 file"):
            sound_of(nt.from_tuples([(0, 1, 60)]), path)


@audible
def test_notes_that_no_instrument_of_the_font_can_play_are_an_error():
    with pytest.raises(SoundFontError, match=r"TimGM6mb\.sf2 has no sound for any of the notes"):
        sound_of(nt.from_tuples([(0, 1, 127)]))
    sound_of(nt.from_tuples([(0, 1, 127), (0, 1, 60)]))


def test_without_the_default_font_the_package_that_brings_it_is_named(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingDependency, match="`pip install pretty_midi`"):
        sound_fonts.default()


@audible
def test_every_synthesiser_is_given_back(monkeypatch):
    import fluidsynth

    alive = []

    class Counted(fluidsynth.Synth):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            alive.append(self)

        def delete(self):
            super().delete()
            alive.remove(self)

    monkeypatch.setattr(fluidsynth, "Synth", Counted)
    sound_of(nocturne())
    next(synthesis.render(nocturne())).sum()  # and then nobody listens any more
    with pytest.raises(SoundFontError):
        sound_of(nt.from_tuples([(0, 1, 127)]))
    assert not alive


# --- what is not installed ---------------------------------------------------------------------------------------

COMMANDS = "`apt-get install libfluidsynth3` (Debian, Ubuntu) or `brew install fluid-synth` (macOS)"


def render(song, out, before, **environment):
    """Run the command in a new process, after some Python code."""
    program = f"{before}; import sys; from music.__main__ import run; sys.exit(run(sys.argv[1:]))"
    command = [sys.executable, "-c", program, "render", str(song), str(out)]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, timeout=120)
    return done.returncode, done.stdout, done.stderr


def test_without_the_library_the_command_that_installs_it_is_reported(tmp_path, song):
    """Runs everywhere: pyfluidsynth does not see the library."""
    absent = "import ctypes.util; ctypes.util.find_library = lambda name: None"
    status, out, err = render(song, tmp_path / "a.mp3", absent)
    assert (status, out) == (2, "")
    assert err == f"music render: {song}: sound needs the library FluidSynth: {COMMANDS} brings it\n"
    assert storage.entries(tmp_path) == ["nocturne.mid"]


@pytest.mark.parametrize("name", ["fluidsynth", "soundfile"])
def test_without_a_python_package_the_extra_is_reported(monkeypatch, name):
    if MISSING and name == "soundfile":
        pytest.skip(MISSING)
    monkeypatch.setitem(sys.modules, name, None)  # what import takes for "not there"
    synthesis._fluidsynth.cache_clear()
    with pytest.raises(MusicError, match=r"`pip install '\.\[audio\]'` brings it") as caught:
        synthesis.write(nt.empty(), io.BytesIO(), "wav")
    assert isinstance(caught.value, MissingDependency)


@audible
def test_the_command_says_nothing_else(tmp_path, song):
    out = tmp_path / "a.wav"
    assert render(song, out, "pass", CI="true") == (0, f"{out}\n", "")
