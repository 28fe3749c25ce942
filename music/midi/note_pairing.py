"""The events of a file → its notes: which key was down from when to when, in ticks, the pedal folded in.

Knows nothing of seconds. A `channel` here is one MIDI channel of one song, in all its tracks: song << 4 | MIDI channel.
Notes are sorted by (channel, key), then by time, so that neighbours follow one another on one key.

Readers differ in these cases; the tests show each of them. We read so:

- A release ends the first note of its key that has no release yet. A note that gets none is left out.
- But every sounding note of a key ends at the key's first release. Else a release that is missing in a file would make
  every later note of its key too long: a minute, in one MAESTRO performance.
- Program and pedal are those of the note's channel, the program at the note's onset. Both count for what happens at
  their own tick, also where that stands before them: in another track, it often does.
- "All notes off", "all sound off" and the four modes release all keys that went down before their tick. A reset of all
  controllers lifts the pedal.
- Channel 10 plays drums, unless the caller or MPE says otherwise. In MPE ("MIDI polyphonic expression": each note has a
  channel) a zone of channels follows the programs, pedals and silences of its manager, channel 1 or 16.
- Sostenuto, half pedals and all other controllers are ignored.
"""

from typing import NamedTuple

import numpy as np

from music.midi.parser import CONTROL, DATA, NOTE_ON, PROGRAM, RPN_HIGH, RPN_LOW, SILENCES, SUSTAIN, File

DRUM_CHANNEL = 9
PEDAL_DOWN = 64  # from this value on
_MPE = 6  # the registered parameter that makes a zone of MPE
_TICKS = 2**32 - 1  # the tick in what is packed as channel << 32 | tick or key << 32 | tick


class PairedNotes(NamedTuple):
    """Notes as columns of one length; no note is shorter than a tick."""

    song: np.ndarray  # int64
    begin: np.ndarray  # int64, ticks
    end: np.ndarray  # int64, ticks
    pitch: np.ndarray  # uint8
    velocity: np.ndarray  # uint8
    program: np.ndarray  # int64; without meaning for a drum
    drum: np.ndarray  # bool
    track: np.ndarray  # int64: the track and the MIDI channel that it stands in, as one number
    unended: int  # how many notes were never released; they are not in the columns


def pair_notes(file: File, pedal: bool, drums: bool) -> PairedNotes:
    """Pair each "key down" of a file with its "key up".

    Args:
        file: the events.
        pedal: let notes sound until the pedal lifts or their key is struck. So a note whose key is struck again before
            its release ends there, if the pedal is down at its release.
        drums: channel 10 plays drums, unless it is in a zone of MPE.
    """
    kind, channel = file.status >> 4, file.song << 4 | file.status & 0xF
    notes = np.flatnonzero(kind <= NOTE_ON)
    key = channel[notes] << 7 | file.first[notes]
    notes = notes[np.argsort(key.astype("u2") if key.max(initial=0) < 2**16 else key, kind="stable")]  # u2: by radix
    controls = np.flatnonzero(kind == CONTROL)
    is_pedal = file.first[controls] == SUSTAIN
    pedals, others = controls[is_pedal], controls[~is_pedal]
    leader = _leaders(file, channel, others)
    silences = others[np.isin(file.first[others], SILENCES)]
    struck, released, unended = _pairs(file, kind, channel, leader, notes, silences)
    begin, end = file.tick[struck], file.tick[released]
    real = np.flatnonzero(end > begin)
    struck, begin, end = struck[real], begin[real], end[real]
    key = channel[struck] << 7 | file.first[struck]
    end = _first_release(key, begin, end)
    drum = (file.status[struck] & 0xF == DRUM_CHANNEL) & (leader[struck] == channel[struck]) & drums
    if pedal:
        end = _hold_by_pedal(file, pedals, leader, struck, key, begin, end, drum)
    program, track = (
        _programs(file, np.flatnonzero(kind == PROGRAM), leader, struck),
        file.track << 4 | file.status & 0xF,
    )
    return PairedNotes(
        key >> 11, begin, end, file.first[struck], file.second[struck], program, drum, track[struck], unended
    )


