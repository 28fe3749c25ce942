"""Any bytes as a request: method, path, query, headers and body. Never a 5xx, and a problem where it is no success."""

import urllib.parse

from music import midi
from music.notes import from_tuples
from serving import create_app
from tests.support.fakes import ScriptedBackend, melody

_METHODS = ("POST", "GET", "PUT", "OPTIONS", "HEAD", "DELETE")
_PATHS = ("/generate", "/notes", "/examples/", "/model", "/openapi.json", "/")
_SEED = midi.write(from_tuples([(0, 1, 60), (0.5, 2, 64, 99)]))
_FORM = b'--x\r\nContent-Disposition: form-data; name="seed"; filename="a.mid"\r\n\r\n' + _SEED + b"\r\n--x--\r\n"
_QUERY = b"notes=3&temperature=0.5&top_p=1&min_p=0&random_seed=4294967295&include_seed=false&format=json&program=40"
SEEDS = [  # method and path, query, content type, accept, body
    b"\0\0\n" + _QUERY + b"\naudio/midi\n*/*\n" + _SEED,
    b"\0\0\nnotes=4096&format=ndjson\nmultipart/form-data; boundary=x\naudio/midi;q=0.5\n" + _FORM,
    b"\0\0\n\napplication/x-www-form-urlencoded\n\nnotes=3&format=mid&originality=true",
    b"\0\0\nseed_start=0.2&seed_end=9&seed_notes=1&from_start=1&pedal=true&tempo_map=estimate\naudio/midi\n\n" + _SEED,
    b"\0\1\n\naudio/midi\n\n" + _SEED,
    b"\1\2\nx=%ff%00\n\n\nchorale.mid",
    b"\2\0\n\n\n\n",
]
REGRESSIONS = [  # a part of a form that has no name was a 500
    b"\0\0\n\nmultipart/form-data; boundary=x\n\n--x\r\nContent-Disposition: form-data\r\n\r\nMThd\r\n--x--\r\n",
    b"\0\1\n\nmultipart/form-data; boundary=x\n\n"
    b'--x\r\nContent-Disposition: form-data; filename="a.mid"\r\n\r\nMThd\r\n--x--\r\n',
]
_client = create_app({"TIMEOUT": 60}, ScriptedBackend(melody(6, pitch=80))).test_client()


def one(data: bytes) -> None:
    first, query, kind, accept, body = (data.split(b"\n", 4) + [b""] * 5)[:5]
    first += b"\0\0"
    path = _PATHS[first[1] % len(_PATHS)]
    headers = {"Accept": accept.decode("latin-1"), "Content-Type": kind.decode("latin-1")}
    if any(not value.isprintable() for value in headers.values()):
        return  # no server takes such a line for a header
    if path == "/examples/":
        path += urllib.parse.quote(body[:99])
    response = _client.open(
        path,
        method=_METHODS[first[0] % len(_METHODS)],
        query_string=query.decode("latin-1"),
        headers={name: value for name, value in headers.items() if value},
        data=body,
    )
    reply = response.get_data()
    assert response.status_code < 500, (response.status_code, reply)
    if response.status_code >= 400 and response.request.method != "HEAD":
        assert response.mimetype == "application/problem+json", (response.status_code, reply)
