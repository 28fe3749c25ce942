"""Builders of small MusicXML files, and of some that attack their reader."""

import io
import zipfile

DOCTYPE = (
    '<!DOCTYPE score-partwise PUBLIC "-//Recordare//DTD MusicXML 4.0 Partwise//EN" "http://0.invalid/partwise.dtd">'
)
CONTAINER = '<container><rootfiles><rootfile full-path="{}"/></rootfiles></container>'


def note(pitch: str, duration: int, more: str = "", *, staff: int = 1, before: str = "") -> str:
    """Write a note such as "C4" or "Eb3"; "" is a rest. Of `before` come <chord/> and <grace/>."""
    alter = {"b": "<alter>-1</alter>", "#": "<alter>1</alter>"}.get(pitch[1:-1], "")
    what = f"<pitch><step>{pitch[0]}</step>{alter}<octave>{pitch[-1]}</octave></pitch>" if pitch else "<rest/>"
    lasts = "" if "grace" in before else f"<duration>{duration}</duration>"
    return f"<note>{before}{what}{lasts}{more}<voice>{staff}</voice><type>quarter</type><staff>{staff}</staff></note>"


def attributes(divisions: int = 4, time: tuple[int, int] = (4, 4), more: str = "") -> str:
    beats = f"<time><beats>{time[0]}</beats><beat-type>{time[1]}</beat-type></time>"
    return f"<attributes><divisions>{divisions}</divisions>{more}{beats}</attributes>"


def score(*parts: list[str], players: tuple[str, ...] = (), doctype: str = DOCTYPE) -> bytes:
    """Build a score of parts, each a list of the content of its measures."""
    heads = "".join(
        f'<score-part id="P{k}"><part-name>x</part-name>{players[k] if players else ""}</score-part>'
        for k in range(len(parts))
    )
    bodies = "".join(
        f'<part id="P{k}">'
        + "".join(f'<measure number="{n + 1}">{m}</measure>' for n, m in enumerate(part))
        + "</part>"
        for k, part in enumerate(parts)
    )
    head = f'<?xml version="1.0" encoding="UTF-8"?>\n{doctype}\n'
    return f'{head}<score-partwise version="4.0"><part-list>{heads}</part-list>{bodies}</score-partwise>'.encode()


def packed(data: bytes, name: str = "score.musicxml", container: str = CONTAINER) -> bytes:
    """Pack a score as .mxl."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("META-INF/container.xml", container.format(name))
        archive.writestr(name, data)
    return out.getvalue()


def bars(*marks: str) -> list[str]:
    """Build measures of one note each, C4 upwards by white keys; a mark is what stands in a measure, at its end."""
    names = ["C4", "D4", "E4", "F4", "G4", "A4", "B4", "C5", "D5", "E5"]
    return [(attributes() if not k else "") + note(names[k], 16) + mark for k, mark in enumerate(marks)]


def opens() -> str:
    return '<barline location="left"><repeat direction="forward"/></barline>'


def closes(times: str = "") -> str:
    often = f' times="{times}"' if times else ""
    return f'<barline location="right"><repeat direction="backward"{often}/></barline>'


def ending(number: str, *, close: bool = True, stop: str = "stop") -> str:
    begin = f'<barline location="left"><ending number="{number}" type="start"/></barline>'
    repeat = '<repeat direction="backward"/>' if close else ""
    return f'{begin}<barline location="right"><ending number="{number}" type="{stop}"/>{repeat}</barline>'


def sound(**jump: str) -> str:
    return "<sound " + " ".join(f'{name}="{value}"' for name, value in jump.items()) + "/>"


STUDY = score(
    [
        attributes(4, (3, 4), "<key><fifths>-3</fifths><mode>minor</mode></key><staves>2</staves>")
        + "<direction><direction-type><metronome><beat-unit>quarter</beat-unit><per-minute>90</per-minute></metronome>"
        '</direction-type><staff>1</staff><sound tempo="90"/></direction>' + note("G4", 4),
        opens()
        + "<direction><direction-type><dynamics><p/></dynamics></direction-type><staff>1</staff></direction>"
        + note("D5", 0, before='<grace slash="yes"/>')
        + note("C5", 8)
        + note("Eb5", 4, '<tie type="start"/>')
        + "<backup><duration>12</duration></backup>"
        + note("C3", 12, staff=2)
        + note("Eb3", 12, staff=2, before="<chord/>"),
        note("Eb5", 4, '<tie type="stop"/>')
        + note("", 8)
        + "<backup><duration>12</duration></backup>"
        + note("G2", 12, staff=2)
        + closes(),
    ],
    players=('<midi-instrument id="I"><midi-program>7</midi-program></midi-instrument>',),
)
