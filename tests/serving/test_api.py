"""The API as its document describes it, its keys, and what it lets other sites' scripts do."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jsonschema_rs
import pytest
import requests

from music import midi
from music import notes as nt
from music.analysis import memorization
from music.errors import SettingError, Unavailable
from serving import create_app
from serving.__main__ import run
from serving.api import openapi
from serving.api import requests as front
from serving.middleware import api_keys, cors
from tests.support.fakes import AskedBackend, ScriptedBackend, front_end, melody, scripted

SEED = nt.from_tuples([(0.5, 0.9, 60, 70), (0.75, 1.0, 64, 71)])
MIDI = {"Content-Type": "audio/midi"}
KEY, OTHER_KEY = "k" * 16, "a-longer-key/with+signs=42"
SITE = "https://music.example"


@pytest.fixture
def backend():
    return ScriptedBackend(melody(40, pitch=80))


def client_of(backend, **config):
    return create_app(config, backend).test_client()


@pytest.fixture
def index(tmp_path) -> str:
    """A file that lets `originality` be asked for."""
    (tmp_path / "melody.index").write_bytes(memorization.build([melody(40)]).to_bytes())
    return str(tmp_path / "melody.index")


@pytest.fixture
def client(backend, index):
    return client_of(backend, ORIGINALITY=index)


def schema(name: str, document: dict) -> jsonschema_rs.Validator:
    """One of the document's own schemas."""
    return jsonschema_rs.validator_for(
        {"$ref": f"#/components/schemas/{name}", "components": document["components"]},
    )


# The document


@pytest.mark.parametrize("closed", [False, True])
def test_the_document_is_valid_openapi_3_1(backend, closed):
    from schemathesis.specs.openapi import definitions

    document = client_of(backend, **({"API_KEYS": [KEY]} if closed else {})).get("/openapi.json").get_json()
    assert document["openapi"] == "3.1.0"
    definitions.OPENAPI_31_VALIDATOR.validate(document)
    broken = {**document, "paths": {"generate": {}}}
    assert not definitions.OPENAPI_31_VALIDATOR.is_valid(broken)


def test_the_document_names_every_parameter_format_and_path(client):
    document = client.get("/openapi.json").get_json()
    operation = document["paths"]["/generate"]["post"]
    assert [parameter["name"] for parameter in operation["parameters"]] == list(front.PARAMETERS)
    assert {*operation["responses"]["200"]["content"]} == {kinds[0] for kinds in front.FORMATS.values()}
    rules = {rule.rule for rule in client.application.url_map.iter_rules()}
    page = api_keys.OPEN - {"/healthz", "/readyz", "/openapi.json"}
    assert {*document["paths"]} == rules - page


def test_every_example_of_a_parameter_is_accepted_and_its_neighbours_outside_are_not(index):
    client = client_of(AskedBackend(melody(40, pitch=80)), ORIGINALITY=index)
    document = client.get("/openapi.json").get_json()
    for parameter in document["paths"]["/generate"]["post"]["parameters"]:
        name, json_schema = parameter["name"], parameter["schema"]
        jsonschema_rs.validate(json_schema, parameter["example"])
        text = json.dumps(parameter["example"]).strip('"')
        seed = {"data": midi.write(SEED), "headers": MIDI} if name.startswith("seed_") else {}
        assert client.post(f"/generate?{name}={text}", **seed).status_code == 200, name
        for edge in ("minimum", "maximum"):
            if name in ("density", "loudness"):  # the model's own values are fewer
                continue
            if edge in json_schema and (name, edge) != ("seed_start", "maximum"):  # no note begins so late
                response = client.post(f"/generate?{name}={json_schema[edge]}", **seed)
                assert response.status_code == 200, (name, edge)
        for edge, step in (("minimum", -1), ("maximum", 1), ("exclusiveMinimum", 0), ("exclusiveMaximum", 0)):
            if edge in json_schema:
                response = client.post(f"/generate?{name}={json_schema[edge] + step}", **seed)
                assert response.status_code == 422, (name, edge)


def test_every_example_of_a_reply_is_as_its_schema_says():
    document, seen = openapi.document(False), 0
    for path, methods in document["paths"].items():
        for operation in methods.values():
            for kind, content in operation["responses"]["200"]["content"].items():
                if "example" in content:
                    json_schema = {**content["schema"], "components": document["components"]}
                    jsonschema_rs.validate(json_schema, content["example"])
                    seen += 1
                    if kind == front.FORMATS["ndjson"][0]:
                        for line in content["example"].splitlines():
                            schema("Line", document).validate(json.loads(line))
                assert "schema" in content, path
    assert seen >= 5


