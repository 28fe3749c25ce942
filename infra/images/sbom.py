"""A lock file → an SBOM: CycloneDX 1.6 as JSON, every package with its version and the hashes that it may have.

    python -m infra.images.sbom requirements/serve.txt > serve.cdx.json   `make sbom`: one a lock file, in out/sbom
    python sbom.py serve.txt > /opt/venv/sbom.cdx.json                 when an image is built

The same lock gives the same bytes. Debian's packages in an image are not listed. Imports nothing of this project.
"""

import argparse
import hashlib
import json
import re
import sys
import uuid
from collections.abc import Sequence
from pathlib import Path

_PACKAGE = re.compile(r"^([A-Za-z0-9][A-Za-z0-9._-]*)(?:\[[^\]]*\])?==([^\s;\\]+)", re.MULTILINE)
_HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")


def components(lock: str) -> list[dict]:
    """List the packages of a lock file's text, sorted by name.

    Raises:
        ValueError: a package has no hash, or there is no package.
    """
    packages = list(_PACKAGE.finditer(lock))
    if not packages:
        raise ValueError("expected lines as NAME==VERSION, got none")
    entries = []
    for package, after in zip(packages, [*packages[1:], None], strict=True):
        name, version = re.sub(r"[-_.]+", "-", package[1]).lower(), package[2]
        hashes = sorted(set(_HASH.findall(lock, package.end(), after.start() if after else len(lock))))
        if not hashes:
            raise ValueError(f"{name}=={version}: expected a sha256, got none")
        purl = f"pkg:pypi/{name}@{version}"
        files = [{"type": "distribution", "url": purl, "hashes": [{"alg": "SHA-256", "content": h}]} for h in hashes]
        entries.append(
            {"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl}
            | {"externalReferences": files}  # the only field for hashes of several files, of which one is installed
        )
    return sorted(entries, key=lambda each: each["name"])


def document(name: str, lock: str) -> dict:
    """Build the SBOM of a lock file with this name and text."""
    digest = hashlib.sha256(lock.encode()).digest()
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.UUID(bytes=digest[:16], version=4)}",
        "version": 1,
        "metadata": {"component": {"type": "application", "bom-ref": f"cadenza-{name}", "name": f"cadenza-{name}"}},
        "components": components(lock),
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Print an SBOM; exit with 2 where the file is not a lock file."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("lock", type=Path, help="path of a file of requirements with hashes")
    path = parser.parse_args(argv).lock
    try:
        sbom = document(path.stem, path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        parser.error(f"{path}: {error.strerror if isinstance(error, OSError) else error}")
    json.dump(sbom, sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()
