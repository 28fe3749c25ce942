"""Deploy infra/cloud/cloudrun.yaml as a Cloud Run service: fill it in, parse it into Google's message, send it, wait.

    python -m infra.cloud.deploy --project P --image IMAGE --dry-run        print what would be sent; needs no account
    python -m infra.cloud.deploy --project P --image IMAGE                  all traffic to a new revision
    python -m infra.cloud.deploy --project P --image IMAGE --label canary   a revision beside it, with an address of its
                                                                          own and no traffic, that asks for `canary`

A revision is an image and a label; TF Serving's models.config says which version of the model a label stands for.
Knows nothing of buckets, images or rights: infra/terraform makes buckets and rights, cloudbuild.yaml the images.
"""

import argparse
import json
import re
import string
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml
from google.api_core import exceptions
from google.cloud import run_v2
from google.protobuf import json_format

from infra.cloud.refused import explained
from music.command_line import fail
from music.errors import MusicError

FILE = Path(__file__).with_name("cloudrun.yaml")
SERVICE, REGION = "cadenza", "europe-west4"
NAMES = ("REVISION", "SERVICE_ACCOUNT", "BUCKET", "IMAGE", "LABEL")  # to be filled in
WAIT = 900  # seconds that a revision has to become ready
RIGHTS = "roles/run.developer there and roles/iam.serviceAccountUser on the service's account"


class DeployError(MusicError):
    """The service cannot be rendered or deployed, or it never gets ready; the message says why."""


def rendered(text: str, values: Mapping[str, str]) -> run_v2.Service:
    """Fill in the file's ${NAMES}, and parse it. Raises DeployError for an unknown name or field."""
    try:
        data = yaml.safe_load(string.Template(text).substitute(values))
        return run_v2.Service(json_format.ParseDict(data, run_v2.Service.pb(run_v2.Service())))
    except KeyError as error:
        raise DeployError(f"{FILE.name}: ${{{error.args[0]}}} has no value") from error
    except (json_format.ParseError, yaml.YAMLError, ValueError) as error:
        raise DeployError(f"{FILE.name}: {' '.join(str(error).split())}") from error


def traffic(current: Sequence[run_v2.TrafficTarget], revision: str, label: str) -> list[run_v2.TrafficTarget]:
    """Decide which revision gets the requests.

    A stable revision gets all of them. Any other gets none, but an address that begins with its label; an older
    revision of that label loses this address.

    Raises:
        DeployError: there is no service yet beside which another revision could run.
    """
    kind = run_v2.TrafficTargetAllocationType.TRAFFIC_TARGET_ALLOCATION_TYPE_REVISION
    if label == "stable":
        return [run_v2.TrafficTarget(type_=kind, revision=revision, percent=100)]
    if not current:
        raise DeployError(f"--label {label}: there is no service {SERVICE!r} yet; deploy stable first")
    before = [target for target in current if target.tag == label and target.percent]
    targets = [target for target in current if target.tag != label]
    # An earlier canary keeps its part of the requests, without the address: the parts must add up to a hundred.
    targets += [run_v2.TrafficTarget(type_=kind, revision=old.revision, percent=old.percent) for old in before]
    return [*targets, run_v2.TrafficTarget(type_=kind, revision=revision, tag=label)]


def deploy(client: run_v2.ServicesClient, parent: str, service: run_v2.Service, label: str) -> run_v2.Service:
    """Create or replace the service, and wait until it is ready. Raises DeployError, which says what to do."""
    project = parent.split("/")[1]
    service.name = f"{parent}/services/{SERVICE}"
    try:
        with explained("Cloud Run", "run.googleapis.com", project, RIGHTS):
            try:
                current = list(client.get_service(name=service.name).traffic)
            except exceptions.NotFound:
                current = []
            service.traffic = traffic(current, service.template.revision, label)
            operation = client.update_service(request={"service": service, "allow_missing": True})
            return operation.result(timeout=WAIT)
    except TimeoutError as error:
        raise DeployError(f"{service.name}: not ready after {WAIT} s; see its logs") from error


def run(argv: Sequence[str] | None = None, client: run_v2.ServicesClient | None = None) -> int:
    """Deploy, or print what would be sent; return 0, or 1 after an error in one line."""
    usage, _, _ = __doc__.partition("\n\n")
    parser = argparse.ArgumentParser("python -m infra.cloud.deploy", description=usage)
    parser.add_argument("--project", required=True, help="id of the Google Cloud project")
    parser.add_argument("--region", default=REGION, help="region of the service; default: %(default)s")
    parser.add_argument("--image", required=True, help="the front end's image, with its tag or digest")
    parser.add_argument("--bucket", help="name of the bucket of models; default: PROJECT-cadenza-models")
    parser.add_argument(
        "--service-account", metavar="EMAIL",
        help="account that the service runs as; default: cadenza-server of the project",
    )  # fmt: skip
    parser.add_argument(
        "--label", default="stable", metavar="NAME",
        help="label of the model's version; only a revision with stable gets traffic; default: %(default)s",
    )  # fmt: skip
    parser.add_argument("--dry-run", action="store_true", help="print the service as JSON, and send nothing")
    args = parser.parse_args(argv)
    if not re.fullmatch(r"[a-z]([a-z0-9-]{0,18}[a-z0-9])?", args.label):
        parser.error(f"--label: expected at most 20 small letters, digits and hyphens, got {args.label!r}")
    values = {
        "REVISION": f"{SERVICE}-{args.label}-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}",
        "SERVICE_ACCOUNT": args.service_account or f"cadenza-server@{args.project}.iam.gserviceaccount.com",
        "BUCKET": args.bucket or f"{args.project}-cadenza-models",
        "IMAGE": args.image,
        "LABEL": args.label,
    }
    try:
        service = rendered(FILE.read_text(), values)
        if args.dry_run:
            print(json.dumps(json_format.MessageToDict(run_v2.Service.pb(service)), indent=2))
            return 0
        with explained("Cloud Run", "run.googleapis.com", args.project, RIGHTS):
            client = client or run_v2.ServicesClient()
        service = deploy(client, f"projects/{args.project}/locations/{args.region}", service, args.label)
        tagged = [status.uri for status in service.traffic_statuses if status.tag == args.label]
        print(f"{values['REVISION']} is ready: {(tagged or [service.uri])[0]}")
    except MusicError as error:
        return fail("python -m infra.cloud.deploy", error, 1)
    return 0


if __name__ == "__main__":
    sys.exit(run())
