"""cloudbuild.yaml as Google's own message, and what it names: steps, substitutions, files, targets, images."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml
from google.cloud.devtools import cloudbuild_v1
from google.protobuf import json_format

ROOT = Path(__file__).parents[2]
IMAGES = {"cadenza-serve", "cadenza-serve-full", "cadenza-embedded", "cadenza-worker", "cadenza-train"}
GIVEN = {"PROJECT_ID", "BUILD_ID", "SHORT_SHA", "TAG_NAME"}  # of those that Cloud Build knows by itself: what we use


def parsed(text: str) -> cloudbuild_v1.Build:
    empty = cloudbuild_v1.Build.pb(cloudbuild_v1.Build())
    return cloudbuild_v1.Build(json_format.ParseDict(yaml.safe_load(text), empty))


@pytest.fixture(scope="module")
def build() -> cloudbuild_v1.Build:
    return parsed((ROOT / "cloudbuild.yaml").read_text())


@pytest.fixture(scope="module")
def steps(build) -> dict[str, cloudbuild_v1.BuildStep]:
    return {step.id: step for step in build.steps}


@pytest.mark.parametrize(
    "text",
    [
        "steps: [{name: docker, wait_fro: [a]}]",
        "steps: [{name: docker, args: build}]",
        "options: {machineType: E2_HIGHCPU_9}",
        "timeout: 90m",
        "substitution: {_A: b}",
    ],
)
def test_a_planted_mistake_is_found(text):
    with pytest.raises(json_format.ParseError):
        parsed(text)


def test_steps_wait_for_steps_before_them(build):
    seen: set[str] = set()
    for step in build.steps:
        assert step.id and step.id not in seen
        assert set(step.wait_for) - {"-"} <= seen, step.id  # so there is no circle either
        seen.add(step.id)


def before(steps, name: str) -> set[str]:
    """List the steps that have ended when this one begins; a step that names none waits for all before it."""
    order = list(steps)
    direct = set(steps[name].wait_for) - {"-"} if steps[name].wait_for else set(order[: order.index(name)])
    return direct.union(*(before(steps, other) for other in direct))


def test_nothing_is_pushed_before_the_gate_and_nothing_deployed_before_the_push(steps):
    builds = {f"build-{name.removeprefix('cadenza-')}" for name in IMAGES}
    assert {"test", "stack", "gate"} | builds <= before(steps, "push")
    assert "push" in before(steps, "deploy")
    assert "build-serve" in before(steps, "stack")


def test_every_substitution_is_known_and_every_own_one_used(build):
    text = (ROOT / "cloudbuild.yaml").read_text()
    text = re.sub(r"(?m)^\s*#.*$", "", text)
    used = set(re.findall(r"\$\{?([A-Z_][A-Z_0-9]*)", text))
    own = set(build.substitutions)
    assert used - own <= GIVEN | {"FRONT_END"}  # the last is set by a script, for compose
    assert own <= used and all(name.startswith("_") for name in own)
    assert build.options.automap_substitutions and build.options.dynamic_substitutions


def test_scripts_name_no_substitution_that_only_arguments_have(steps):
    """In a script ${X} is the shell's: it has the build's substitutions as variables, and those that it sets."""
    for step in steps.values():
        assert bool(step.script) != bool(step.args), step.id  # Cloud Build takes one or the other
        if step.script:
            assert not step.entrypoint
            assert step.script.startswith("#!"), step.id
            shell = "sh" if "sh\n" in step.script.split("\n")[0] + "\n" and "bash" not in step.script[:30] else "bash"
            subprocess.run([shell, "-n"], input=step.script, text=True, check=True)
            assert re.search(r"^set -eu", step.script, re.M), step.id  # or a failed line would not stop it


def test_each_image_is_built_from_a_target_that_is_there_and_pushed(steps):
    built = {}
    for step in steps.values():
        if not step.args or step.args[0] != "build":
            continue
        flags = dict(arg.removeprefix("--").split("=", 1) for arg in step.args[1:-1])
        assert flags["tag"].startswith("${_IMAGES}/") and flags["tag"].endswith(":$BUILD_ID")
        dockerfile = (ROOT / flags["file"]).read_text()
        if "target" in flags:
            assert re.search(rf"^FROM \S+ AS {flags['target']}$", dockerfile, re.M), step.id
        built[flags["tag"].split("/")[1].split(":")[0]] = flags.get("target")
        assert step.args[-1] == "." and step.id == f"build-{flags['tag'].split('/cadenza-')[1].split(':')[0]}"
    assert built == {
        "cadenza-serve": "serve", "cadenza-serve-full": "full", "cadenza-embedded": "embedded",
        "cadenza-worker": None, "cadenza-train": None,
    }  # fmt: skip
    pushed = re.search(r"for name in ([^;]+);", steps["push"].script)[1].split()
    assert set(pushed) == IMAGES and len(pushed) == len(IMAGES)


def test_every_file_module_and_target_that_a_step_names_is_there(steps):
    makefile = (ROOT / "Makefile").read_text()
    words = [word for step in steps.values() for word in [*shlex.split(step.script, comments=True), *step.args]]
    for before_it, word in zip(["", *words], words, strict=False):
        if before_it == "make":
            assert re.search(rf"^{word}:", makefile, re.M), word
        if before_it == "-m":
            assert (ROOT / f"{word.replace('.', '/')}.py").exists(), word
        if before_it == "--file":
            assert (ROOT / word).exists(), word


def test_python_and_its_environment_are_one_for_all_steps(steps):
    """.venv is made by the tests' step and used by later ones: the interpreter must be the same one."""
    texts = [(step.name, step.script + step.entrypoint) for step in steps.values()]
    names = {name for name, text in texts if ".venv" in text or "make test" in text}
    assert names == {"python:3.11-bookworm"}


