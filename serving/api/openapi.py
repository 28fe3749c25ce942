"""The API as OpenAPI 3.1, from the tables that requests are read by. Knows the contract, not how it is kept."""

from typing import Any

from music.generation import MOST_NEW_NOTES
from serving.api.requests import BOOLS, DEFAULTS, FLAGS, FORMATS, MIDI_TYPES, NUMBERS, RAW_TYPES, TEMPO_MAPS, Number
from serving.middleware import api_keys, request_context

_MEANS = {
    "notes": "How many new notes at most; a piece may end earlier by itself. With `seconds` and without it: "
    f"{MOST_NEW_NOTES:,}.",
    "temperature": "0 takes the likeliest note each time; above 1 is wilder.",
    "top_p": "Draw only from the likeliest choices that make up this share.",
    "min_p": "Draw only from choices at least this share as likely as the likeliest.",
    "random_seed": "The same one gives the same bytes. Without it one is drawn, and reported in X-Random-Seed.",
    "density": "About how many notes a second. The four of density, loudness, seconds and style are only for models "
    "with controls, whose card lists the values; others reply 422.",
    "loudness": "About how loud, as the mean velocity.",
    "seconds": "The piece, the seed included, ends by itself at about this second. It counts from the beginning of the "
    "seed's file, also with from_start.",
    "style": "A composer whose style the model has learned, or a part of that name.",
    "program": "The General MIDI instrument of all notes but drums. Without it, as the notes say.",
    "seed_start": "The seed is the notes of its file that begin at this second or later. Times stay those of the file.",
    "seed_end": "The seed is the notes of its file that begin before this second; they end there at the latest.",
    "seed_notes": "The seed is the last so many notes of its file, or of the part from seed_start to seed_end.",
    "include_seed": "Whether the reply begins with the seed's own notes.",
    "from_start": "Whether the first note of the reply begins at second 0; without it times are those of the seed.",
    "pedal": "Whether a MIDI file has a sustain pedal (CC64) and shorter keys, which give the same ends of notes.",
    "originality": "Whether to report the longest run of new notes that the training set also has, in any key and "
    "tempo. 422 where the server has no index of the training set.",
    "tempo_map": "Of a MIDI file. seed: the seed's tempos, metres, keys and names. estimate: estimated beats and bars "
    "where the seed's notes are not on the beats of its own file, and for a new piece.",
    "format": "What the reply is. Without it the Accept header decides, and without that it is MIDI.",
}
_EXAMPLES = {"notes": 8, "temperature": 0.9, "top_p": 0.95, "min_p": 0.02, "random_seed": 7, "program": 0}
_EXAMPLES |= {"density": 8, "loudness": 60, "seconds": 60}
_EXAMPLES |= {"seed_start": 0, "seed_end": 30, "seed_notes": 64}
_BINARY = {"type": "string", "format": "binary"}
_NOTE_EXAMPLE = {
    **{"pitch": 60, "name": "C4", "start": 0.5, "end": 0.9, "velocity": 70, "step": 0.0, "duration": 0.4},
    "seed": True,
}
_FILE = "A MIDI or a MusicXML file."
_UNHEARD = {
    "type": "integer",
    "minimum": 1,
    "description": "How many of the seed's notes the model did not read, as it cannot express their pitch or program, "
    "drums included. Absent where it read all.",
}
_WARNINGS = {
    "type": "array",
    "items": {"type": "string"},
    "minItems": 1,
    "description": "What was damaged in the seed's file, or left out when it was read. Absent where nothing was.",
}
_PROBLEMS = {
    400: "The seed is not MIDI.",
    401: "A valid key is missing.",
    406: "The server cannot make this format.",
    408: "The body came too slowly.",
    413: "The body is too large.",
    415: "The content type is not accepted.",
    422: "A wrong parameter; or a seed without notes, with too many, or with none that the model can express.",
    429: "Too many at once, or too often.",
    500: "An error in the server.",
    502: "The model's answer is not valid.",
    503: "The model is not available.",
    504: "The model, or the whole piece, took too long.",
}
_REMARKS = ("X-Unheard-Notes", "X-Warnings")
_MODEL_ERRORS = (429, 500, 502, 503, 504)  # a model server may be overloaded as well
_BODY_ERRORS = (400, 408, 413, 415, 422)


