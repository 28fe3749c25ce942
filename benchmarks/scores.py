"""Measure how much of a written score comes back from a performance of it, and whether its pages hold all notes.

    python -m benchmarks.scores [maestro-v3.0.0-midi.zip]         # some minutes

Twenty keyboard scores of music21's corpus are played: the tempo walks at random, 3 % a quarter and at most 15 % away
from its middle, every onset and every end is moved by up to 20 ms, and each note by itself, all with one velocity, into
a MIDI file that claims 120 quarters a minute. From that file alone a score is written again and compared:

- beat: a note is right if its place in quarters is the true one, plus one number that is the same for the whole piece
  (upbeats are counted from elsewhere). Nothing is stretched and nothing synchronised again: one beat too many makes
  wrong all that follows. 'octave' lets the whole piece be written in twice or half the note values, a choice that the
  sound does not tell; a 3/8 read as a 3/4, for example.
- spelled: step and alteration are those of the score.
- key: the signature is the one that holds for most of the score (pieces may change it; we write one).

Tempos are those of the scores where they say one, else usual ones, set before the first run. The development set, on
which all constants were chosen, is in DEVELOPMENT; the five chorales here are the first five of Riemenschneider's
numbers. Not used: Schoenberg's op. 19, which has no key, and Weber's concertino, whose bars music21 finds overfull.

Beside: music21's own quantisation of the same MIDI file (also of one that claims the true mean tempo), its key analysis
(Krumhansl), its spelling of MIDI numbers. And for whole pieces of MAESTRO: do the pitches of the MusicXML, as music21
reads it back with ties joined, equal the file's?
"""

import argparse
import tempfile
import time
import warnings
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from music import midi
from music import notes as nt
from music.notation import beats as bt
from music.notation import hands, musicxml, spelling, voices

WORKS: dict[str, tuple[Any, float]] = {  # corpus name: (which parts; all if None, quarters a minute)
    "chopin/mazurka06-2": (None, 189),
    "schumann_clara/polonaise_op1n1": (None, 88),
    "schumann_clara/polonaise_op1n2": (None, 88),
    "schumann_clara/polonaise_op1n3": (None, 88),
    "schumann_clara/polonaise_op1n4": (None, 88),
    "joplin/maple_leaf_rag": (None, 100),
    "mozart/k545": (None, 132),
    "bach/bwv846": (None, 66),
    "cpebach/h186": (None, 100),
    "verdi/laDonnaEMobile": (None, 69),
    "schubert/Lindenbaum": ("Piano", 60),
    "schumann_robert/opus48no2": (slice(1, 3), 52),
    "beach/prayer_of_a_tired_child": ("Piano", 72),
    "liliuokalani/aloha_oe": ("Piano", 72),
    "schumann_clara/opus17/movement3": ("Piano", 56),
    "bach/bwv269": (None, 72),
    "bach/bwv347": (None, 72),
    "bach/bwv153.1": (None, 72),
    "bach/bwv86.6": (None, 72),
    "bach/bwv267": (None, 72),
}
DEVELOPMENT: dict[str, tuple[Any, float]] = {
    "mozart/k155/movement1": (None, 120),
    "mozart/k155/movement2": (None, 60),
    "mozart/k155/movement3": (None, 110),
    "mozart/k458/movement2": (None, 110),
    "mozart/k458/movement3": (None, 44),
    "haydn/opus1no1/movement1": (None, 130),
    "haydn/opus1no1/movement2": (None, 110),
    "haydn/opus74no1/movement1": (None, 130),
    "haydn/opus74no1/movement2": (None, 80),
    "haydn/opus74no1/movement4": (None, 132),
    "beethoven/opus18no1/movement1": (None, 150),
    "beethoven/opus18no1/movement2": (None, 69),
    "beethoven/opus18no1/movement3": (None, 230),
    "beethoven/opus18no1/movement4": (None, 110),
    "beethoven/opus59no2/movement1": (None, 100),
    "schumann_robert/opus41no1/movement1": (None, 80),
    "schumann_robert/opus41no1/movement2": (None, 140),
    "johnson_j_r/lift_every_voice": (None, 90),
    "handel/rinaldo/Lascia_chio_pianga": ("Piano", 66),
    "bach/bwv66.6": (None, 72),
    "bach/bwv7.7": (None, 72),
    "bach/bwv26.6": (None, 72),
    "bach/bwv281": (None, 72),
    "bach/bwv248.23-s": (None, 72),
    "bach/bwv244.62": (None, 66),
    "bach/bwv40.8": (None, 80),
}
WALK, AWAY, JITTER = 0.03, 0.15, 0.020  # of the log tempo a quarter; at most; seconds
MOST = 1200  # notes of a development piece, the first ones
OCTAVES = (1.0, 0.5, 2.0)


class Written(NamedTuple):
    """The notes of a score, in the order of onset and pitch."""

    onset: np.ndarray  # quarters
    quarters: np.ndarray  # how long
    pitch: np.ndarray
    names: list[str]
    sharps: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("maestro", nargs="?", help="maestro-v3.0.0-midi.zip")
    parser.add_argument("--development", action="store_true", help="the development set instead")
    parser.add_argument("--seed", type=int, default=1, help="of the noise")
    args = parser.parse_args()
    warnings.simplefilter("ignore")  # music21's, about the scores of its corpus
    compare(DEVELOPMENT if args.development else WORKS, args.seed, MOST if args.development else None)
    if args.maestro:
        read_back(args.maestro)