def test_flags_of_our_own_commands_are_theirs(steps, capsys):
    from infra.cloud import deploy, gate

    for name, module in (("gate", gate), ("deploy", deploy)):
        with pytest.raises(SystemExit):
            module.run(["--help"])
        help_text = capsys.readouterr().out
        words = list(steps[name].args) or shlex.split(steps[name].script.split(f"infra.cloud.{name}")[1])
        flags = {word.split("=")[0] for word in words if word.startswith("--")}
        assert flags and all(flag in help_text for flag in flags)


def test_the_stack_is_the_one_of_compose_and_the_gate_calls_its_front_end(steps):
    compose = yaml.safe_load((ROOT / "infra/cloud/compose.yaml").read_text())
    container = f"{compose['name']}-front-end-1"
    assert f"docker network connect cloudbuild {container}" in steps["stack"].script
    assert f"http://{container}:8080" in steps["gate"].args
    assert compose["services"]["front-end"]["image"].startswith("${FRONT_END:-")
    assert "FRONT_END=" in steps["stack"].script and "--no-build" in steps["stack"].script


def test_a_deployment_needs_a_tag(steps, tmp_path):
    """The script itself, with a Python that only prints its arguments."""
    python = tmp_path / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\necho "$@"\n')
    python.chmod(0o755)
    environment = {"PATH": "/usr/bin:/bin", "PROJECT_ID": "p", "_REGION": "r", "_IMAGES": "i", "BUILD_ID": "b"}

    def output(**more):
        script = ["bash", "-c", steps["deploy"].script]
        return subprocess.run(
            script, cwd=tmp_path, env=environment | more, capture_output=True, text=True, check=True
        ).stdout

    assert output() == output(TAG_NAME="") == "No tag: the images are pushed, and nothing is deployed.\n"
    assert output(TAG_NAME="v1") == "-m infra.cloud.deploy --project p --region r --image i/cadenza-serve:b\n"


def test_it_runs_as_the_account_that_terraform_makes(build):
    accounts = (ROOT / "infra/terraform/access.tf").read_text()
    assert 'account_id   = "cadenza-${each.key}"' in accounts and re.search(r"^    build +=", accounts, re.M)
    assert build.service_account.split("/")[-1] == "cadenza-build@$PROJECT_ID.iam.gserviceaccount.com"
    assert build.options.logging == cloudbuild_v1.BuildOptions.LoggingMode.CLOUD_LOGGING_ONLY  # or it wants a bucket
