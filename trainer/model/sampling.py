"""Logits and a uniform number → a class. Knows nothing of music; keras.ops only.

Source: top_p, Holtzman et al. 2020 (nucleus sampling); min_p, Nguyen et al. 2024.
"""

import numpy as np
from keras import ops

from trainer.model import xla

COLD = 1e-3  # a temperature below this is argmax


def choose(logits, u, temperature, top_p, min_p):
    """Draw one class for each row by inverting the CDF at `u`: first temperature, then min_p, then top_p.

    The CDF takes the classes in the order of their ids, so the drawn class never falls as `u` grows. top_p also keeps
    classes that are as probable as the last one it keeps. A row's draw does not depend on the other rows.

    Args:
        logits: float32 (B, C).
        u: float32 (B,) in [0, 1).
        temperature: float32 (B,); under COLD the likeliest class, of equal ones the lowest id.
        top_p: float32 (B,) in (0, 1]; keep the likeliest classes that reach this share.
        min_p: float32 (B,) in [0, 1); keep classes at least this share of the likeliest one's probability.

    Returns:
        int32 (B,).
    """
    p = ops.softmax(logits / ops.maximum(temperature, COLD)[:, None], axis=-1)  # (B, C)
    p = ops.where(p >= min_p[:, None] * ops.max(p, axis=-1, keepdims=True), p, 0.0)
    some = ops.any((top_p > 0) & (top_p < 1))  # sorting takes as long as all the rest; rows of 0 only fill up
    threshold = ops.cond(some, lambda: xla.top_p_threshold(p, top_p), lambda: ops.zeros_like(top_p))
    p = ops.where(p >= threshold[:, None], p, 0.0)
    cdf = ops.cumsum(p, axis=-1)
    above = (cdf > (u * cdf[:, -1])[:, None]) & (p > 0)  # a cumsum in blocks may change by rounding where 0 is added
    last = ops.max(ops.where(p > 0, np.arange(p.shape[-1], dtype="i4"), 0), axis=-1)
    drawn = ops.where(ops.any(above, axis=-1), ops.cast(ops.argmax(above, axis=-1), "int32"), last)
    return ops.where(temperature < COLD, ops.cast(ops.argmax(logits, axis=-1), "int32"), drawn)
