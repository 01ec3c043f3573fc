"""The layers of a model: what is sharded, gathered or compiled as one."""

from torch import nn
from transformers import PreTrainedModel

from sft_app.compat import model_internals


def decoder_layers(model: PreTrainedModel) -> list[nn.Module]:
    """Return the model's layers, the outermost; none where the family does not name them.

    Mamba names its mixers beside the blocks that they are in. Those that FSDP2 has given a class
    of its own inherit from the family's.
    """
    names = model_internals.decoder_layer_classes(model)
    layers: list[nn.Module] = []
    inside: set[nn.Module] = set()
    for module in model.modules():  # the outer ones first
        is_named = any(kind.__name__ in names for kind in type(module).__mro__)
        if is_named and module not in inside:
            layers.append(module)
            inside.update(module.modules())
    return layers