def compare(works: dict[str, tuple[Any, float]], seed: int, most: int | None) -> None:
    """Play all works, write them again and print a line of figures for each."""
    print(f"{'':34} notes  beat octave spelled key    music21: beat  octave  given  spelled key   seconds")
    rows = []
    for number, (name, (parts, tempo)) in enumerate(works.items()):
        written = corpus_score(name, parts, most)
        data, truth = play(written, tempo, np.random.default_rng([seed, number]))
        notes = midi.read(data)
        began = time.process_time()  # of this process alone, whatever else the machine does
        rhythm = bt.estimate(notes)
        seconds = time.process_time() - began
        rhythm, _ = voices.settle(rhythm, np.where(hands.right_hand(notes), 0, 1))
        fifths, _ = musicxml.key(notes)
        order = np.lexsort((notes["pitch"], rhythm.onset))
        steps, alters = spelling.spell(notes["pitch"][order], fifths)
        names = [spelling.STEPS[s] + ("#" * a if a > 0 else "b" * -a) for s, a in zip(steps, alters, strict=True)]
        true_names = [written.names[k] for k in truth[order]]
        place, onset = rhythm.onset / bt.QUARTER, written.onset[truth]
        music21_rhythm, sharps = music21_beats(notes, written, tempo), music21_key(notes)
        music21_names = [music21_name(int(p)) for p in notes["pitch"][order]]
        row = [
            agree(place, onset, (1.0,)),
            agree(place, onset, OCTAVES),
            np.mean([a == b for a, b in zip(names, true_names, strict=True)]),
            float(fifths == written.sharps),
            *music21_rhythm,
            np.mean([a == b for a, b in zip(music21_names, true_names, strict=True)]),
            float(sharps == written.sharps),
        ]
        rows.append((len(notes), row))
        shown = "".join(f"{x:7.1%}" for x in row[:3]) + f"{fifths:+4d}" + "  " * 6
        shown += "".join(f"{x:7.1%}" for x in row[4:8]) + f"{sharps:+4d}{seconds:10.2f}"
        print(f"{name:34}{len(notes):6}{shown}", flush=True)
    weights = np.array([count for count, _ in rows], float)
    table = np.array([row for _, row in rows])
    for title, mean in (("all notes", weights @ table / weights.sum()), ("mean of the pieces", table.mean(0))):
        print(
            f"{title:40}" + "".join(f"{x:7.1%}" for x in mean[:3]) + " " * 16 + "".join(f"{x:7.1%}" for x in mean[4:8])
        )
    print(f"keys right: {int(table[:, 3].sum())} of {len(rows)}; music21's analysis: {int(table[:, 8].sum())}")


def corpus_score(name: str, parts: Any, most: int | None) -> Written:
    """Read the notes of a score as one keyboard plays them: ties joined, unisons once, no grace notes."""
    from music21 import corpus, key

    score = corpus.parse(name)
    chosen = list(score.parts)
    if isinstance(parts, str):
        chosen = [part for part in chosen if part.partName == parts]
    elif parts is not None:
        chosen = chosen[parts]
    keys: dict[tuple[float, int], tuple[float, str]] = {}
    for part in chosen:
        for onset, quarters, pitch in joined(part):
            place = round(onset * 480) / 480, pitch.midi
            alter = int(pitch.alter)
            if place not in keys or keys[place][0] < quarters:
                keys[place] = quarters, pitch.step + ("#" * alter if alter > 0 else "b" * -alter)
    rows = sorted(keys.items())[:most]
    marks = {
        float(s.getOffsetInHierarchy(chosen[0])): s.sharps for s in chosen[0].recurse(classFilter=key.KeySignature)
    }
    end = float(score.duration.quarterLength)
    lengths: Counter = Counter()
    for at, until in zip(sorted(marks), [*sorted(marks)[1:], end], strict=True):
        lengths[marks[at]] += until - at
    return Written(
        np.array([onset for (onset, _), _ in rows]),
        np.array([quarters for _, (quarters, _) in rows]),
        np.array([pitch for (_, pitch), _ in rows]),
        [called for _, (_, called) in rows],
        lengths.most_common(1)[0][0],
    )


def joined(part) -> list[tuple[float, float, Any]]:
    """List onset, length and pitch of the notes of a part, tied ones joined.

    music21's own `stripTies` joins only neighbours, and so loses a tie wherever a second voice moves below it.
    """
    from music21 import harmony

    rows: list[tuple[float, float, Any]] = []
    flat = part.flatten()
    for sign in flat.notes:
        if sign.duration.isGrace or sign.quarterLength == 0 or isinstance(sign, harmony.ChordSymbol):
            continue
        for single in sign.notes if sign.isChord else (sign,):
            at, quarters = float(flat.elementOffset(sign)), float(sign.quarterLength)
            if single.tie and single.tie.type in ("stop", "continue"):
                for k in range(len(rows) - 1, -1, -1):
                    onset, length, pitch = rows[k]
                    if pitch.midi == single.pitch.midi and abs(onset + length - at) < 1e-3:
                        rows[k] = onset, length + quarters, pitch
                        break
                else:
                    rows.append((at, quarters, single.pitch))
            else:
                rows.append((at, quarters, single.pitch))
    return rows