def document(closed: bool) -> dict[str, Any]:
    """Describe the API; `closed`: it needs keys."""
    result: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {
            "title": "Cadenza",
            "version": "0.1.0",
            "summary": "Continues piano music.",
            "description": "The page's own paths are not part of this contract.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "paths": {path: {method: _operation(path, closed, **facts)} for path, method, facts in _operations()},
        "components": {"schemas": _schemas(), "headers": _headers()},
    }
    if closed:
        result["components"]["securitySchemes"] = {
            "bearer": {"type": "http", "scheme": "bearer"},
            "key": {"type": "apiKey", "in": "header", "name": api_keys.HEADER},
        }
    return result


def _operations() -> list[tuple[str, str, dict]]:
    card = {"type": "object", "required": ["name", "version", "card"], "properties": {
        "name": {"type": "string"}, "version": {"type": "integer"}, "label": {"type": "string"},
        "card": {"type": "object", "required": ["schema", "recipe", "encoding", "state"]},
    }}  # fmt: skip
    ready = {"type": "object", "required": ["status", "model"], "properties": {
        "status": {"const": "ready"}, "model": {"type": "string"}, "label": {"type": "string"},
    }}  # fmt: skip
    healthy = {"type": "object", "required": ["status"], "properties": {"status": {"const": "ok"}}}
    seed_notes = {"type": "object", "required": ["notes", "drums"], "properties": {
        "notes": {"type": "array", "items": _ref("Note")}, "drums": {"type": "integer", "minimum": 0},
        "unheard_notes": _UNHEARD | {"description": "How many of these notes the model does not read."},
        "warnings": _WARNINGS,
    }}  # fmt: skip
    return [
        ("/generate", "post", {
            "name": "generate", "summary": "Continue a seed, or begin a new piece.", "parameters": _parameters(),
            "description": "Parameters may be fields of the form instead, each given once.",
            "body": False, "content": _pieces(),
            "headers": ("X-Random-Seed", "X-Model", "X-Notes", "X-Ended", "X-Longest-Run", *_REMARKS),
            "problems": (*_BODY_ERRORS, 406, *_MODEL_ERRORS),
        }),
        ("/notes", "post", {
            "name": "notes", "summary": "The notes of a file, as /generate reads them.", "body": True,
            "content": _json(seed_notes, {"notes": [{**_NOTE_EXAMPLE, "seed": False}], "drums": 0}),
            "problems": (*_BODY_ERRORS, 429, 500),
        }),
        ("/model", "get", {
            "name": "model", "summary": "The model's card.", "content": _json(card), "problems": _MODEL_ERRORS,
        }),
        ("/healthz", "get", {
            "name": "healthz", "summary": "This process is up.", "content": _json(healthy, {"status": "ok"}),
            "problems": (500,),
        }),
        ("/readyz", "get", {
            "name": "readyz", "summary": "The model answers.", "problems": _MODEL_ERRORS,
            "content": _json(ready, {"status": "ready", "model": "performance/1"}),
        }),
        ("/metrics", "get", {
            "name": "metrics", "summary": "Numbers for Prometheus.", "problems": (429, 500),
            "content": {"text/plain": {"schema": {"type": "string"}}},
        }),
        ("/openapi.json", "get", {
            "name": "openapi", "summary": "This document.", "content": _json({"type": "object"}), "problems": (500,),
        }),
    ]  # fmt: skip


