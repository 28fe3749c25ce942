"""The events of a file → its notes: which key was down from when to when, in ticks, the pedal folded in.

Knows nothing of seconds. A `channel` here is one MIDI channel of one track: track << 4 | MIDI channel. Everything is
sorted by (channel, key), then as it stands in the file, so that neighbours follow one another on one key.

Readers differ in these cases; the tests show each of them. We read so:

- A release ends the first note of its key that has no release yet. A note that gets none is left out.
- But every sounding note of a key ends at the key's first release. Else a release that is missing in a file would make
  every later note of its key too long: a minute, in one MAESTRO performance.
- Program and pedal are those of the note's own track and channel, the program at the note's onset.
- "All notes off" and "all sound off" release all keys that are down. A reset of all controllers lifts the pedal.
- Sostenuto, half pedals and all other controllers are ignored.
"""

from typing import NamedTuple

import numpy as np

from music.midi.parser import CONTROL, NOTE_ON, PROGRAM, SUSTAIN, File

DRUM_CHANNEL = 9
PEDAL_DOWN = 64  # from this value on
_TICKS = 2**32 - 1  # the tick in what is packed as channel << 32 | tick or key << 32 | tick


class PairedNotes(NamedTuple):
    """Notes as columns of one length; no note is shorter than a tick."""

    begin: np.ndarray  # int64, ticks
    end: np.ndarray  # int64, ticks
    pitch: np.ndarray  # uint8
    velocity: np.ndarray  # uint8
    program: np.ndarray  # int64; without meaning for a drum
    drum: np.ndarray  # bool
    unended: int  # how many notes were never released; they are not in the columns
    unused_pedals: (
        np.ndarray
    )  # channels that press a pedal and play nothing; other tracks have their MIDI channel's notes


def pair_notes(file: File, pedal: bool) -> PairedNotes:
    """Pair each "key down" of a file with its "key up"; with `pedal` notes sound until it lifts or their key is struck.

    So a note whose key is struck again before its release ends there, if the pedal is down at its release.
    """
    kind, channel = file.status >> 4, file.track << 4 | file.status & 0xF
    notes = np.flatnonzero(kind <= NOTE_ON)
    key = channel[notes] << 7 | file.first[notes]
    notes = notes[np.argsort(key.astype("u2") if key.max(initial=0) < 2**16 else key, kind="stable")]  # u2: by radix
    controls = np.flatnonzero(kind == CONTROL)
    is_pedal = file.first[controls] == SUSTAIN
    pedals, silences = controls[is_pedal], controls[~is_pedal]
    struck, released, unended = _pairs(file, kind, channel, notes, silences)
    begin, end = file.tick[struck], file.tick[released]
    real = np.flatnonzero(end > begin)
    struck, begin, end = struck[real], begin[real], end[real]
    key = channel[struck] << 7 | file.first[struck]
    end = _first_release(key, begin, end)
    drum = file.status[struck] & 0xF == DRUM_CHANNEL
    if pedal:
        end = _hold_by_pedal(file, pedals, channel, key, begin, end, drum)
    unused_pedals = _unused_pedals(channel[notes], channel[pedals[file.second[pedals] >= PEDAL_DOWN]])
    program = _programs(file, np.flatnonzero(kind == PROGRAM), channel, struck)
    return PairedNotes(begin, end, file.first[struck], file.second[struck], program, drum, unended, unused_pedals)


def _pairs(file: File, kind, channel, notes, silences) -> tuple[np.ndarray, np.ndarray, int]:
    """Pair note events, first in, first out.

    A silence releases what is down by then. So no release behind it ends a note before it.

    Returns:
        The events that begin the notes, by key; the events that end them; and how many notes have no release.
    """
    on = (kind[notes] == NOTE_ON) & (file.second[notes] > 0)
    key = channel[notes] << 7 | file.first[notes]
    in_turn = len(on) % 2 == 0 and on[::2].all() and not on[1::2].any() and np.array_equal(key[::2], key[1::2])
    if in_turn and not len(silences):
        return notes[::2], notes[1::2], 0  # on every key, as in most files: what follows would give the same
    silences = silences[np.argsort(channel[silences], kind="stable")]
    part = np.searchsorted(channel[silences] << 32 | silences, channel[notes] << 32 | notes)  # silences before it
    new = np.flatnonzero(np.diff(key, prepend=-1) | np.diff(part, prepend=0))  # another key, or behind a silence
    which = np.repeat(np.arange(len(new)), np.diff(new, append=len(key)))
    waiting = np.cumsum(np.where(on, 1, -1))
    waiting -= np.append(0, waiting)[new][which]  # notes less releases so far, of this key
    apart = which * (2 * len(key) + 2)  # so that the least of one key does not count for the next
    least = np.minimum(np.minimum.accumulate(waiting - apart) + apart, 0)
    before = np.append(0, least[:-1])
    before[new] = 0
    strike, release = np.flatnonzero(on), np.flatnonzero(~on & (least == before))  # other releases find no note
    strikes, releases = (np.bincount(which[events], minlength=len(new)) for events in (strike, release))
    rank = np.arange(len(strike)) - np.repeat(np.cumsum(strikes) - strikes, strikes)
    partner = np.append(silences, -1)[part[strike]]  # an event; -1: none
    partner[channel[partner] != channel[notes[strike]]] = -1
    own = np.flatnonzero(rank < releases[which[strike]])
    partner[own] = notes[release[(np.cumsum(releases) - releases)[which[strike[own]]] + rank[own]]]
    ended = np.flatnonzero(partner >= 0)
    return notes[strike[ended]], partner[ended], len(strike) - len(ended)


