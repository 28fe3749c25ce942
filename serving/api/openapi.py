"""The API as OpenAPI 3.1, from the tables that requests are read by. Knows what is said, not how it is done."""

from typing import Any

from serving.api.requests import BOOLS, DEFAULTS, FLAGS, FORMATS, MIDI_TYPES, NUMBERS, RAW_TYPES, Number
from serving.middleware import api_keys, request_context

_MEANS = {
    "notes": "How many new notes at most; a piece may end earlier by itself.",
    "temperature": "0 takes the likeliest note each time; above 1 is wilder.",
    "top_p": "Draw only from the likeliest choices that make up this share.",
    "min_p": "Draw only from choices at least this share as likely as the likeliest.",
    "random_seed": "The same one gives the same bytes. Without it one is drawn, and told in X-Random-Seed.",
    "program": "The General MIDI instrument of all notes but drums. Without it, as the notes say.",
    "include_seed": "Whether the reply begins with the seed's own notes.",
    "originality": "Whether to tell the longest run of new notes that the music the model was trained on has, too, in "
    "any key and tempo. 422 where the server has no index of it.",
    "format": "What the reply is. Without it the Accept header says so, and else it is MIDI.",
}
_EXAMPLES = {"notes": 8, "temperature": 0.9, "top_p": 0.95, "min_p": 0.02, "random_seed": 7, "program": 0}
_BINARY = {"type": "string", "format": "binary"}
_NOTE_EXAMPLE = {
    **{"pitch": 60, "name": "C4", "start": 0.5, "end": 0.9, "velocity": 70, "step": 0.0, "duration": 0.4},
    "seed": True,
}
_PROBLEMS = {
    400: "The seed is not MIDI.",
    401: "A key is wanted.",
    406: "Another format than those that can be made here.",
    408: "The body came too slowly.",
    413: "The body is too large.",
    415: "Another content type.",
    422: "A parameter, or a seed without notes, with too many, or with some that the model cannot express.",
    429: "Too many at once, or too often.",
    500: "A mistake of the server's.",
    502: "The model answered nonsense.",
    503: "There is no model just now.",
    504: "The model, or the whole piece, took too long.",
}
_MODEL_ERRORS = (429, 500, 502, 503, 504)  # a model server may be busy as well
_BODY_ERRORS = (400, 408, 413, 415, 422)


