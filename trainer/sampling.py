"""Logits and a uniform number → a class. Knows nothing of music; keras.ops only.

Source: top_p, Holtzman et al. 2020 (nucleus sampling); min_p, Nguyen et al. 2024.
"""

from keras import ops

COLD = 1e-3  # a temperature below this is argmax


def choose(logits, u, temperature, top_p, min_p):
    """Draw one class a row by inverting the CDF at `u`: first temperature, then min_p, then top_p.

    Classes are ranked by probability, equal ones by id; classes as probable as the last one kept are kept. The drawn
    rank never falls as `u` grows.

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
    order = ops.argsort(-p, axis=-1)
    p = ops.take_along_axis(p, order, axis=-1)  # falling
    p = ops.where(p >= min_p[:, None] * p[:, :1], p, 0.0)
    before = ops.cumsum(p, axis=-1) - p
    inside = before < (top_p * ops.sum(p, axis=-1))[:, None]
    inside = inside | (p >= ops.min(ops.where(inside, p, 2.0), axis=-1, keepdims=True))
    p = ops.where(inside, p, 0.0)
    cdf = ops.cumsum(p, axis=-1)
    rank = ops.sum(ops.cast(cdf <= (u * cdf[:, -1])[:, None], "int32"), axis=-1)
    last = ops.sum(ops.cast(p > 0, "int32"), axis=-1) - 1
    rank = ops.where(temperature < COLD, 0, ops.minimum(rank, last))
    return ops.cast(ops.take_along_axis(order, rank[:, None], axis=-1)[:, 0], "int32")
