"""What is computed in another way where XLA compiles a step for a CPU: products with kernels, and the search for top_p.

There a row's bits are not those that it has alone: of few rows XLA splits a sum of products in ways that depend on the
shapes, and of a single one it adds a bias before the first product rather than behind the last. Two ways to multiply
give the same sums as a chain from the first product to the last, in blocks of BLOCK, on the one CPU tried (AVX-512):
a single row with a kernel as it is, which is twice as quick as two rows in any way, and many rows with a kernel that is
turned, if that is WIDE enough. `serving.backends.xla` looks whether it holds where it runs. keras only.

B batch, K inputs, N outputs, C classes.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

import keras
from keras import ops

BLOCK = 512  # inputs of a kernel whose products are added up in one go
WIDE = 256  # outputs; below that many rows are multiplied in yet another way
_LOWEST = -3e38  # no product is below, but XLA does not know, and so cannot draw the next sum into the product
_HALVINGS = 30


class _Kernel(NamedTuple):
    """A kernel made ready."""

    blocks: list  # (≤ BLOCK, N) each; turned: (N or WIDE, ≤ BLOCK)
    turned: bool


_READY: ContextVar[Mapping[str, _Kernel] | None] = ContextVar("ready", default=None)


_PRECISION: ContextVar[str] = ContextVar("precision", default="float32")


@contextmanager
def precision(name: str) -> Iterator[None]:
    """Inside, kernels are multiplied in this type, float32 or bfloat16, and their gradients too; sums and all that is
    not a product stay float32."""
    token = _PRECISION.set(name)
    try:
        yield
    finally:
        _PRECISION.reset(token)


def multiplier() -> Callable:
    """The matrix product of two float32 tensors, computed in the precision that is set now."""
    return ops.matmul if _PRECISION.get() == "float32" else _bfloat16_product


def _bfloat16_product(a, b):
    return ops.cast(ops.matmul(ops.cast(a, "bfloat16"), ops.cast(b, "bfloat16")), "float32")


class Dense(keras.layers.Dense):
    """keras' own, but for how it multiplies."""

    def call(self, inputs, training=None):
        """(…, K) → (…, N)."""
        x = product(inputs, self.kernel)
        if self.bias is not None:
            x = x + self.bias
        return x if self.activation is None else self.activation(x)


def product(x, kernel: keras.Variable):
    """(…, K) times (K, N): (…, N)."""
    ready = _READY.get()
    if ready is None:
        return multiplier()(x, kernel)
    blocks, turned = ready[kernel.path]
    columns, made, at = kernel.shape[1], None, 0
    for block in blocks:
        count = block.shape[1] if turned else block.shape[0]
        part = ops.matmul(x[..., at : at + count], ops.transpose(block) if turned else block)[..., :columns]
        part = ops.maximum(part, _LOWEST)
        made, at = part if made is None else made + part, at + count
    return made


@contextmanager
def ready(model: keras.Model, alone: bool) -> Iterator[None]:
    """Inside, a model's steps are computed for one row `alone`, or for more. To be entered outside of the loop
    over notes."""
    kernels = {w.path: w.value for w in model.weights if len(w.shape) == 2 and w.path.endswith("kernel")}
    token = _READY.set({path: _made_ready(kernel, not alone) for path, kernel in kernels.items()})
    try:
        yield
    finally:
        _READY.reset(token)


def is_ready() -> bool:
    """Whether a step is being compiled here."""
    return _READY.get() is not None


def _made_ready(kernel, turned: bool) -> _Kernel:
    parts = [kernel[at : at + BLOCK] for at in range(0, kernel.shape[0], BLOCK)]
    if turned:
        wider = [[0, 0], [0, max(0, WIDE - kernel.shape[1])]]
        parts = [ops.transpose(ops.pad(part, wider)) for part in parts]
    return _Kernel(parts, turned)


def least(p, top_p):
    """The probability of the last class that top_p keeps: (B, C), (B,) → (B,); 0 where it is 1, which keeps all."""
    return _sorted(p, top_p) if _READY.get() is None else _halved(p, top_p)


def _sorted(p, top_p):
    falling, _ = ops.top_k(p, p.shape[-1])
    before = ops.cumsum(falling, axis=-1) - falling
    inside = before < (top_p * ops.sum(p, axis=-1))[:, None]
    return ops.where(top_p < 1, ops.min(ops.where(inside, falling, 2.0), axis=-1), 0.0)


def _halved(p, top_p):
    """As `_sorted`, to a billionth of the highest one; XLA sorts slowly."""
    wanted = top_p * ops.sum(p, axis=-1)

    def closer(_, bounds):
        low, high = bounds
        middle = (low + high) / 2
        enough = ops.sum(ops.where(p >= middle[:, None], p, 0.0), axis=-1) >= wanted
        return ops.where(enough, middle, low), ops.where(enough, high, middle)

    low, _ = ops.fori_loop(0, _HALVINGS, closer, (ops.zeros_like(top_p), ops.max(p, axis=-1)))
    return ops.where(top_p < 1, low, 0.0)