def _first_release(key, begin, end) -> np.ndarray:
    """Move ends to the first release of their key after their onset."""
    if not ((key[1:] == key[:-1]) & (begin[1:] < end[:-1])).any():  # no two of a key overlap
        return end
    releases = key << 32 | end  # rises: within a key releases come in the order of onsets
    return releases[np.searchsorted(releases, key << 32 | begin, side="right")] & _TICKS


def _hold_by_pedal(file: File, pedals, channel, key, begin, end, drum) -> np.ndarray:
    """Move ends to the moment the pedal lifts, or their key is struck again.

    A pedal that is never released lets its notes sound until the last event of its channel.
    """
    note_channel = key >> 7  # the note's channel; it rises
    moved = channel[pedals] << 32 | file.tick[pedals]
    order = np.argsort(moved, kind="stable")
    moved, down = moved[order], file.second[pedals[order]] >= PEDAL_DOWN
    released = note_channel << 32 | end
    before = np.searchsorted(moved, released, side="right") - 1  # the pedal's last event when the key is released
    held = np.flatnonzero((before >= 0) & ~drum)
    held = held[down[before[held]] & (moved[before[held]] >> 32 == note_channel[held])]
    lifts = np.append(moved[~down], np.iinfo("i8").max)
    lift = lifts[np.searchsorted(lifts, released[held], side="right")]
    first = np.flatnonzero(np.diff(note_channel, prepend=-1))
    latest = np.repeat(np.maximum.reduceat(end, first), np.diff(first, append=len(end))) if len(end) else end
    pedal_ends = moved[np.searchsorted(moved, (note_channel[held] + 1) << 32) - 1] & _TICKS
    lift = np.where(lift >> 32 == note_channel[held], lift & _TICKS, np.maximum(latest[held], pedal_ends))
    end = end.copy()
    end[held] = np.minimum(lift, _next_later_onset(key, begin)[held])
    return end


def next_onset(key: np.ndarray, begin: np.ndarray) -> np.ndarray:
    """Find the onset of the note that follows each note on its key, the largest int64 where none follows.

    Args:
        key: whole numbers [n], rising.
        begin: int64 [n], rising within a key. Notes that begin together follow one another.
    """
    following = np.full(len(key), np.iinfo("i8").max)
    same = np.flatnonzero(key[1:] == key[:-1])
    following[same] = begin[same + 1]
    return following


def _next_later_onset(key, begin) -> np.ndarray:
    """Find the next later onset of each note's key, as `next_onset` but past notes that begin together."""
    last = np.flatnonzero(np.diff(key << 32 | begin, append=-1))  # of those that begin together on one key
    return np.repeat(next_onset(key[last], begin[last]), np.diff(last, prepend=-1))


def _unused_pedals(playing, pressing) -> np.ndarray:
    """Find the channels that press a pedal but have no notes, while their MIDI channel has notes in other tracks."""
    plays = np.zeros(max(playing.max(initial=0), pressing.max(initial=0)) + 1, bool)
    midi_channel_plays = np.zeros(16, bool)
    plays[playing], midi_channel_plays[playing & 0xF] = True, True
    return np.unique(pressing[~plays[pressing] & midi_channel_plays[pressing & 0xF]])


def _programs(file: File, changes, channel, struck) -> np.ndarray:
    """Find each note's program: the last one that its channel was set to, or 0."""
    if not file.first[changes].any():
        return np.zeros(len(struck), "i8")
    position = channel[changes] << 32 | changes
    order = np.argsort(position)
    last = np.searchsorted(position[order], channel[struck] << 32 | struck) - 1
    change = changes[order][last]
    return np.where((last >= 0) & (channel[change] == channel[struck]), file.first[change], 0).astype("i8")
