"""infra/terraform without a provider and without an account: formatted, every block a known kind, nothing left over.

`terraform validate` needs the provider of Google, which is downloaded; it has not been run, infra/README.md says so.
Where terraform is on the PATH its own parser reads the files too.
"""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from infra.cloud import deploy

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "infra/terraform"
FILES = sorted(FOLDER.glob("*.tf"))


def blocks(text: str) -> list[tuple[str, tuple[str, ...], str]]:
    """List (kind, labels, body) of every top-level block of a file that `terraform fmt` has formatted."""
    matches = re.findall(r'^(\w+)((?: "[\w-]+")*) \{\n(.*?)^\}$', text, re.M | re.S)
    return [(kind, tuple(re.findall(r'"([\w-]+)"', labels)), body) for kind, labels, body in matches]


def everything() -> str:
    return "\n".join(path.read_text() for path in FILES)


def named(kind: str) -> dict[tuple[str, ...], str]:
    return {labels: body for each, labels, body in blocks(everything()) if each == kind}


def members(name: str) -> list[str]:
    """Read the strings of a list in `locals`."""
    return re.findall(r'"([^"]+)"', re.search(rf"{name} = toset\(\[(.*?)\]\)", everything(), re.S)[1])


def keys(name: str) -> set[str]:
    """Read the names of a map in `locals`."""
    body = re.search(rf"^  {name} = \{{\n(.*?)^  \}}", everything(), re.M | re.S)[1]
    return set(re.findall(r"^ {4}(\w+) +=", body, re.M))


def test_terraform_finds_the_files_formatted():
    if not shutil.which("terraform"):
        pytest.skip("terraform is not installed: only the checks below were made")
    done = subprocess.run(
        ["terraform", "fmt", "-check", "-diff", str(FOLDER)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_line_belongs_to_a_block_or_is_a_comment():
    for path in FILES:
        text = path.read_text()
        rest = re.sub(r'^(\w+)((?: "[\w-]+")*) \{\n(.*?)^\}$', "", text, flags=re.M | re.S)
        assert all(not line or line.startswith("#") for line in rest.split("\n")), path.name
        assert "\t" not in text and text.endswith("\n")


@pytest.mark.parametrize("kind", ["variable", "output"])
def test_each_is_described_and_of_a_type(kind):
    described = named(kind)
    assert len(described) >= 3
    for labels, body in described.items():
        assert re.search(r'^  description = "[A-Z].{15,}\."$', body, re.M), labels
        assert kind == "output" or re.search(r"^  type +=", body, re.M), labels


def test_every_variable_is_declared_and_used():
    declared = {name for (name,) in named("variable")}
    assert set(re.findall(r"\bvar\.(\w+)", everything())) == declared


def test_every_resource_that_is_named_is_there():
    there = {".".join(labels) for labels in named("resource")}
    there |= {"data." + ".".join(labels) for labels in named("data")}
    text = re.sub(r'"(roles|google|hashicorp)/[^"]*"', "", everything())
    assert set(re.findall(r"\b((?:data\.)?google_\w+\.\w+)", text)) <= there


def test_the_state_lies_in_a_bucket():
    ((labels, body),) = [(labels, body) for kind, labels, body in blocks(everything()) if kind == "terraform"]
    assert labels == () and re.search(r'^  backend "gcs" \{$', body, re.M)
    assert re.search(r'source  = "hashicorp/google"\n +version = "[^"]*<', body)  # no major version by surprise


def test_buckets_are_versioned_closed_and_swept():
    body = named("resource")["google_storage_bucket", "bucket"]
    assert re.search(r"uniform_bucket_level_access = true", body)
    assert re.search(r'public_access_prevention    = "enforced"', body)
    assert re.search(r"versioning \{\n +enabled = true", body)
    assert body.count("lifecycle_rule") == 3 and "AbortIncompleteMultipartUpload" in body
    assert keys("buckets") == {"data", "runs", "models", "temp"}


def test_each_account_has_what_it_needs_and_no_more():
    accounts = keys("accounts")
    assert accounts == {"worker", "trainer", "server", "build"}
    granted = members("project_roles") + members("bucket_roles") + members("image_roles")
    assert {grant.split("/")[0] for grant in granted} == accounts
    roles = {grant[grant.index("roles/") :] for grant in granted}
    assert not {"roles/owner", "roles/editor", "roles/viewer"} & roles
    assert not [role for role in roles if role.lower().endswith("admin")]
    assert all(grant.split("/")[1] in keys("buckets") for grant in members("bucket_roles"))
    server = [grant for grant in granted if grant.startswith("server/")]
    assert server == ["server/models/roles/storage.objectViewer"]  # whoever breaks in can read models, and that is all
    assert "google_service_account_key" not in everything()


def test_the_names_are_those_that_the_commands_expect():
    assert 'account_id   = "cadenza-${each.key}"' in everything()
    assert '"${var.project}-cadenza-${each.key}"' in everything()
    service = deploy.rendered(
        deploy.FILE.read_text(), dict.fromkeys(deploy.NAMES, "x") | {"BUCKET": "p-cadenza-models"}
    )
    assert service.template.volumes[0].gcs.bucket.removeprefix("p-cadenza-") in keys("buckets")
    assert 'repository_id = "cadenza"' in named("resource")["google_artifact_registry_repository", "images"]
    assert "/$PROJECT_ID/cadenza" in (ROOT / "cloudbuild.yaml").read_text()
    assert f'default     = "{deploy.REGION}"' in named("variable")["region",]


def test_mail_goes_out_for_money_and_for_each_engine():
    budget = named("resource")["google_billing_budget", "month"]
    assert "for_each = [0.5, 0.9, 1.0]" in budget and "var.monthly_budget" in budget
    assert keys("failures") >= {"dataflow", "trainer", "batch", "build", "service"}
    last_words = re.search(r'textPayload=~\\"\^(.*?)\\"', everything())[1]
    assert f'fail("{last_words.removesuffix(": ")}", error)' in (ROOT / "trainer/__main__.py").read_text()
    assert 'print(f"{program}: {why}"' in (ROOT / "music/command_line.py").read_text()  # so the last line begins
    for body in (budget, named("resource")["google_monitoring_alert_policy", "failed"]):
        assert "google_monitoring_notification_channel.mail.name" in body


def test_every_api_that_an_engine_needs_is_enabled():
    apis = set(re.findall(r'"(\w+)\.googleapis\.com"', (FOLDER / "apis.tf").read_text()))
    assert apis >= {"run", "batch", "dataflow", "cloudbuild", "artifactregistry", "storage", "compute"}


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        ('variable "a" {\n  type = string\n}\n', [("variable", ("a",))]),
        (
            'resource "x" "y" {\n  z {\n  }\n}\n# c\nlocals {\n  b = 1\n}\n',
            [("resource", ("x", "y")), ("locals", ())],
        ),
    ],
)
def test_the_reader_of_blocks(text, kinds):
    assert [(kind, labels) for kind, labels, _ in blocks(text)] == kinds
