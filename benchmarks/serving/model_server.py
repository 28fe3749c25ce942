"""Run the tests' model server: write its addresses, then its times for each line of input, until the input ends.

    python -m benchmarks.serving.model_server exported/performance [--batching]

It answers as a TF Serving that compiles, and first sends itself the export's warm-up requests. But it is Python around
TensorFlow's graph, which is slower than TF Serving's C++; so its own time and the graph's are measured separately.
"""

import argparse
import json
import sys
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
from tensorflow_serving.apis import prediction_log_pb2

from music import wire
from tests.support import fakes
from tests.support.batching import Batching

handled: dict[str, list[float]] = defaultdict(list)  # seconds of each answer, by signature
graph: dict[str, list[float]] = defaultdict(list)  # of those the model's own
_run = fakes._run


class Measured(fakes.ModelServer):
    """Measures how many seconds each reply takes."""

    def _predict(self, request):
        began = time.perf_counter()
        try:
            return super()._predict(request)
        finally:
            handled[request.model_spec.signature_name].append(time.perf_counter() - began)


def measured_run(function, inputs: dict) -> dict:
    """Run the graph and measure its seconds."""
    name = "generate" if "count" in inputs else "step" if "noise" in inputs else "other"  # compiled or not
    began = time.perf_counter()
    try:
        return _run(function, inputs)
    finally:
        graph[name].append(time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("base", type=Path)
    parser.add_argument("--batching", action="store_true", help="as infra/cloud/batching.config says")
    args = parser.parse_args()
    fakes._run = measured_run
    batching = Batching.read() if args.batching else None
    threads = 256  # as infra/cloud/compose.yaml says
    with (
        Measured(args.base, batching=batching, threads=threads, compiles=True) as lists,
        Measured(args.base, batching=batching, threads=threads, compiles=True, content=True) as content,
    ):
        warm_up(args.base)  # both share the model
        say({"lists": lists.address, "content": content.address})
        for _ in sys.stdin:
            runs = [run.calls for run in lists.runs] if batching else []
            say({
                "handled": {name: 1000 * float(np.median(took)) for name, took in handled.items()},
                "graph": {name: 1000 * float(np.median(took)) for name, took in graph.items()},
                "merged": float(np.mean(runs)) if runs else None,
            })  # fmt: skip
            for times in (handled, graph, lists.runs if batching else []):
                times.clear()


def warm_up(base: Path) -> None:
    """Send the newest version the warm-up requests of its export."""
    version = max((folder for folder in base.iterdir() if folder.name.isdecimal()), key=lambda folder: int(folder.name))
    model = fakes._loaded(version.resolve())
    with (version / "assets.extra" / "tf_serving_warmup_requests").open("rb") as file:
        for record in wire.read_records(file):
            request = prediction_log_pb2.PredictionLog.FromString(record).predict_log.request
            tensors = {name: wire.Tensor.FromString(t.SerializeToString()) for name, t in request.inputs.items()}
            inputs = {name: wire.from_tensor(tensor) for name, tensor in tensors.items()}
            _run(model.signatures[request.model_spec.signature_name], inputs)


def say(what: dict) -> None:
    print(json.dumps(what), flush=True)


if __name__ == "__main__":
    main()
