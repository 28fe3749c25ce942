"""The repeats, endings and jumps of a score → the order in which its measures are played. Knows nothing of notes.

A repeat is played as often as it says, else twice. Its endings are played by their numbers. After a jump back (da
capo, dal segno) repeats are not played again, and of several endings only the last one is. It goes on to the end, to
"fine", or to "to coda" and from there with the coda.
Jumps are read from <sound>, which every program writes for players; words such as "D.C." alone are not.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from xml.etree.ElementTree import Element

from music.errors import MidiError

MOST_PLAYED = 20_000  # measures, with all repeats
_MOST_ENDINGS = 100  # numbers of one ending


@dataclass
class _Measure:
    """What is written at one measure of any part."""

    opens: bool = False  # a repeat begins here
    times: int = 0  # how often what a repeat sign at its end closes is played; 0: there is none
    endings: frozenset[int] = frozenset()  # the passes in which it is played; empty: in all
    jumps: dict[str, str] = field(default_factory=dict)  # dacapo, dalsegno, segno, coda, tocoda, fine: its name


def order(columns: Sequence[Sequence[Element]]) -> list[int]:
    """List the numbers of the measures, from 0, as they are played.

    Args:
        columns: for each measure the barlines and sounds of each part in it.

    Raises:
        MidiError: they would be more than MOST_PLAYED.
    """
    measures = _read(columns)
    groups = _groups(measures)
    played: list[int] = []
    at = start = 0
    this_pass, jumped, taken = 1, False, set()
    while at < len(measures):
        measure = measures[at]
        if measure.opens and at != start:
            start, this_pass = at, 1
        last, passes = groups.get(at, (at, measure.times))  # of the endings that it is among
        counted = passes if jumped else this_pass
        if not measure.endings or counted in measure.endings:
            played.append(at)
            if len(played) > MOST_PLAYED:
                raise MidiError(f"too long a score: expected at most {MOST_PLAYED:,} measures with all repeats")
            if measure.times and not jumped and this_pass < passes:
                at, this_pass = start, this_pass + 1
                continue
            if jumped and "fine" in measure.jumps:
                break
            if jumped and "tocoda" in measure.jumps:
                coda = _find(measures, "coda", measure.jumps["tocoda"], range(at + 1, len(measures)))
                if coda is not None:
                    at = start = coda
                    this_pass, jumped = 1, False
                    continue
            target = None if at in taken else _target(measures, at)
            if target is not None:
                taken.add(at)
                at = start = target
                this_pass, jumped = 1, True
                continue
        if at == last and (measure.times or measure.endings):
            start, this_pass = at + 1, 1
        at += 1
    return played


def _target(measures: list[_Measure], at: int) -> int | None:
    """Find where a measure's jump back leads; None: it has none."""
    jumps = measures[at].jumps
    if "dacapo" in jumps:
        return 0
    if "dalsegno" in jumps:
        return _find(measures, "segno", jumps["dalsegno"], range(at, -1, -1))
    return None


def _find(measures: list[_Measure], kind: str, name: str, where: range) -> int | None:
    """Find the first measure with a mark of this kind and name, else of this kind."""
    marked = [k for k in where if kind in measures[k].jumps]
    return next((k for k in marked if measures[k].jumps[kind] == name), marked[0] if marked else None)


def _groups(measures: list[_Measure]) -> dict[int, tuple[int, int]]:
    """Give each measure in an ending the last one of the endings side by side, and how often all of it is played."""
    groups: dict[int, tuple[int, int]] = {}
    group: list[int] = []
    for k, measure in enumerate([*measures, _Measure()]):
        if group and (not measure.endings or measure.opens):
            kinds = {measures[j].endings for j in group}
            passes = max(max(numbers) for numbers in kinds) + (len(kinds) == 1)  # the last pass skips a single one
            groups |= dict.fromkeys(group, (group[-1], passes))
            group = []
        if measure.endings:
            group.append(k)
    return groups


def _read(columns: Sequence[Sequence[Element]]) -> list[_Measure]:
    """Join what the parts say; a repeat counts where any part has it."""
    measures = [_Measure() for _ in range(len(columns) + 1)]
    endings: frozenset[int] = frozenset()
    for k, column in enumerate(columns):
        closes = False
        for mark in (mark for part in column for mark in part):
            if mark.tag == "sound":
                jumps = {name: mark.get(name, "") for name in ("dalsegno", "segno", "coda", "tocoda") if mark.get(name)}
                measures[k].jumps |= jumps | {name: "" for name in ("dacapo", "fine") if mark.get(name, "no") != "no"}
                continue
            left = mark.get("location", "right") == "left"
            for repeat in mark.findall("repeat"):
                if repeat.get("direction") == "forward":
                    measures[k if left else k + 1].opens = True
                elif k or not left:
                    closed = measures[k - 1 if left else k]
                    closed.times = max(closed.times, _times(repeat.get("times")))
            for ending in mark.findall("ending"):
                if ending.get("type") == "start":
                    endings = _numbers(ending.get("number", ""))
                else:
                    closes = True
        measures[k].endings = endings
        if closes or measures[k].times:
            endings = frozenset()
    return measures[: len(columns)]


def _times(text: str | None) -> int:
    return int(text) if text and re.fullmatch(r"[1-9]\d{0,4}", text) else 2


def _numbers(text: str) -> frozenset[int]:
    """Read the numbers of an ending, such as "1, 2" and "1-3"."""
    numbers: set[int] = set()
    for low, high in re.findall(r"(\d{1,2})(?:\s*-\s*(\d{1,2}))?", text):
        numbers.update(range(int(low), int(high or low) + 1))
    return frozenset(number for number in numbers if 0 < number <= _MOST_ENDINGS)
