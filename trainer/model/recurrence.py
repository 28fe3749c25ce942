"""An LSTM layer for training on a CPU: one product of the inputs for all notes, then one scan for the recurrence.

The gradient is written by hand. A scan backwards gives the gates' gradients; then each kernel's gradient is one product
over all notes. Outputs and gradients are those of `keras.layers.LSTM`, up to float32's rounding. keras.ops only, except
for TensorFlow's XLA. Knows nothing of layers, masks and dropout.

B batch, T time, K inputs, U units.
"""

import functools

import keras
from keras import ops

from trainer.model.xla import multiplier, product


def has_cudnn() -> bool:
    """Return whether there is a GPU. There cuDNN computes Keras' own layer, faster than this module does."""
    return keras.distribution.list_devices()[0].startswith("gpu")


def products(precision: str) -> str:
    """Say which matrix products of a training have this precision; Keras' own LSTM layer does not follow it."""
    where = "the LSTM layers" if has_cudnn() else "the recurrence"
    return f"products in {precision}" + ("" if precision == "float32" else f" outside {where}")


def lstm(cell: keras.layers.LSTMCell, x, h, c):
    """Run a layer's cell over all notes: (B, T, K), (B, U), (B, U) → (B, T, U), the last c (B, U)."""
    z = product(x, cell.kernel) + cell.bias
    return _recurrence(z, ops.copy(cell.recurrent_kernel), h, c)


@ops.custom_gradient
def _recurrence(z, u, h, c):
    """Run the recurrence: (B, T, 4 U), (U, 4 U), (B, U), (B, U) → (B, T, U), (B, U), and the gradient's function."""
    ys, cs, gates = _compiled(_forward)(z, u, h, c)
    multiply = multiplier()  # chosen now: when the gradient is computed, another precision may be set

    def gradient(*upstream):
        dys, dc_last = upstream if len(upstream) == 2 else upstream[0]  # two arguments on TensorFlow, a tuple on JAX
        dz, dh, dc = _compiled(_backward)(dys, dc_last, ops.transpose(u), c, cs, gates)
        before = ops.concatenate([h[:, None], ys[:, :-1]], axis=1)
        units = u.shape[0]
        du = multiply(ops.transpose(ops.reshape(before, (-1, units))), ops.reshape(dz, (-1, 4 * units)))
        return dz, du, dh, dc

    return (ys, cs[-1]), gradient


# On TensorFlow, Keras' scan stacks only what has the carry's shapes. So what is to be stacked is part of the carry.


def _forward(z, u, h, c):
    """Scan forwards → outputs (B, T, U), and time first: c after each note (T, B, U), the gates (T, B, 4 U)."""

    def note(carry, z):
        h, c, _ = carry
        i, f, g, o = ops.split(z + ops.matmul(h, u), 4, axis=-1)
        i, f, g, o = ops.sigmoid(i), ops.sigmoid(f), ops.tanh(g), ops.sigmoid(o)
        c = f * c + i * g
        carry = (o * ops.tanh(c), c, ops.concatenate([i, f, g, o], axis=-1))
        return carry, carry

    z = ops.transpose(z, (1, 0, 2))
    _, (hs, cs, gates) = ops.scan(note, (h, c, ops.zeros_like(z[0])), z)
    return ops.transpose(hs, (1, 0, 2)), cs, gates


def _backward(dys, dc, u_transposed, c, cs, gates):
    """Scan backwards → the gradients of z (B, T, 4 U), of the first h and of the first c (B, U)."""

    def note(carry, inputs):
        dh, dc, _ = carry
        dy, gates, c, before = inputs
        i, f, g, o = ops.split(gates, 4, axis=-1)
        dh, t = dh + dy, ops.tanh(c)
        dc = dc + dh * o * (1 - t * t)
        parts = [dc * g * i * (1 - i), dc * before * f * (1 - f), dc * i * (1 - g * g), dh * t * o * (1 - o)]
        dz = ops.concatenate(parts, axis=-1)
        carry = (ops.matmul(dz, u_transposed), dc * f, dz)
        return carry, carry

    befores = ops.concatenate([c[None], cs[:-1]], axis=0)
    inputs = (ops.transpose(dys, (1, 0, 2)), gates, cs, befores)
    (dh, dc, _), (_, _, dz) = ops.scan(note, (ops.zeros_like(dc), dc, ops.zeros_like(gates[0])), inputs, reverse=True)
    return ops.transpose(dz, (1, 0, 2)), dh, dc


@functools.cache  # so that layers of one width, and later models, share what is compiled
def _compiled(function):
    """Compile a function by XLA on TensorFlow."""
    if keras.backend.backend() != "tensorflow":
        return function  # Keras compiles the whole training step there
    import tensorflow as tf

    return tf.function(function, jit_compile=True, autograph=False)
