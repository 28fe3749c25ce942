"""Products with kernels, and the search for top_p, in another way where XLA compiles a step for a CPU. keras only.

So a row of a compiled step has the same bits alone as among others. Also the precision of products in training.

B batch, K inputs, N outputs, C classes.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

import keras
from keras import ops

# Compiled by XLA, a row among others has other last bits than alone. With few rows, XLA splits a sum of products in
# ways that depend on the shapes; with one row, it adds the bias before the first product, not behind the last. Two ways
# to multiply give the same sums, each a chain from the first product to the last, in blocks of BLOCK, on the one CPU
# tried (AVX-512): one row with the kernel as it is, which is twice as fast as two rows in any way; and many rows with
# the kernel transposed and at least WIDE. `serving.backends.xla` checks this on the CPU where it runs.
BLOCK = 512  # inputs of a kernel that one matrix product sums over
WIDE = 256  # outputs; XLA multiplies many rows by a narrower kernel in yet another way
_LOWEST = -3e38  # no product is below it; XLA does not know that, so it cannot fuse the next sum with the product
_HALVINGS = 30


class _Kernel(NamedTuple):
    """A kernel as blocks, prepared for `product`."""

    blocks: list  # (≤ BLOCK, N) each; transposed: (N or WIDE, ≤ BLOCK)
    transposed: bool


_READY: ContextVar[Mapping[str, _Kernel] | None] = ContextVar("ready", default=None)


_PRECISION: ContextVar[str] = ContextVar("precision", default="float32")


@contextmanager
def precision(name: str) -> Iterator[None]:
    """Multiply kernels, and their gradients, in this type inside the block: float32 or bfloat16.

    The inputs and the result of each product are rounded to it. Everything else stays float32.
    """
    token = _PRECISION.set(name)
    try:
        yield
    finally:
        _PRECISION.reset(token)


def multiplier() -> Callable:
    """Return a function for the matrix product of two float32 tensors, in the precision that is set now."""
    return ops.matmul if _PRECISION.get() == "float32" else _bfloat16_product


def _bfloat16_product(a, b):
    return ops.cast(ops.matmul(ops.cast(a, "bfloat16"), ops.cast(b, "bfloat16")), "float32")


class Dense(keras.layers.Dense):
    """Keras' Dense, which multiplies by `product`."""

    def call(self, inputs, training=None):
        """Compute the layer: (…, K) → (…, N)."""
        x = product(inputs, self.kernel)
        if self.bias is not None:
            x = x + self.bias
        return x if self.activation is None else self.activation(x)


def product(x, kernel: keras.Variable):
    """Multiply (…, K) by (K, N): (…, N)."""
    ready = _READY.get()
    if ready is None:
        return multiplier()(x, kernel)
    blocks, transposed = ready[kernel.path]
    columns, total, at = kernel.shape[1], None, 0
    for block in blocks:
        count = block.shape[1] if transposed else block.shape[0]
        part = ops.matmul(x[..., at : at + count], ops.transpose(block) if transposed else block)[..., :columns]
        part = ops.maximum(part, _LOWEST)
        total, at = part if total is None else total + part, at + count
    return total


def where_rows(mask, yes, no):
    """Choose whole rows: bool (B,), (B, …), (B, …) → (B, …)."""
    return ops.where(ops.reshape(mask, (-1, *(1 for _ in no.shape[1:]))), yes, no)


def row_by_row(one: Callable, xs: tuple, states: tuple, counts):
    """Run a function on one row after the other, up to the last row that counts.

    Outputs behind that row are 0. Where a row does not count, the states stay. For XLA only, because of Keras'
    slice_update.

    Args:
        one: each of xs in one row (B, …), then the states → the new states; the first of them is the row's output.
        xs: of all rows, (B, T, …) each.
        states: before the first row, (B, …) each.
        counts: bool (B, T).

    Returns:
        The output of each row (B, T, D), then the states after the last row.
    """
    last = ops.max(ops.where(counts, ops.arange(1, counts.shape[1] + 1), 0))

    def more(t, ys, *states):
        return t < last

    def step(t, ys, *states):
        here = ops.take(counts, t, axis=1)
        after = one(*(ops.take(x, t, axis=1) for x in xs), *states)
        states = tuple(where_rows(here, new, old) for new, old in zip(after, states, strict=True))
        return t + 1, ops.slice_update(ys, (0, t, 0), states[0][:, None]), *states

    ys = ops.zeros((*counts.shape, states[0].shape[-1]), states[0].dtype)
    _, *after = ops.while_loop(more, step, (ops.cast(0, "int32"), ys, *states), maximum_iterations=counts.shape[1])
    return after


@contextmanager
def ready(model: keras.Model, alone: bool) -> Iterator[None]:
    """Prepare a model's kernels, inside the block, for steps of one row (`alone`) or of more.

    Enter it outside of the loop over notes, so that the kernels are prepared once.
    """
    kernels = {w.path: w.value for w in model.weights if len(w.shape) == 2 and w.path.endswith("kernel")}
    token = _READY.set({path: _prepared(kernel, not alone) for path, kernel in kernels.items()})
    try:
        yield
    finally:
        _READY.reset(token)


def is_ready() -> bool:
    """Return whether this is inside a block of `ready`, where XLA compiles a step."""
    return _READY.get() is not None


def _prepared(kernel, transposed: bool) -> _Kernel:
    """Cut a kernel into blocks of BLOCK inputs; transposed ones get at least WIDE outputs."""
    parts = [kernel[at : at + BLOCK] for at in range(0, kernel.shape[0], BLOCK)]
    if transposed:
        wider = [[0, 0], [0, max(0, WIDE - kernel.shape[1])]]
        parts = [ops.transpose(ops.pad(part, wider)) for part in parts]
    return _Kernel(parts, transposed)


def top_p_threshold(p, top_p):
    """Find the least probability that top_p keeps: (B, C), (B,) → (B,); 0 where top_p is 1, which keeps all."""
    return _sorted(p, top_p) if _READY.get() is None else _halved(p, top_p)


def _sorted(p, top_p):
    """Find it by sorting the probabilities, a millionth lower.

    TensorFlow's exp differs in the last bit by a number's place in memory: equal logits are almost as probable.
    """
    falling, _ = ops.top_k(p, p.shape[-1])
    before = ops.cumsum(falling, axis=-1) - falling
    inside = before < (top_p * ops.sum(p, axis=-1))[:, None]
    least = ops.min(ops.where(inside, falling, 2.0), axis=-1)
    return ops.where(top_p < 1, least * (1 - 1e-6), 0.0)


def _halved(p, top_p):
    """Find it by bisection, to a billionth of the highest probability; XLA sorts slowly."""
    wanted = top_p * ops.sum(p, axis=-1)

    def closer(_, bounds):
        low, high = bounds
        middle = (low + high) / 2
        enough = ops.sum(ops.where(p >= middle[:, None], p, 0.0), axis=-1) >= wanted
        return ops.where(enough, middle, low), ops.where(enough, high, middle)

    low, _ = ops.fori_loop(0, _HALVINGS, closer, (ops.zeros_like(top_p), ops.max(p, axis=-1)))
    return ops.where(top_p < 1, low, 0.0)
