"""A sound font's instrument → its samples and how each key plays them. Knows nothing of the player.

It reads SoundFont 2's key ranges, tuning, loops, loudness, and the two envelopes. It ignores LFOs, the other modulators
of velocity layers, chorus and reverb: the pianos that this is used for do not need them.
"""

import os
import struct
from typing import Any, NamedTuple

import numpy as np

from music.audio.sound_fonts import check
from music.errors import SoundFontError

_GENERATORS = {  # number: (our name, SoundFont 2.04's default), section 8.1.2 and 8.1.3
    8: ("filter_cents", 13500), 11: ("filter_envelope_cents", 0), 17: ("pan", 0),
    25: ("filter_delay", -12000), 26: ("filter_attack", -12000), 27: ("filter_hold", -12000),
    28: ("filter_decay", -12000), 29: ("filter_sustain", 0), 30: ("filter_release", -12000),
    33: ("delay", -12000), 34: ("attack", -12000), 35: ("hold", -12000),
    36: ("decay", -12000), 37: ("sustain", 0), 38: ("release", -12000),
    48: ("attenuation", 0), 51: ("coarse", 0), 52: ("fine", 0), 54: ("mode", 0), 56: ("scale", 100), 58: ("root", -1),
    2: ("loop_start", 0), 3: ("loop_end", 0), 45: ("loop_start_32k", 0), 50: ("loop_end_32k", 0),
}  # fmt: skip
_INSTRUMENT, _KEYS, _VELOCITIES, _SAMPLE = 41, 43, 44, 53
_NEVER_IN_PRESETS = {54, 58, 2, 3, 45, 50}
_TIMES = ("delay", "attack", "hold", "decay", "release")
_RECORDS = {
    "phdr": [("name", "S20"), ("preset", "<u2"), ("bank", "<u2"), ("bag", "<u2"), ("reserved", "V12")],
    "pbag": [("gen", "<u2"), ("mod", "<u2")],
    "pgen": [("op", "<u2"), ("amount", "<i2")],
    "inst": [("name", "S20"), ("bag", "<u2")],
    "ibag": [("gen", "<u2"), ("mod", "<u2")],
    "igen": [("op", "<u2"), ("amount", "<i2")],
    "shdr": [
        *(("name", "S20"), ("start", "<u4"), ("end", "<u4"), ("loop_start", "<u4"), ("loop_end", "<u4")),
        *(("rate", "<u4"), ("pitch", "u1"), ("correction", "i1"), ("link", "<u2"), ("type", "<u2")),
    ],
}


class Instrument(NamedTuple):
    """One preset: its samples, and the keys that play them."""

    name: str
    frames: np.ndarray  # int16, all of its samples one after the other
    samples: list[dict[str, Any]]  # name, first (of frames), frames, rate
    zones: list[dict[str, Any]]  # which keys play which sample, and how; times in seconds, see `_zone`


def read(font: str | os.PathLike, program: int = 0) -> Instrument:
    """Cut one instrument of bank 0 out of a sound font.

    Raises:
        SoundFontError: it is no sound font, is damaged, or has no such instrument.
    """
    check(font)
    with open(font, "rb") as file:
        data = file.read()
    try:
        chunks = dict(_chunks(data, 12, len(data)))
        tables = {name: np.frombuffer(chunks[name], np.dtype(fields)) for name, fields in _RECORDS.items()}
        header = tables["phdr"][:-1]
        presets = np.flatnonzero((header["bank"] == 0) & (header["preset"] == program))
        if not len(presets):
            raise SoundFontError(f"{font}: no instrument {program} in its bank 0")
        return _instrument(tables, int(presets[0]), np.frombuffer(chunks["smpl"], "<i2"))
    except (ValueError, IndexError, KeyError, struct.error) as error:
        raise SoundFontError(f"{font}: a damaged sound font: {error!r}") from error


def _chunks(data: bytes, at: int, end: int):
    """Yield (name, bytes) of all chunks that are no list, and of those inside lists."""
    while at + 8 <= end:
        name, size = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], "little")
        if name == b"LIST":
            yield from _chunks(data, at + 12, at + 8 + size)
        else:
            yield name.decode("latin-1"), data[at + 8 : at + 8 + size]
        at += 8 + size + size % 2


