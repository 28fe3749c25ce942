"""A recipe's training settings → a Keras optimiser: AdamW, or Muon for the matrices and AdamW for all else.

With TensorFlow, both first sum up a gradient. There an embedding's gradient is a list of rows: an entry that was looked
up several times has several rows, and Keras would take the norm and the squares of these rows instead of their sum.
With several devices each one has a part of the gradient, and Keras would clip the parts before it sums them.

Sources: Loshchilov and Hutter 2019 (AdamW); Jordan et al. 2024, Liu et al. 2025 (Muon, and the size of its steps).
"""

import keras
from keras import ops

from trainer import devices
from trainer.recipe import Training

_ADAMS_SHARE = 0.5  # of Muon's learning rate, for what AdamW learns beside it
_OUTPUTS = ("_score", "_point", "_repeat")  # layers whose outputs are scores of classes; AdamW learns these


def build(training: Training, count: int, precision: str = "float32") -> keras.optimizers.Optimizer:
    """Build the optimiser for `count` devices; `precision` is that of Muon's iterations."""
    rate = keras.optimizers.schedules.CosineDecay(
        0.0,
        max(training.epochs * training.steps - training.warmup, 1),
        alpha=training.floor,
        warmup_target=training.rate,
        warmup_steps=training.warmup,
    )
    clip = training.clip / (count if keras.backend.backend() == "tensorflow" else 1)
    settings = dict(
        learning_rate=rate, weight_decay=training.decay, global_clipnorm=clip, name="optimizer",
        use_ema=training.average > 0, ema_momentum=training.average,
    )  # fmt: skip
    optimizer = Muon(precision, **settings) if training.optimizer == "muon" else AdamW(**settings)
    optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    return optimizer


class _SumsFirst:
    """What both optimisers do otherwise than Keras' own."""

    def finalize_variable_values(self, var_list):
        """Leave the weights as they are when `fit` ends; Keras would overwrite them with their moving average."""

    def apply_gradients(self, grads_and_vars):
        """Apply dense gradients, summed over the replicas."""
        import tensorflow as tf  # on JAX Keras goes another way

        grads, variables = zip(*grads_and_vars, strict=True)
        dense = [tf.convert_to_tensor(grad) for grad in grads]
        replica = devices.replica()
        if replica is not None:  # Keras sums once more
            dense = [grad / replica.num_replicas_in_sync for grad in replica.all_reduce("SUM", dense)]
        return super().apply_gradients(zip(dense, variables, strict=True))  # type: ignore[misc]


class AdamW(_SumsFirst, keras.optimizers.AdamW):
    """Keras' AdamW, with summed gradients."""


class Muon(_SumsFirst, keras.optimizers.Muon):
    """Keras' Muon, with summed gradients, and its iterations in the precision of the training's products.

    The steps of a matrix are scaled to those of AdamW. Embeddings, biases, norms and the layers of `_OUTPUTS` are
    learned by AdamW, at a share of the rate.
    """

    def __init__(self, precision: str, *, weight_decay: float, **settings):
        super().__init__(
            weight_decay=weight_decay, adam_weight_decay=weight_decay * _ADAMS_SHARE, adam_lr_ratio=_ADAMS_SHARE,
            exclude_layers=list(_OUTPUTS), **settings,
        )  # fmt: skip
        self._precision = precision

    def zeropower_via_newtonschulz5(self, x, steps: int):
        """Compute U Vᵀ of x = U S Vᵀ, roughly, by `steps` Newton-Schulz iterations: float32 (M, N) → (M, N)."""
        return ops.cast(super().zeropower_via_newtonschulz5(ops.cast(x, self._precision), steps), x.dtype)
