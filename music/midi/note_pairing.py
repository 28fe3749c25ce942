"""The events of a file → its strokes: which key was down from when to when, in ticks, the pedal folded in.

Where readers differ (the tests show each case): a release is for the first stroke of its key that has none yet, and a
stroke that is left without is none; but every sounding stroke of a key ends at the key's first release, for a release
that is missing in a file would else make every later stroke of its key too long: a minute, in one MAESTRO performance.
A stroke has the program it was struck with. Program and pedal are those of the stroke's own track and channel. "All
notes off" and "all sound off" release whatever is down, a reset of all controllers lifts the pedal; sostenuto, half
pedals and all other controllers are nothing to us.

Each channel of each track is a `hand` of its own. Everything is sorted by (hand, key) as it stands in the file, so that
neighbours follow one another on one key. Knows nothing of seconds.
"""

from typing import NamedTuple

import numpy as np

from music.midi.parser import CONTROL, NOTE_ON, PROGRAM, SUSTAIN, File

DRUM_CHANNEL = 9
PEDAL_DOWN = 64  # from this value on
_TICKS = 2**32 - 1  # what is packed as hand or key << 32 | tick, without the former


class Strokes(NamedTuple):
    """Columns of one length; none is shorter than a tick."""

    begin: np.ndarray  # int64, ticks
    end: np.ndarray  # int64, ticks
    pitch: np.ndarray  # uint8
    velocity: np.ndarray  # uint8
    program: np.ndarray  # int64; of a drum without meaning
    drum: np.ndarray  # bool
    unended: int  # how many were struck and never released; they are not among these
    unheard: np.ndarray  # hands that press a pedal and strike nothing, while their channel's notes are in other tracks


def read(file: File, pedal: bool) -> Strokes:
    """The strokes of a file; with `pedal` they sound until it lifts, or their key is struck again.

    So a stroke whose key is struck again while it is down ends there, if the pedal is down at its release.
    """
    kind, hand = file.status >> 4, file.track << 4 | file.status & 0xF
    notes = np.flatnonzero(kind <= NOTE_ON)
    key = hand[notes] << 7 | file.first[notes]
    notes = notes[np.argsort(key.astype("u2") if key.max(initial=0) < 2**16 else key, kind="stable")]  # u2: by radix
    controls = np.flatnonzero(kind == CONTROL)
    is_pedal = file.first[controls] == SUSTAIN
    pedals, silences = controls[is_pedal], controls[~is_pedal]
    struck, released, unended = _pairs(file, kind, hand, notes, silences)
    begin, end = file.tick[struck], file.tick[released]
    real = np.flatnonzero(end > begin)
    struck, begin, end = struck[real], begin[real], end[real]
    key = hand[struck] << 7 | file.first[struck]
    end = _first_release(key, begin, end)
    drum = file.status[struck] & 0xF == DRUM_CHANNEL
    if pedal:
        end = _held(file, pedals, hand, key, begin, end, drum)
    unheard = _unheard(hand[notes], hand[pedals[file.second[pedals] >= PEDAL_DOWN]])
    program = _programs(file, np.flatnonzero(kind == PROGRAM), hand, struck)
    return Strokes(begin, end, file.first[struck], file.second[struck], program, drum, unended, unheard)


