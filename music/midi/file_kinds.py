"""The bytes of a file that is no MIDI → what it is: MusicXML, which is read, or another kind, for the error.

Knows nothing of MIDI itself.
"""

import re

_LOOKED_AT = 4096  # bytes
_MUSICXML, _MUSESCORE = "a MusicXML file", "a MuseScore file (.mscz)"
_KINDS = [  # (what it is, a regular expression for its first bytes); the first that matches counts
    ("a WAV file", rb"RIFF....WAVE"),
    ("an AVI file", rb"RIFF....AVI "),
    ("an MP3 file", rb"ID3|\xff[\xe2-\xe7\xf2-\xf7\xfa-\xfd][^\xf0-\xff]"),
    ("an AAC file", rb"\xff[\xf0\xf1\xf8\xf9]"),
    ("an MP4 or M4A file", rb"....ftyp"),
    ("a FLAC file", rb"fLaC"),
    ("an Ogg file", rb"OggS"),
    ("an AIFF file", rb"FORM....AIF[FC]"),
    ("an XMI file", rb"FORM....XDIR"),
    ("a MUS file", rb"MUS\x1a"),
    (_MUSESCORE, rb"PK\x03\x04.*\.mscx"),
    ("a zip file", rb"PK(\x03\x04|\x05\x06)"),
    ("a gzip file", rb"\x1f\x8b"),
    ("a bzip2 file", rb"BZh[1-9]"),
    ("an xz file", rb"\xfd7zXZ\x00"),
    ("a 7z file", rb"7z\xbc\xaf\x27\x1c"),
    ("a RAR file", rb"Rar!\x1a\x07"),
    ("a tar file", rb".{257}ustar"),
    ("a MacBinary file", rb"\x00[\x01-\x3f](.{63}Midi|.{126}MThd)"),
    ("an AppleSingle or AppleDouble file", rb"\x00\x05\x16[\x00\x07]"),
    ("a Guitar Pro file", rb".FICHIER GUITAR PRO"),
    ("a PDF file", rb"%PDF"),
    ("a PNG picture", rb"\x89PNG"),
    ("a JPEG picture", rb"\xff\xd8\xff"),
    ("a GIF picture", rb"GIF8"),
    ("a pointer to a file in Git LFS", rb"version https://git-lfs"),
    (_MUSICXML, rb"[^\x00]*<(!DOCTYPE )?score-(partwise|timewise|part)\b"),
    ("a MuseScore file", rb"[^\x00]*<museScore\b"),
    ("an HTML page", rb"(?i)\s*(<\?xml[^>]*>\s*)?<(!doctype )?html\b"),
    ("an XML file", rb"\s*<\?xml\b"),
]
_EXPRESSIONS = [(what, re.compile(expression, re.DOTALL)) for what, expression in _KINDS]
_MARKS = {b"\xef\xbb\xbf": "utf-8", b"\xff\xfe": "utf-16-le", b"\xfe\xff": "utf-16-be"}


def kind_of(data: bytes) -> str | None:
    """Name the kind of file that begins with these bytes, such as "an MP3 file"; None if it is not known."""
    if not data:
        return "an empty file"
    start = bytes(data[:_LOOKED_AT])
    for mark, encoding in _MARKS.items():
        if start.startswith(mark):
            start = start[len(mark) :].decode(encoding, errors="ignore").encode()
    return next((what for what, expression in _EXPRESSIONS if expression.match(start)), None)


def is_musicxml(data: bytes) -> bool:
    """Tell whether these bytes are to be read as MusicXML: .musicxml, or a zip with a table of contents as .mxl has."""
    if data[:4] == b"PK\x03\x04":
        return b"META-INF/container.xml" in data and kind_of(data) != _MUSESCORE
    return data[:4] != b"MThd" and kind_of(data) == _MUSICXML
