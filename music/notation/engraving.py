"""MusicXML → pages: SVG, PNG or PDF. Knows nothing of notes.

Verovio (RISM) engraves to SVG; typst, which contains fonts, makes PNG and PDF of that. Both are imported when a page is
made. Both are wheels that need no system library, no display and no network.
"""

import re
import tempfile
from pathlib import Path

from music import storage
from music.errors import EncodingError, MissingDependency, SettingError

FORMATS = ("musicxml", "svg", "png", "pdf")

_OPTIONS = {
    "pageWidth": 2100,  # tenths of a millimetre: A4, with a staff of 7 mm
    "pageHeight": 2970,
    "pageMarginTop": 120,
    "pageMarginBottom": 120,
    "pageMarginLeft": 130,
    "pageMarginRight": 130,
    "spacingStaff": 8,
    "header": "auto",  # the title; on later pages their number
    "footer": "none",
    "breaks": "auto",
    "svgViewBox": True,
    "xmlIdSeed": 1,  # the same bytes every time
}
_DPI = 150
# Verovio writes a metronome mark in its own music font; these characters are in common fonts.
_SIGNS = {"\ueca3": "𝅗𝅥", "\ueca5": "♩", "\ueca7": "♪", "\uecb7": "."}


def format_of(path: str) -> str:
    """Read the format from a file's ending. Raises SettingError for an unknown one."""
    ending = Path(path).suffix.lower().removeprefix(".")
    if ending not in FORMATS:
        raise SettingError(f"{path}: expected a name that ends in {', '.join('.' + form for form in FORMATS)}")
    return ending


def write(musicxml: bytes, path: str) -> list[str]:
    """Write a score in the format of the path's ending; return the paths that were written.

    SVG and PNG hold one page: the first is at `path`, the second at `path` with -2 before its ending, and so on.
    """
    form = format_of(path)
    pages = {"musicxml": lambda: [musicxml], "svg": lambda: svg(musicxml), "png": lambda: png(musicxml)}.get(
        form, lambda: [pdf(musicxml)]
    )()
    stem, ending = path[: -len(form) - 1], path[-len(form) - 1 :]
    paths = [path, *(f"{stem}-{number}{ending}" for number in range(2, len(pages) + 1))]
    for name, page in zip(paths, pages, strict=True):
        storage.write(name, page)
    return paths


def svg(musicxml: bytes, *, cut: bool = True) -> list[bytes]:
    """Engrave a score, one SVG a page.

    Args:
        musicxml: as `notation.musicxml` writes it.
        cut: end a page below its last line, not at the end of an A4 sheet.

    Raises:
        EncodingError: it cannot be engraved.
        MissingDependency: verovio is not installed.
    """
    try:
        import verovio
    except ModuleNotFoundError as error:
        raise MissingDependency(f"a page needs {error.name}: `pip install '.[score]'` brings it") from error
    verovio.enableLog(verovio.LOG_OFF)
    engraver = verovio.toolkit()
    engraver.setOptions(_OPTIONS | {"adjustPageHeight": cut})
    if not engraver.loadData(musicxml.decode()) or not engraver.getPageCount():
        raise EncodingError("verovio cannot engrave this score")
    return [_plain(engraver.renderToSVG(page + 1)).encode() for page in range(engraver.getPageCount())]


def png(musicxml: bytes, *, dpi: int = _DPI) -> list[bytes]:
    """Engrave a score, one PNG a page, each cut below its last line. Raises as `svg` does, also for typst."""
    return _typeset(svg(musicxml), "auto", format="png", ppi=float(dpi))


def pdf(musicxml: bytes) -> bytes:
    """Engrave a score as one PDF of A4 pages. Raises as `svg` does, also for typst."""
    return _typeset(svg(musicxml, cut=False), "297mm", format="pdf")[0]


def _plain(page: str) -> str:
    """Rewrite what not every SVG reader understands: texts positioned by their parts, and signs in Verovio's font."""
    page = re.sub(r"<title class=\"labelAttr\">.*?</title>\s*", "", page)
    page = re.sub(r"<style type=\"text/css\">@font-face.*?</style>", "", page, flags=re.DOTALL)
    page = re.sub(
        r"<text([^>]*)>\s*<tspan([^>]*?)( x=\"[^\"]*\" y=\"[^\"]*\" text-anchor=\"[^\"]*\")>",
        r"<text\1\3><tspan\2>",
        page,
    )
    return re.sub(
        r"<tspan font-family=\"Leipzig\"([^>]*)>([^<]*)",
        lambda part: f"<tspan{part[1]}>" + "".join(_SIGNS.get(sign, "") for sign in part[2]),
        page,
    )


def _typeset(pages: list[bytes], height: str, **form) -> list[bytes]:
    try:
        import typst
    except ModuleNotFoundError as error:
        raise MissingDependency(f"a page needs {error.name}: `pip install '.[score]'` brings it") from error
    with tempfile.TemporaryDirectory() as folder:
        for number, page in enumerate(pages):
            Path(folder, f"{number}.svg").write_bytes(page)
        images = [f'#image("{number}.svg", width: 210mm)' for number in range(len(pages))]
        document = Path(folder, "score.typ")
        document.write_text(
            f"#set page(width: 210mm, height: {height}, margin: 0mm, fill: white)\n" + "\n#pagebreak()\n".join(images)
        )
        output = typst.compile(document, root=folder, ignore_system_fonts=True, **form)
    return output if isinstance(output, list) else [output]