def _operation(path: str, closed: bool, *, name: str, summary: str, content: dict, problems: tuple, **more) -> dict:
    guarded = closed and path not in api_keys.OPEN
    headers = {header: {"$ref": f"#/components/headers/{header}"} for header in more.get("headers", ())}
    request_id = {request_context.HEADER: {"$ref": f"#/components/headers/{request_context.HEADER}"}}
    operation: dict[str, Any] = {"operationId": name, "summary": summary}
    if "description" in more:
        operation["description"] = more["description"]
    if "parameters" in more:
        operation["parameters"] = more["parameters"]
    if "body" in more:
        operation["requestBody"] = _body(more["body"])
    operation["responses"] = {
        "200": {"description": "The requested content.", "headers": headers | request_id, "content": content}
    }
    for status in sorted({*problems, *((401,) if guarded else ())}):
        extra = {429: "Retry-After", 503: "Retry-After", 401: "WWW-Authenticate"}.get(status)
        operation["responses"][str(status)] = {
            "description": _PROBLEMS[status],
            "headers": request_id | ({extra: {"$ref": f"#/components/headers/{extra}"}} if extra else {}),
            "content": {"application/problem+json": {"schema": _ref("Problem")}},
        }
    if guarded:
        operation["security"] = [{"bearer": []}, {"key": []}]
    return operation


def _ref(name: str) -> dict:
    return {"$ref": f"#/components/schemas/{name}"}


def _json(schema: dict, example: Any = None) -> dict:
    return {"application/json": {"schema": schema} | ({} if example is None else {"example": example})}


def _body(required: bool) -> dict:
    form = {"type": "object", "properties": {"seed": _BINARY}, "required": ["seed"], "additionalProperties": False}
    content = {kind: {"schema": _BINARY} for kind in RAW_TYPES}
    return {
        "description": _FILE if required else f"The seed. {_FILE} Nothing for a new piece.",
        "required": required,
        "content": content | {"multipart/form-data": {"schema": form}},
    }


def _parameters() -> list[dict]:
    numbers = [_parameter(name, number_schema(number), _EXAMPLES[name]) for name, number in NUMBERS.items()]
    boolean = {"anyOf": [{"type": "boolean"}, {"enum": sorted(BOOLS)}]}
    flags = [_parameter(name, boolean | {"default": default}, not default) for name, default in FLAGS.items()]
    formats = {"type": "string", "enum": [*FORMATS], "default": "mid"}
    style = _parameter("style", {"type": "string"}, "Chopin")
    tempo_maps = {"type": "string", "enum": [*TEMPO_MAPS], "default": TEMPO_MAPS[0]}
    tempo_map = _parameter("tempo_map", tempo_maps, "estimate")
    return [*numbers, *flags, style, tempo_map, _parameter("format", formats, "json")]


def _parameter(name: str, schema: dict, example: Any) -> dict:
    default = {"default": DEFAULTS[name]} if name in DEFAULTS else {}
    described = {"description": _MEANS[name], "schema": schema | default, "example": example}
    # an empty value counts as absent: browsers send one for a field that nobody filled
    return {"name": name, "in": "query", **described, "allowEmptyValue": True}


def number_schema(number: Number) -> dict:
    """Write a Number of `requests` as JSON Schema."""
    return {
        "type": "integer" if number.kind is int else "number",
        "exclusiveMinimum" if number.above else "minimum": number.low,
        "exclusiveMaximum" if number.below else "maximum": number.high,
    }


def _pieces() -> dict:
    """Describe what /generate replies in each format."""
    content: dict[str, dict] = {kinds[0]: {"schema": _BINARY} for kinds in FORMATS.values()}
    example = {"model": "performance/1", "random_seed": 7, "ended": "length", "notes": [_NOTE_EXAMPLE]}
    content[FORMATS["json"][0]] = {"schema": _ref("Piece"), "example": example}
    content[FORMATS["ndjson"][0]] = {
        "schema": {"type": "string", "description": "Lines, each one a JSON object: see the schema Line."},
        "example": '{"model":"performance/1","random_seed":7}\n{"end":"length"}\n',
    }
    assert MIDI_TYPES[0] in content
    return content