def play(written: Written, tempo: float, rng: np.random.Generator) -> tuple[bytes, np.ndarray]:
    """Write a performance as MIDI. Return the file, and for each of its notes which written note it is."""
    quarters = int((written.onset + written.quarters).max()) + 2
    walk = np.zeros(quarters)
    for k in range(1, quarters):
        walk[k] = walk[k - 1] + rng.normal(0, WALK)
        if abs(walk[k]) > AWAY:
            walk[k] = np.sign(walk[k]) * 2 * AWAY - walk[k]
    clock = np.append(0.0, np.cumsum(60 / tempo * np.exp(walk)))

    def seconds(place):
        return np.interp(place, np.arange(len(clock)), clock) + rng.uniform(-JITTER, JITTER, len(place)) + 0.5

    start = np.rint(seconds(written.onset) * 1000) / 1000
    end = np.maximum(seconds(written.onset + written.quarters), start + 0.03)
    order = np.lexsort((written.pitch, start))
    notes = nt.from_columns(start[order], end[order], written.pitch[order], 80)
    data = midi.write(notes)
    assert np.array_equal(midi.read(data)["pitch"], notes["pitch"])
    return data, order


def agree(place: np.ndarray, truth: np.ndarray, factors: tuple[float, ...]) -> float:
    """Compute the share of notes at the true place, plus one constant, for the best factor, to 1/96 of a quarter."""
    best = 0.0
    for factor in factors:
        off = np.rint((place * factor - truth) * 48).astype(int)
        best = max(best, np.unique(off, return_counts=True)[1].max() / len(truth))
    return best


def music21_beats(notes, written: Written, tempo: float) -> tuple[float, float, float]:
    """Measure music21's quantisation: strict, with octaves, and with octaves in a file that claims the mean tempo."""
    shares = []
    length = float((written.onset + written.quarters).max())
    for claimed in (120.0, 60 * length / (nt.length(notes) - 0.5)):
        from music21 import converter

        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "played.mid")
            path.write_bytes(midi.write(nt.stretch(notes, claimed / 120)))  # 120 is claimed, so its quarters are ours
            read = converter.parse(path, forceSource=True, quantizePost=True)
        rows = sorted((float(s.offset), p.midi) for s in read.flatten().notes for p in s.pitches)
        if len(rows) != len(notes):
            rows = rows[: len(notes)] + [(-1e6, 0)] * (len(notes) - len(rows))  # lost notes are wrong ones
        shares.append(_matched(rows, written))
    return shares[0][0], shares[0][1], shares[1][1]


def _matched(rows: list[tuple[float, int]], written: Written) -> tuple[float, float]:
    """Compute what `agree` does where notes are matched only by their pitch and the order among equal pitches."""
    place, truth = [], []
    for pitch in set(written.pitch.tolist()):
        onsets = sorted(at for at, p in rows if p == pitch)
        true_onsets = sorted(written.onset[written.pitch == pitch].tolist())
        onsets = [*onsets, *[-1e6] * len(true_onsets)][: len(true_onsets)]
        place += onsets
        truth += true_onsets
    return agree(np.array(place), np.array(truth), (1.0,)), agree(np.array(place), np.array(truth), OCTAVES)


def music21_key(notes) -> int:
    from music21 import note, stream

    music = stream.Stream()
    for row in notes:
        music.coreAppend(note.Note(int(row["pitch"]), quarterLength=max(float(row["end"] - row["start"]), 0.05)))
    music.coreElementsChanged()
    return music.analyze("key").sharps


def music21_name(midi_number: int) -> str:
    from music21 import pitch

    return pitch.Pitch(midi_number).name.replace("-", "b")


def read_back(zip_path: str, count: int = 5) -> None:
    """Compare the pitches of whole pieces with their MusicXML; the pieces are spread evenly over the archive."""
    from music21 import converter

    with zipfile.ZipFile(zip_path) as archive:
        names = sorted(name for name in archive.namelist() if name.endswith((".mid", ".midi")))
        for name in names[len(names) // (2 * count) :: len(names) // count][:count]:
            data = archive.read(name)
            notes = midi.read(data, pedal=False)
            began = time.process_time()
            xml = musicxml.musicxml(notes, midi.grid(data))
            seconds = time.process_time() - began
            read = converter.parse(xml, format="musicxml")
            pitches = Counter(pitch.midi for part in read.parts for *_, pitch in joined(part))
            same = pitches == Counter(notes["pitch"].tolist())
            verdict = "the same" if same else "differ"
            print(f"{Path(name).name[:60]:60} {len(notes):6} notes, {seconds:5.1f} s: pitches {verdict}", flush=True)


if __name__ == "__main__":
    main()