def _instrument(tables: dict[str, np.ndarray], preset: int, wave: np.ndarray) -> Instrument:
    header, instruments = tables["phdr"], tables["inst"]
    used: dict[int, int] = {}  # number of a sample in the font: its number in the result
    zones = []
    for preset_zone in _zones(tables, "p", header[preset]["bag"], header[preset + 1]["bag"], _INSTRUMENT):
        index = preset_zone[_INSTRUMENT]
        for instrument_zone in _zones(tables, "i", instruments[index]["bag"], instruments[index + 1]["bag"], _SAMPLE):
            number = instrument_zone[_SAMPLE]
            if zone := _zone(preset_zone, instrument_zone, tables["shdr"][number]):
                zones.append({"sample": used.setdefault(number, len(used)), **zone})
    samples = [tables["shdr"][number] for number in used]
    pieces = [wave[int(sample["start"]) : int(sample["end"])] for sample in samples]
    firsts = np.cumsum([0, *(len(piece) for piece in pieces)])
    facts = [
        {"name": _text(sample["name"]), "first": int(first), "frames": len(piece), "rate": int(sample["rate"])}
        for sample, first, piece in zip(samples, firsts, pieces, strict=False)
    ]
    return Instrument(_text(header[preset]["name"]), np.concatenate(pieces), facts, zones)


def _zones(tables: dict[str, np.ndarray], kind: str, first: int, last: int, leads: int):
    """Yield the generators of each zone that has the generator `leads`, over those of a global zone, the first one."""
    bags, generators = tables[f"{kind}bag"], tables[f"{kind}gen"]
    common: dict[int, int] = {}
    for bag in range(first, last):
        records = generators[bags[bag]["gen"] : bags[bag + 1]["gen"]]
        zone = common | {int(record["op"]): int(record["amount"]) for record in records}
        if leads in zone:
            yield zone
        elif bag == first:
            common = zone


def _zone(preset: dict[int, int], instrument: dict[int, int], sample: np.void) -> dict[str, Any] | None:
    """Describe how some keys play a sample; None where no key or no velocity is in both zones.

    keys and velocities: the lowest and the highest; cents: added to `cents_a_key` for each key above `root`; gain: at
    full velocity; loop: [from, to) in frames of the sample, or None; the envelopes of loudness and of the filter.
    """
    ranges = []
    for number in (_KEYS, _VELOCITIES):
        low, high = zip(_range(preset.get(number)), _range(instrument.get(number)), strict=True)
        ranges.append([max(low), min(high)])
    if any(low > high for low, high in ranges):
        return None
    value: dict[str, Any] = {}
    for number, (name, default) in _GENERATORS.items():
        value[name] = instrument.get(number, default)
        if number not in _NEVER_IN_PRESETS:
            value[name] += preset.get(number, 0)
    for name in _TIMES:
        value[name] = round(2 ** (value[name] / 1200), 4)
        value[f"filter_{name}"] = round(2 ** (value[f"filter_{name}"] / 1200), 4)
    start = int(sample["loop_start"]) - int(sample["start"]) + value["loop_start"] + 2**15 * value["loop_start_32k"]
    end = int(sample["loop_end"]) - int(sample["start"]) + value["loop_end"] + 2**15 * value["loop_end_32k"]
    root = value["root"] if value["root"] >= 0 else int(sample["pitch"])
    return {
        "keys": ranges[0],
        "velocities": ranges[1],
        "root": root,
        "cents_a_key": value["scale"],
        "cents": 100 * value["coarse"] + value["fine"] + int(sample["correction"]),
        "gain": round(10 ** (-value["attenuation"] / 200), 5),  # of centibels
        "pan": round(np.clip(value["pan"] / 500, -1, 1), 3),
        "loop": [start, end] if value["mode"] in (1, 3) and 0 <= start < end else None,
        "loudness": {name: value[name] for name in _TIMES} | {"sustain_db": -value["sustain"] / 10},
        "filter": {name: value[f"filter_{name}"] for name in _TIMES}
        | {
            "sustain": round(1 - np.clip(value["filter_sustain"], 0, 1000) / 1000, 4),
            "hertz": round(8.176 * 2 ** (value["filter_cents"] / 1200), 1),
            "cents": value["filter_envelope_cents"],
        },
    }


def _range(amount: int | None) -> tuple[int, int]:
    """Split an amount into its two bytes, the lower one first; 0 and 127 if there is none."""
    return (0, 127) if amount is None else (amount & 255, amount >> 8 & 255)


def _text(name: bytes) -> str:
    return name.partition(b"\0")[0].decode("latin-1")
