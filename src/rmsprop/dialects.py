"""The RMSprops of the frameworks, as data: the switches and the defaults of each.

A dialect names how one framework (or paper) writes RMSprop down.  It is only a set of values for the
fields of :class:`rmsprop.Rule`; `Rule.from_dialect` fills in the rest.  A preset names one of the
optimizers that RMSprop is compared with, in the same fields.

This module imports nothing.
"""

from typing import NamedTuple


class Dialect(NamedTuple):
    """Where a spelling of the update comes from, and the values of `Rule` that reproduce it."""

    source: str
    """The file or paper it was read from."""
    fields: dict[str, float | bool | str]
    """Values for the fields of `Rule`; what is absent keeps the default of `Rule`."""
    note: str = ""
    """What a user who switches to it should know."""


# Fields that stand before the blank line are switches of the formula, those after it are the
# framework's default numbers.  No "lr" means that the framework has no default either.
DIALECTS: dict[str, Dialect] = {
    "hinton": Dialect(
        "Tieleman and Hinton, Lecture 6.5, COURSERA Neural Networks for Machine Learning, 2012",
        {"lr": 0.01, "decay": 0.9, "eps": 1e-8},
        "The lecture has no eps; 1e-8 is what tutorials add. Momentum, centering and weight decay, "
        "which it leaves open, follow torch.",
    ),
    "graves": Dialect(
        "Graves, 2013, arXiv:1308.0850, equations 38 to 45",
        {
            "centered": True,
            "eps_in_sqrt": True,
            "lr_in_momentum": True,
            #
            "lr": 1e-4,
            "decay": 0.95,
            "eps": 1e-4,
            "momentum": 0.9,
        },
        "Always centered, always with momentum.",
    ),
    "torch": Dialect(
        "torch.optim.RMSprop (PyTorch 2.13)",
        {"lr": 0.01, "decay": 0.99, "eps": 1e-8},
        "eps stands outside the root; the learning rate stands outside the momentum buffer.",
    ),
    "keras": Dialect(
        "keras.optimizers.RMSprop (Keras 3.15)",
        {
            "eps_in_sqrt": True,
            "lr_in_momentum": True,
            "decoupled_weight_decay": True,
            #
            "lr": 0.001,
            "decay": 0.9,
            "eps": 1e-7,
        },
        "Weight decay shrinks the parameters before the step and does not enter the average.",
    ),
    "tf1": Dialect(
        "tf.compat.v1.train.RMSPropOptimizer (TensorFlow), dense path",
        {
            "eps_in_sqrt": True,
            "lr_in_momentum": True,
            "initial_scale": 1.0,
            #
            "decay": 0.9,
            "eps": 1e-10,
        },
        "The average starts at one, so that the first steps are small. The sparse path is lazy "
        "(only touched rows decay) and is not this rule.",
    ),
    "optax": Dialect(
        "optax.rmsprop (Optax 0.2.8)",
        {
            "eps_in_sqrt": True,
            "lr_in_momentum": True,
            #
            "decay": 0.9,
            "eps": 1e-8,
        },
        "Weight decay is optax.add_decayed_weights chained before it.",
    ),
    "timm": Dialect(
        "timm.optim.RMSpropTF (pytorch-image-models aa4b585)",
        {
            "eps_in_sqrt": True,
            "lr_in_momentum": True,
            "initial_scale": 1.0,
            #
            "lr": 0.01,
            "decay": 0.9,
            "eps": 1e-10,
        },
        "TensorFlow 1's rule for PyTorch, as EfficientNet was trained with.",
    ),
    "sb3": Dialect(
        "stable_baselines3.common.sb2_compat.rmsprop_tf_like.RMSpropTFLike (e05d2db)",
        {
            "eps_in_sqrt": True,
            "initial_scale": 1.0,
            #
            "lr": 0.01,
            "decay": 0.99,
            "eps": 1e-8,
        },
        "TensorFlow 1's rule but for the learning rate, which stays outside the buffer.",
    ),
}

# The defaults are those of torch.optim, but for momentum, which torch leaves at zero.
PRESETS: dict[str, Dialect] = {
    "sgd": Dialect(
        "Robbins and Monro, 1951, Annals of Mathematical Statistics 22",
        {"second_moment": "none", "lr": 0.001},
    ),
    "momentum": Dialect(
        "Polyak, 1964, USSR Computational Mathematics 4; as torch.optim.SGD",
        {"second_moment": "none", "lr": 0.001, "momentum": 0.9},
    ),
    "nesterov": Dialect(
        "Sutskever et al., 2013, ICML; as torch.optim.SGD",
        {"second_moment": "none", "lr": 0.001, "momentum": 0.9, "nesterov": True},
    ),
    "adagrad": Dialect(
        "Duchi, Hazan and Singer, 2011, JMLR 12, 2121-2159; as torch.optim.Adagrad",
        {"second_moment": "sum", "lr": 0.01, "eps": 1e-10},
    ),
    "adam": Dialect(
        "Kingma and Ba, 2015, arXiv:1412.6980; as torch.optim.Adam",
        {
            "first_moment": "before",
            "bias_correction": True,
            #
            "lr": 0.001,
            "decay": 0.999,
            "eps": 1e-8,
            "momentum": 0.9,
        },
    ),
    "adamw": Dialect(
        "Loshchilov and Hutter, 2019, arXiv:1711.05101; as torch.optim.AdamW",
        {
            "first_moment": "before",
            "bias_correction": True,
            "decoupled_weight_decay": True,
            #
            "lr": 0.001,
            "decay": 0.999,
            "eps": 1e-8,
            "momentum": 0.9,
            "weight_decay": 0.01,
        },
    ),
}