def _schemas() -> dict:
    text, integer = {"type": "string"}, {"type": "integer"}
    seconds = {"type": "number"}
    ended = {"enum": ["final", "length"], "description": "final: the piece ended by itself"}
    note = {
        "pitch": integer | {"minimum": 0, "maximum": 127},
        "name": text,
        "start": seconds,
        "end": seconds,
        "velocity": integer | {"minimum": 1, "maximum": 127},
        "step": seconds | {"description": "since the start of the note before"},
        "duration": seconds,
        "drum": {"type": "boolean", "description": "true: a stroke of the drum set that `pitch` chooses"},
        "seed": {"type": "boolean", "description": "true: the note is the seed's own"},
    }
    random_seed = number_schema(NUMBERS["random_seed"])
    status = integer | {"minimum": 400, "maximum": 599}
    return {
        "Note": _object(note, optional={"drum", "seed"}),
        "Piece": _object(
            {
                "model": text,
                "random_seed": random_seed,
                "ended": ended,
                "unheard_notes": _UNHEARD,
                "warnings": _WARNINGS,
                "longest_run": _ref("Run"),
                "notes": {"type": "array", "items": _ref("Note")},
            },
            optional={"longest_run", "unheard_notes", "warnings"},
        ),
        "Run": {
            "description": "With `originality`: the longest run of new notes that the training set also has.",
            **_object(
                {
                    "notes": integer | {"minimum": 0, "description": "0: none of 8 or more"},
                    "start": seconds | {"description": "the onset of its first note"},
                    "seconds": seconds | {"description": "from there to the onset of its last note"},
                },
                optional={"start", "seconds"},
            ),
        },
        "Line": {
            "description": "Of a stream: Opening, then Notes as they are generated, then End or Broken. Moved may come "
            "between, where a new version of the model has taken over.",
            "anyOf": [_ref(name) for name in ("Note", "Opening", "Moved", "End", "Broken")],
        },
        "Opening": _object(
            {"model": text, "random_seed": random_seed, "unheard_notes": _UNHEARD, "warnings": _WARNINGS},
            optional={"unheard_notes", "warnings"},
        ),
        "Moved": _object({"model": text}),
        "End": _object({"end": ended, "longest_run": _ref("Run")}, optional={"longest_run"}),
        "Broken": _object({"error": text, "status": status}),
        "Problem": _object(
            {"type": {"const": "about:blank"}, "title": text, "status": status, "detail": text, "request_id": text}
        ),
    }


def _object(properties: dict, optional: set[str] = frozenset()) -> dict:  # type: ignore[assignment]
    required = [name for name in properties if name not in optional]
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def _headers() -> dict:
    headers = {
        request_context.HEADER: (
            "The client's, if it is 1 to 128 of A-Za-z0-9._~-; else one made by the server.",
            {"type": "string"},
        ),
        "X-Random-Seed": ("The one that was drawn, or requested.", number_schema(NUMBERS["random_seed"])),
        "X-Model": ("The model's name and version; several where a new version took over.", {"type": "string"}),
        "X-Notes": ("How many notes are new; not in a stream.", {"type": "integer"}),
        "X-Ended": ("final or length; not in a stream.", {"enum": ["final", "length"]}),
        "X-Longest-Run": (
            "With `originality`, not in a stream: the longest run of new notes that the training set also has, as "
            "notes=12, start=3.5, seconds=1.25; notes=0: none of 8 or more.",
            {"type": "string"},
        ),
        "X-Unheard-Notes": (_UNHEARD["description"], {"type": "integer", "minimum": 1}),
        "X-Warnings": (f"{_WARNINGS['description']} Separated by semicolons.", {"type": "string"}),
        "Retry-After": ("Seconds.", {"type": "integer"}),
        "WWW-Authenticate": ("Bearer.", {"type": "string"}),
    }
    return {name: {"description": means, "schema": schema} for name, (means, schema) in headers.items()}