def test_replies_are_as_the_document_says(backend, client):
    document = client.get("/openapi.json").get_json()

    def post(format: str) -> str:
        return client.post(
            f"/generate?format={format}&notes=9&originality=true", data=midi.write(SEED), headers=MIDI
        ).text

    schema("Piece", document).validate(json.loads(post("json")))
    line = schema("Line", document)
    assert not line.is_valid({"pitch": 60}) and not line.is_valid({"else": 1})

    def disturbed(number: int, signature: str) -> None:
        if signature == "generate":
            backend.version += 1
        if backend.version > 2:
            raise Unavailable("away")

    calm = [json.loads(text) for text in post("ndjson").splitlines()]
    backend.on_call = disturbed
    broken = [json.loads(text) for text in post("ndjson").splitlines()]
    assert calm[-1]["longest_run"]["notes"] == 9 and "error" in broken[-1]
    for reply in calm + broken:
        line.validate(reply)


def test_a_parameter_of_notes_that_is_none_is_422(client):
    for url in ("/notes?seeds=1", "/notes?notes=4"):
        response = client.post(url, data=midi.write(SEED), headers=MIDI)
        assert response.status_code == 422 and "expected a file named 'seed'" in response.get_json()["detail"]


@pytest.mark.slow
@pytest.mark.parametrize("flags", [(), pytest.param(("--api-keys-env", "KEYS"), marks=pytest.mark.slow)])
def test_schemathesis_finds_nothing_on_the_live_server(tmp_path, index, flags):
    """Some 350 requests: the examples, each edge of each schema on both sides, and random ones."""
    support = Path(__file__).parents[1] / "support"
    with front_end(*flags, "--originality", index, program=scripted(40), stdout=subprocess.DEVNULL, KEYS=KEY) as url:
        command = [Path(sys.executable).with_name("st"), "run", f"{url}/openapi.json", "--no-color", "--seed", "7"]
        command += ["--phases", "examples,coverage,fuzzing", "--max-examples", "30", "--request-timeout", "20"]
        command += ["-H", f"Authorization: Bearer {KEY}"] if flags else []
        environ = {**os.environ, "SCHEMATHESIS_HOOKS": "schemathesis_hooks", "PYTHONPATH": str(support)}
        done = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0 and "No issues found" in done.stdout, done.stdout[-5000:] + done.stderr[-2000:]
    generated = int(done.stdout.split("Test cases:")[1].split()[0])
    assert generated > 200, done.stdout[-3000:]


# Keys


@pytest.mark.parametrize(
    ("path", "method"), [("/generate", "POST"), ("/notes", "POST"), ("/model", "GET"), ("/metrics", "GET")]
)
def test_a_key_is_wanted_where_there_are_some(backend, path, method):
    client = client_of(backend, API_KEYS=[KEY, OTHER_KEY])
    data = midi.write(SEED) if path == "/notes" else None

    def status(**headers: str) -> int:
        return client.open(path, method=method, data=data, headers=(MIDI if data else {}) | headers).status_code

    for wrong in ({}, {"Authorization": "Bearer"}, {"Authorization": f"Bearer {KEY}x"}, {"X-API-Key": KEY[1:]},
                  {"Authorization": f"Basic {KEY}"}, {"X-API-Key": "\u00ff" * 16}, {"Cookie": KEY}):  # fmt: skip
        assert status(**wrong) == 401
        assert not backend.calls, "the model was asked for somebody without a key"
    for right in (
        {"Authorization": f"Bearer {KEY}"},
        {"Authorization": f"bearer {OTHER_KEY}"},
        {"X-API-Key": OTHER_KEY},
    ):
        assert status(**right) == 200


def test_a_refusal_is_a_problem_that_says_what_to_show(backend):
    client = client_of(backend, API_KEYS=[KEY])
    missing, wrong = client.post("/generate"), client.post("/generate", headers={"X-API-Key": "a secret"})
    for response, message in ((missing, "this server wants a key"), (wrong, "that key is not known")):
        assert response.mimetype == "application/problem+json" and response.headers["WWW-Authenticate"].startswith(
            "Bearer"
        )
        assert (
            response.get_json()["detail"]
            == f"{message}: expected the header 'Authorization: Bearer KEY' or 'X-API-Key: KEY'"
        )
    assert "a secret" not in wrong.text


def test_what_shows_the_page_and_whether_we_are_well_needs_no_key(backend):
    client = client_of(backend, API_KEYS=[KEY])
    for path in (
        "/",
        "/static/app.js",
        "/healthz",
        "/readyz",
        "/openapi.json",
        "/examples/nocturne.mid",
        "/piano.json",
    ):
        with client.get(path) as response:
            assert response.status_code in (200, 404) and response.status_code != 401, path
    assert client.get("/nowhere").status_code == 404
    assert client.options("/generate").status_code == 200


def test_without_keys_everybody_may_ask_and_the_document_says_so(client):
    assert client.post("/generate?notes=1", headers={"Authorization": "Bearer nonsense"}).status_code == 200
    assert "securitySchemes" not in client.get("/openapi.json").get_json()["components"]