def _pairs(file: File, kind, hand, notes, silences) -> tuple[np.ndarray, np.ndarray, int]:
    """Of the note events, by key: (which strike, which release it, how many strokes have none). First in, first out.

    A silence releases what is down by then; so no release behind it is for a stroke before it.
    """
    on = (kind[notes] == NOTE_ON) & (file.second[notes] > 0)
    key = hand[notes] << 7 | file.first[notes]
    in_turn = len(on) % 2 == 0 and on[::2].all() and not on[1::2].any() and np.array_equal(key[::2], key[1::2])
    if in_turn and not len(silences):
        return notes[::2], notes[1::2], 0  # on every key, as in most files: what follows would say the same
    silences = silences[np.argsort(hand[silences], kind="stable")]
    part = np.searchsorted(hand[silences] << 32 | silences, hand[notes] << 32 | notes)  # how many come before
    new = np.flatnonzero(np.diff(key, prepend=-1) | np.diff(part, prepend=0))  # another key, or behind a silence
    which = np.repeat(np.arange(len(new)), np.diff(new, append=len(key)))
    waiting = np.cumsum(np.where(on, 1, -1))
    waiting -= np.append(0, waiting)[new][which]  # strokes less releases so far, of this key
    apart = which * (2 * len(key) + 2)  # so that what one key reached does not count for the next
    least = np.minimum(np.minimum.accumulate(waiting - apart) + apart, 0)
    before = np.append(0, least[:-1])
    before[new] = 0
    strike, release = np.flatnonzero(on), np.flatnonzero(~on & (least == before))  # others find nothing to release
    strikes, releases = (np.bincount(which[events], minlength=len(new)) for events in (strike, release))
    rank = np.arange(len(strike)) - np.repeat(np.cumsum(strikes) - strikes, strikes)
    partner = np.append(silences, -1)[part[strike]]  # an event; below it is none
    partner[hand[partner] != hand[notes[strike]]] = -1
    own = np.flatnonzero(rank < releases[which[strike]])
    partner[own] = notes[release[(np.cumsum(releases) - releases)[which[strike[own]]] + rank[own]]]
    ended = np.flatnonzero(partner >= 0)
    return notes[strike[ended]], partner[ended], len(strike) - len(ended)


def _first_release(key, begin, end) -> np.ndarray:
    """Move ends to the first release of their key after they were struck."""
    if not ((key[1:] == key[:-1]) & (begin[1:] < end[:-1])).any():  # no two of a key overlap
        return end
    releases = key << 32 | end  # rises: within a key releases come in the order of strokes
    return releases[np.searchsorted(releases, key << 32 | begin, side="right")] & _TICKS


def _held(file: File, pedals, hand, key, begin, end, drum) -> np.ndarray:
    """Move ends to the moment the pedal lifts, or their key is struck again.

    A pedal that is never released lets its notes sound until the last event of its hand.
    """
    player = key >> 7  # whose stroke it is; it rises
    at = hand[pedals] << 32 | file.tick[pedals]
    order = np.argsort(at, kind="stable")
    at, down = at[order], file.second[pedals[order]] >= PEDAL_DOWN
    released = player << 32 | end
    before = np.searchsorted(at, released, side="right") - 1  # the pedal's last word when the key is released
    held = np.flatnonzero((before >= 0) & ~drum)
    held = held[down[before[held]] & (at[before[held]] >> 32 == player[held])]
    lifts = np.append(at[~down], np.iinfo("i8").max)
    lift = lifts[np.searchsorted(lifts, released[held], side="right")]
    first = np.flatnonzero(np.diff(player, prepend=-1))
    latest = np.repeat(np.maximum.reduceat(end, first), np.diff(first, append=len(end))) if len(end) else end
    pedal_ends = at[np.searchsorted(at, (player[held] + 1) << 32) - 1] & _TICKS
    lift = np.where(lift >> 32 == player[held], lift & _TICKS, np.maximum(latest[held], pedal_ends))
    end = end.copy()
    end[held] = np.minimum(lift, _struck_again(key, begin)[held])
    return end


def _struck_again(key, begin) -> np.ndarray:
    """The next later stroke (tick) of each stroke's key, far beyond the end where there is none."""
    place = np.append(key << 32 | begin, np.iinfo("i8").max)  # rises
    after = np.arange(1, len(place))
    if (place[1:] == place[:-1]).any():
        after = np.searchsorted(place, place[:-1], side="right")
    return np.where(place[after] >> 32 == key, place[after] & _TICKS, np.iinfo("i8").max)


def _unheard(striking, pressing) -> np.ndarray:
    strikes, plays = np.zeros(max(striking.max(initial=0), pressing.max(initial=0)) + 1, bool), np.zeros(16, bool)
    strikes[striking], plays[striking & 0xF] = True, True
    return np.unique(pressing[~strikes[pressing] & plays[pressing & 0xF]])


def _programs(file: File, changes, hand, struck) -> np.ndarray:
    """The program that holds at each stroke: the last one that its hand was given, or 0."""
    if not file.first[changes].any():
        return np.zeros(len(struck), "i8")
    place = hand[changes] << 32 | changes
    order = np.argsort(place)
    last = np.searchsorted(place[order], hand[struck] << 32 | struck) - 1
    change = changes[order][last]
    return np.where((last >= 0) & (hand[change] == hand[struck]), file.first[change], 0).astype("i8")
