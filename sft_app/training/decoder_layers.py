"""The layers of a model: what is sharded, gathered or compiled as one."""

from torch import nn
from transformers import PreTrainedModel

from sft_app.compat import model_internals


def decoder_layers(model: PreTrainedModel) -> list[nn.Module]:
    """Return the model's layers; none where the family does not name them.

    Those that FSDP2 has given a class of its own inherit from the family's.
    """
    names = model_internals.decoder_layer_classes(model)
    return [
        module
        for module in model.modules()
        if any(kind.__name__ in names for kind in type(module).__mro__)
    ]