def _leaders(file: File, channel, others) -> np.ndarray:
    """Find for each event the channel whose program, pedal and silences count: its own, in MPE that of its manager.

    A zone has as many members as the largest message about it says.
    """
    chosen = others[np.isin(file.first[others], (RPN_HIGH, RPN_LOW, DATA)) & np.isin(channel[others] & 0xF, (0, 15))]
    chosen = chosen[np.argsort(channel[chosen], kind="stable")]
    where, setting = channel[chosen], file.first[chosen].astype("i8") << 7 | file.second[chosen]
    first, second, third = setting[:-2], setting[1:-1], setting[2:] >> 7
    high, low = RPN_HIGH << 7, RPN_LOW << 7 | _MPE  # in either order they choose the parameter
    is_mpe = ((first == high) & (second == low)) | ((first == low) & (second == high))
    zones = 2 + np.flatnonzero(is_mpe & (third == DATA) & (where[:-2] == where[2:]))
    if not len(zones):
        return channel
    members = np.zeros(16 * file.songs, "i8")
    np.maximum.at(members, where[zones], np.minimum(file.second[chosen[zones]], 15))
    leader = np.arange(16 * file.songs)
    for manager in np.flatnonzero(members).tolist():
        first = manager + 1 if manager % 16 == 0 else manager - members[manager]
        leader[first : first + members[manager]] = manager
    return leader[channel]


def _pairs(file: File, kind, channel, leader, notes, silences) -> tuple[np.ndarray, np.ndarray, int]:
    """Pair note events, first in, first out.

    A silence releases what went down before its tick. So no release from that tick on ends a note before it.

    Returns:
        The events that begin the notes, by key; the events that end them; and how many notes have no release.
    """
    on = (kind[notes] == NOTE_ON) & (file.second[notes] > 0)
    key = channel[notes] << 7 | file.first[notes]
    in_turn = len(on) % 2 == 0 and on[::2].all() and not on[1::2].any() and np.array_equal(key[::2], key[1::2])
    if in_turn and not len(silences):
        return notes[::2], notes[1::2], 0  # on every key, as in most files: what follows would give the same
    moment = leader[silences] << 32 | file.tick[silences]
    order = np.argsort(moment, kind="stable")
    silences, moment = silences[order], moment[order]
    part = np.searchsorted(moment, leader[notes] << 32 | file.tick[notes], side="right")  # silences up to its tick
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
    partner[leader[partner] != leader[notes[strike]]] = -1
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


def _hold_by_pedal(file: File, pedals, leader, struck, key, begin, end, drum) -> np.ndarray:
    """Move ends to the moment the pedal lifts, or their key is struck again.

    A pedal that is never released lets its notes sound until the last event of its channel.
    """
    own = leader[struck]  # the channel whose pedal holds the note
    moved = leader[pedals] << 32 | file.tick[pedals]
    order = np.argsort(moved, kind="stable")
    moved, down = moved[order], file.second[pedals[order]] >= PEDAL_DOWN
    released = own << 32 | end
    before = np.searchsorted(moved, released, side="right") - 1  # the pedal's last event when the key is released
    held = np.flatnonzero((before >= 0) & ~drum)
    held = held[down[before[held]] & (moved[before[held]] >> 32 == own[held])]
    lifts = np.append(moved[~down], np.iinfo("i8").max)
    lift = lifts[np.searchsorted(lifts, released[held], side="right")]
    never = lift >> 32 != own[held]
    lift &= _TICKS
    if never.any():
        last = np.zeros(16 * file.songs, "i8")
        np.maximum.at(last, own, end)
        np.maximum.at(last, leader[pedals], file.tick[pedals])
        lift[never] = last[own[held[never]]]
    end = end.copy()
    end[held] = np.minimum(lift, next_onset(key, begin)[held])
    return end


def next_onset(key: np.ndarray, begin: np.ndarray) -> np.ndarray:
    """Find the next later onset on each note's key, int64 [n], the largest int64 where none follows.

    Args:
        key: whole numbers [n], rising.
        begin: int64 [n], ticks, rising within a key.
    """
    last = np.flatnonzero(np.diff(key << 32 | begin, append=-1))  # of those that begin together on one key
    following = np.full(len(last), np.iinfo("i8").max)
    same = np.flatnonzero(np.diff(key[last]) == 0)
    following[same] = begin[last[same + 1]]
    return np.repeat(following, np.diff(last, prepend=-1))


def _programs(file: File, changes, leader, struck) -> np.ndarray:
    """Find each note's program: the last one that its channel was set to up to the tick of its onset, or 0."""
    if not file.first[changes].any():
        return np.zeros(len(struck), "i8")
    moment = leader[changes] << 32 | file.tick[changes]
    order = np.argsort(moment, kind="stable")
    last = np.searchsorted(moment[order], leader[struck] << 32 | file.tick[struck], side="right") - 1
    change = changes[order][last]
    return np.where((last >= 0) & (leader[change] == leader[struck]), file.first[change], 0).astype("i8")
