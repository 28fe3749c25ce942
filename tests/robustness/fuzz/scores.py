"""Any bytes as MusicXML: notes as everybody expects them and lines that tell, or a MidiError of one line."""

from tests.robustness.fuzz.midi import read_or_refused
from tests.support.scores import STUDY, attributes, bars, closes, ending, note, packed, score, sound

SEEDS = [
    STUDY,
    packed(STUDY),
    STUDY.decode().encode("utf-16"),
    score(bars("", ending("1, 2"), ending("3", close=False), sound(dacapo="yes"))),
    score(bars("", sound(segno="a", tempo="77"), sound(tocoda="b"), sound(dalsegno="a"), sound(coda="b"))),
    score(
        [attributes(7, (5, 8), "<transpose><chromatic>-2</chromatic></transpose>") + note("F#3", 3), closes("4")],
        [note("C4", 2, '<tie type="start"/>') + "<forward><duration>2</duration></forward>" + note("", 1)],
    ),
]
REGRESSIONS: list[bytes] = []


def one(data: bytes) -> None:
    read_or_refused(data)
