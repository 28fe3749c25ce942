"""What is cut out of the sound font, against the font itself; and fonts that are none."""

import numpy as np
import pytest

from music.audio import browser_samples, sound_fonts
from music.errors import SoundFontError

PIANO = browser_samples.read(sound_fonts.default())


def test_every_key_of_a_piano_has_exactly_one_sample_whatever_the_velocity():
    for key in range(21, 109):
        zones = [zone for zone in PIANO.zones if zone["keys"][0] <= key <= zone["keys"][1]]
        assert len(zones) == 1, key
        assert zones[0]["velocities"] == [0, 127]


def test_the_samples_are_small_and_stand_one_after_the_other():
    assert PIANO.name == "Piano 1" and PIANO.frames.dtype == np.int16
    ends = [0, *(sample["first"] + sample["frames"] for sample in PIANO.samples)]
    assert [sample["first"] for sample in PIANO.samples] == ends[:-1] and ends[-1] == len(PIANO.frames)
    assert 2 * len(PIANO.frames) < 200_000  # bytes: what a phone has to fetch
    assert np.abs(PIANO.frames.astype(int)).max() > 2**14  # and they are no silence


def test_loops_lie_inside_their_samples():
    for zone in PIANO.zones:
        start, end = zone["loop"]
        assert 0 <= start < end <= PIANO.samples[zone["sample"]]["frames"]


@pytest.mark.parametrize("key", [33, 45, 57, 60, 69, 81, 93])
def test_a_loop_sounds_at_the_pitch_of_its_key(key):
    """The strongest partial of the loop, played as the zone says, is one of the key's own."""
    zone = next(zone for zone in PIANO.zones if zone["keys"][0] <= key <= zone["keys"][1])
    sample = PIANO.samples[zone["sample"]]
    start, end = (sample["first"] + frame for frame in zone["loop"])
    loop = np.tile(PIANO.frames[start:end].astype(float), 8)
    rate = sample["rate"] * 2 ** (((key - zone["root"]) * zone["cents_a_key"] + zone["cents"]) / 1200)
    strongest = np.abs(np.fft.rfft(loop * np.hanning(len(loop)), 2**18))[50:].argmax() + 50
    partial = strongest * rate / 2**18 / (440 * 2 ** ((key - 69) / 12))
    assert abs(1200 * np.log2(partial / max(1, round(partial)))) < 15, partial  # cents; a string's partials are sharp


def test_times_and_loudness_are_in_seconds_and_parts():
    zone = next(zone for zone in PIANO.zones if zone["keys"] == [57, 57])
    assert zone["gain"] == pytest.approx(10 ** (-135 / 200), rel=1e-4)
    assert zone["loudness"]["release"] == pytest.approx(2 ** (75 / 1200), rel=1e-3)
    assert zone["loudness"]["sustain_db"] == -100
    assert zone["filter"]["hertz"] == pytest.approx(440, abs=0.5) and zone["filter"]["cents"] == 3009
    assert (zone["root"], zone["cents"]) == (74, 7)


def test_another_instrument_has_other_samples():
    assert browser_samples.read(sound_fonts.default(), 40).name != PIANO.name


def test_an_instrument_that_is_not_there_is_an_error():
    with pytest.raises(SoundFontError, match="no instrument 200"):
        browser_samples.read(sound_fonts.default(), 200)


@pytest.mark.parametrize("cut", [4, -30, -150_000])
def test_a_damaged_font_is_an_error(tmp_path, cut):
    data = bytearray(sound_fonts.default().read_bytes())
    font = tmp_path / "broken.sf2"
    font.write_bytes(data[:cut])
    with pytest.raises(SoundFontError):
        browser_samples.read(font)


def test_a_font_whose_tables_point_nowhere_is_an_error(tmp_path):
    data = bytearray(sound_fonts.default().read_bytes())
    at = data.index(b"inst", data.index(b"pdta")) + 8
    for record in range(at, at + 4_600, 22):
        data[record + 20 : record + 22] = b"\xff\xff"
    font = tmp_path / "lost.sf2"
    font.write_bytes(data)
    with pytest.raises(SoundFontError, match="damaged"):
        browser_samples.read(font)