def test_keys_come_from_a_file_and_from_the_environment(backend, tmp_path, monkeypatch):
    (tmp_path / "keys").write_text(f"# ours\n\n {KEY} \n")
    monkeypatch.setenv("OUR_KEYS", f"{OTHER_KEY}\n{'z' * 20}")
    client = client_of(backend, API_KEYS_FILE=tmp_path / "keys", API_KEYS_ENV="OUR_KEYS")
    shown = [KEY, OTHER_KEY, "z" * 20, "# ours", "y" * 20]
    assert [client.get("/model", headers={"X-API-Key": key}).status_code for key in shown] == [200, 200, 200, 401, 401]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"API_KEYS": []}, "expected at least one in API_KEYS"),
        ({"API_KEYS": KEY}, "expected at least one in API_KEYS"),
        ({"API_KEYS": ["short"]}, "16 to 256 visible ASCII characters"),
        ({"API_KEYS": [KEY, "with a space in it"]}, "one in API_KEYS is not so"),
        ({"API_KEYS_FILE": "nowhere"}, "got nowhere: No such file"),
        ({"API_KEYS_ENV": "NOT_SET"}, "expected at least one in $NOT_SET"),
    ],
)
def test_keys_that_are_none_are_refused_at_the_start(config, message):
    with pytest.raises(SettingError, match=message.replace("$", r"\$")):
        create_app(config, ScriptedBackend(nt.empty()))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--api-keys-file", "nowhere"], "api keys: expected a file with one in each line, got nowhere"),
        (["--api-keys-env", "NOT_SET"], "api keys: expected at least one in $NOT_SET"),
        (["--cors-origin", "music.example"], "cors origins: expected each to be like https://music.example or *"),
    ],
)
def test_the_command_says_what_is_wrong_with_them_in_one_line(capsys, flags, message):
    with pytest.raises(SystemExit) as exit:
        run(flags)
    assert exit.value.code == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


# Other sites' scripts

PREFLIGHT = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type,x-api-key"}


def allowed(response) -> dict[str, str]:
    return {
        name.lower(): value for name, value in response.headers.items() if name.lower().startswith("access-control")
    }


def test_by_default_no_other_site_is_let_in(client):
    for response in (
        client.options("/generate", headers={"Origin": SITE, **PREFLIGHT}),
        client.post("/generate?notes=1", headers={"Origin": SITE}),
    ):
        assert allowed(response) == {}


def test_a_listed_origin_is_let_in_and_no_other_one_named(backend):
    client = client_of(backend, CORS_ORIGINS=[SITE, "http://localhost:3000"], API_KEYS=[KEY])
    preflight = client.options("/generate", headers={"Origin": SITE, **PREFLIGHT})
    assert preflight.status_code == 200 and allowed(preflight) == {
        "access-control-allow-origin": SITE,
        "access-control-allow-methods": "OPTIONS, POST",
        "access-control-allow-headers": "Accept, Authorization, Content-Type, X-API-Key, X-Request-Id",
        "access-control-max-age": "86400",
    }
    for status, headers in ((200, {"X-API-Key": KEY}), (401, {})):  # a script may read a refusal, too
        response = client.post("/generate?notes=1", headers={"Origin": SITE, **headers})
        assert response.status_code == status and allowed(response)["access-control-allow-origin"] == SITE
        assert "X-Random-Seed" in allowed(response)["access-control-expose-headers"]
    for other in ("https://evil.example", f"{SITE}.evil.example", "null", f"{SITE}:444", SITE.upper()):
        response = client.post("/generate", headers={"Origin": other})
        assert allowed(response) == {} and "Origin" in response.headers["Vary"]
    assert allowed(client.post("/generate")) == {}


def test_any_origin_may_be_let_in_but_never_with_credentials(backend):
    client = client_of(backend, CORS_ORIGINS=["*"])
    for response in (
        client.post("/generate?notes=1", headers={"Origin": SITE}),
        client.get("/no", headers={"Origin": "null"}),
    ):
        assert allowed(response)["access-control-allow-origin"] == "*"
        assert "access-control-allow-credentials" not in allowed(response)


@pytest.mark.parametrize("origins", ["*", SITE, ["music.example"], [f"{SITE}/"], ["*.example"], ["null"], [""]])
def test_what_is_no_origin_is_refused_at_the_start(origins):
    with pytest.raises(SettingError, match="cors origins"):
        cors.check(origins)


def test_flags_reach_the_application():
    flags = ("--cors-origin", SITE, "--cors-origin", "http://a.example", "--api-keys-env", "KEYS")
    with front_end(*flags, program=scripted(4), stdout=subprocess.DEVNULL, KEYS=KEY) as url:
        response = requests.get(f"{url}/model", headers={"Origin": "http://a.example"}, timeout=20)
        assert response.status_code == 401 and response.headers["Access-Control-Allow-Origin"] == "http://a.example"
        assert requests.get(f"{url}/model", headers={"X-API-Key": KEY}, timeout=20).status_code == 200