def document(closed: bool) -> dict[str, Any]:
    """The document; `closed`: keys are wanted."""
    said: dict[str, Any] = {
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
        said["components"]["securitySchemes"] = {
            "bearer": {"type": "http", "scheme": "bearer"},
            "key": {"type": "apiKey", "in": "header", "name": api_keys.HEADER},
        }
    return said


def _operations() -> list[tuple[str, str, dict]]:
    card = {"type": "object", "required": ["name", "version", "card"], "properties": {
        "name": {"type": "string"}, "version": {"type": "integer"}, "label": {"type": "string"},
        "card": {"type": "object", "required": ["schema", "recipe", "encoding", "state"]},
    }}  # fmt: skip
    ready = {"type": "object", "required": ["status", "model"], "properties": {
        "status": {"const": "ready"}, "model": {"type": "string"}, "label": {"type": "string"},
    }}  # fmt: skip
    well = {"type": "object", "required": ["status"], "properties": {"status": {"const": "ok"}}}
    heard = {"type": "object", "required": ["notes", "drums"], "properties": {
        "notes": {"type": "array", "items": _ref("Note")}, "drums": {"type": "integer", "minimum": 0},
    }}  # fmt: skip
    return [
        ("/generate", "post", {
            "name": "generate", "summary": "Continue a seed, or begin a new piece.", "parameters": _parameters(),
            "description": "Parameters may be fields of the form instead, each given once.",
            "body": False, "content": _pieces(),
            "headers": ("X-Random-Seed", "X-Model", "X-Notes", "X-Ended", "X-Longest-Run"),
            "problems": (*_BODY_ERRORS, 406, *_MODEL_ERRORS),
        }),
        ("/notes", "post", {
            "name": "notes", "summary": "What a MIDI file holds, as /generate hears it.", "body": True,
            "content": _json(heard, {"notes": [{**_NOTE_EXAMPLE, "seed": False}], "drums": 0}),
            "problems": (*_BODY_ERRORS, 429, 500),
        }),
        ("/model", "get", {
            "name": "model", "summary": "The model's card.", "content": _json(card), "problems": _MODEL_ERRORS,
        }),
        ("/healthz", "get", {
            "name": "healthz", "summary": "This process is up.", "content": _json(well, {"status": "ok"}),
            "problems": (500,),
        }),
        ("/readyz", "get", {
            "name": "readyz", "summary": "The model answers.", "problems": _MODEL_ERRORS,
            "content": _json(ready, {"status": "ready", "model": "performance/1"}),
        }),
        ("/metrics", "get", {
            "name": "metrics", "summary": "What Prometheus scrapes.", "problems": (429, 500),
            "content": {"text/plain": {"schema": {"type": "string"}}},
        }),
        ("/openapi.json", "get", {
            "name": "openapi", "summary": "This document.", "content": _json({"type": "object"}), "problems": (500,),
        }),
    ]  # fmt: skip


def _operation(path: str, closed: bool, *, name: str, summary: str, content: dict, problems: tuple, **more) -> dict:
    guarded = closed and path not in api_keys.OPEN
    headers = {header: {"$ref": f"#/components/headers/{header}"} for header in more.get("headers", ())}
    ours = {request_context.HEADER: {"$ref": f"#/components/headers/{request_context.HEADER}"}}
    said: dict[str, Any] = {"operationId": name, "summary": summary}
    if "description" in more:
        said["description"] = more["description"]
    if "parameters" in more:
        said["parameters"] = more["parameters"]
    if "body" in more:
        said["requestBody"] = _body(more["body"])
    said["responses"] = {"200": {"description": "As asked for.", "headers": headers | ours, "content": content}}
    for status in sorted({*problems, *((401,) if guarded else ())}):
        extra = {429: "Retry-After", 503: "Retry-After", 401: "WWW-Authenticate"}.get(status)
        said["responses"][str(status)] = {
            "description": _PROBLEMS[status],
            "headers": ours | ({extra: {"$ref": f"#/components/headers/{extra}"}} if extra else {}),
            "content": {"application/problem+json": {"schema": _ref("Problem")}},
        }
    if guarded:
        said["security"] = [{"bearer": []}, {"key": []}]
    return said


def _ref(name: str) -> dict:
    return {"$ref": f"#/components/schemas/{name}"}


def _json(schema: dict, example: Any = None) -> dict:
    return {"application/json": {"schema": schema} | ({} if example is None else {"example": example})}


def _body(required: bool) -> dict:
    form = {"type": "object", "properties": {"seed": _BINARY}, "required": ["seed"], "additionalProperties": False}
    content = {kind: {"schema": _BINARY} for kind in RAW_TYPES}
    return {
        "description": "A MIDI file." if required else "The seed, a MIDI file; nothing for a new piece.",
        "required": required,
        "content": content | {"multipart/form-data": {"schema": form}},
    }


def _parameters() -> list[dict]:
    said = [_parameter(name, number_schema(number), _EXAMPLES[name]) for name, number in NUMBERS.items()]
    boolean = {"anyOf": [{"type": "boolean"}, {"enum": sorted(BOOLS)}]}
    flags = [_parameter(name, boolean | {"default": usual}, not usual) for name, usual in FLAGS.items()]
    formats = {"type": "string", "enum": [*FORMATS], "default": "mid"}
    return [*said, *flags, _parameter("format", formats, "json")]


def _parameter(name: str, schema: dict, example: Any) -> dict:
    default = {"default": DEFAULTS[name]} if name in DEFAULTS else {}
    said = {"name": name, "in": "query", "description": _MEANS[name], "schema": schema | default, "example": example}
    return said | {"allowEmptyValue": True}  # it counts as absent: so browsers send a field that nobody filled


def number_schema(number: Number) -> dict:
    """A Number of requests.py as JSON Schema."""
    return {
        "type": "integer" if number.kind is int else "number",
        "exclusiveMinimum" if number.above else "minimum": number.low,
        "exclusiveMaximum" if number.below else "maximum": number.high,
    }


def _pieces() -> dict:
    """What /generate replies in each format."""
    said: dict[str, dict] = {kinds[0]: {"schema": _BINARY} for kinds in FORMATS.values()}
    example = {"model": "performance/1", "random_seed": 7, "ended": "length", "notes": [_NOTE_EXAMPLE]}
    said[FORMATS["json"][0]] = {"schema": _ref("Piece"), "example": example}
    said[FORMATS["ndjson"][0]] = {
        "schema": {"type": "string", "description": "Lines, each one a JSON object: see the schema Line."},
        "example": '{"model":"performance/1","random_seed":7}\n{"end":"length"}\n',
    }
    assert MIDI_TYPES[0] in said
    return said


def _schemas() -> dict:
    text, whole = {"type": "string"}, {"type": "integer"}
    seconds = {"type": "number"}
    ended = {"enum": ["final", "length"], "description": "final: the piece ended by itself"}
    note = {
        "pitch": whole | {"minimum": 0, "maximum": 127},
        "name": text,
        "start": seconds,
        "end": seconds,
        "velocity": whole | {"minimum": 1, "maximum": 127},
        "step": seconds | {"description": "since the start of the note before"},
        "duration": seconds,
        "seed": {"type": "boolean", "description": "true: the note is the seed's own"},
    }
    random_seed = number_schema(NUMBERS["random_seed"])
    status = whole | {"minimum": 400, "maximum": 599}
    return {
        "Note": _object(note, optional={"seed"}),
        "Piece": _object(
            {
                "model": text,
                "random_seed": random_seed,
                "ended": ended,
                "longest_run": _ref("Run"),
                "notes": {"type": "array", "items": _ref("Note")},
            },
            optional={"longest_run"},
        ),
        "Run": {
            "description": "The longest run of new notes that the training set has, too, where `originality` asked.",
            **_object(
                {
                    "notes": whole | {"minimum": 0, "description": "0: none of 8 or more"},
                    "start": seconds | {"description": "the onset of its first note"},
                    "seconds": seconds | {"description": "from there to the onset of its last note"},
                },
                optional={"start", "seconds"},
            ),
        },
        "Line": {
            "description": "Of a stream: Opening, then Notes as they are made, then End or Broken. Moved may come "
            "between, where a new version of the model has taken over.",
            "anyOf": [_ref(name) for name in ("Note", "Opening", "Moved", "End", "Broken")],
        },
        "Opening": _object({"model": text, "random_seed": random_seed}),
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
    said = {
        request_context.HEADER: (
            "The caller's, if it is 1 to 128 of A-Za-z0-9._~-; else one of our own.",
            {"type": "string"},
        ),
        "X-Random-Seed": ("What was drawn, or asked for.", number_schema(NUMBERS["random_seed"])),
        "X-Model": ("Its name and version; several where a new version took over.", {"type": "string"}),
        "X-Notes": ("How many are new; not of a stream.", {"type": "integer"}),
        "X-Ended": ("final or length; not of a stream.", {"enum": ["final", "length"]}),
        "X-Longest-Run": (
            "With `originality`, not of a stream: the longest run of new notes that the training set has, too, as "
            "notes=12, start=3.5, seconds=1.25; notes=0: none of 8 or more.",
            {"type": "string"},
        ),
        "Retry-After": ("Seconds.", {"type": "integer"}),
        "WWW-Authenticate": ("Bearer.", {"type": "string"}),
    }
    return {name: {"description": means, "schema": schema} for name, (means, schema) in said.items()}
