"""What is held of weights beside themselves: 16-bit copies, gathered shards, sums of gradients."""

from torch import nn
from transformers import PreTrainedModel

from sft_app.config.schema.adapter import AdapterConfig, AdapterMethod
from sft_app.training.activation_memory.tile_layers import mlp_of
from sft_app.training.decoder_layers import decoder_layers
from sft_app.training.peft.quantize import bytes_in_4_bits, layers_to_quantise


def copied_weights(model: PreTrainedModel, whole: nn.Module, recomputed: bool) -> int:
    """Count the weights that autocast copies: matrices, but not embeddings, which are looked up.

    Copies of frozen weights are not shared between layers' calls: what is recomputed has one
    layer's.
    """
    head = model.get_output_embeddings()
    heads = set() if head is None else set(head.parameters())
    embeddings = {
        parameter
        for module in whole.modules()
        if isinstance(module, nn.Embedding)
        for parameter in module.parameters()
    }
    matrices = [p for p in whole.parameters() if p.dim() > 1 and p not in embeddings - heads]
    trained = sum(p.numel() for p in matrices if p.requires_grad)
    frozen = sum(p.numel() for p in matrices if not p.requires_grad)
    return trained + frozen // (max(1, len(decoder_layers(model))) if recomputed else 1)


def saved_by_quantisation(model: PreTrainedModel, adapter: AdapterConfig) -> int:
    """Count what four bits save of the frozen matrices."""
    if adapter.method is not AdapterMethod.qlora:
        return 0
    weights = [layer.weight for layer in layers_to_quantise(model).values()]
    return sum(w.nbytes - bytes_in_4_bits(w, double=adapter.double_quantization) for w in weights)


def gathered_bytes(trained: nn.Module, model: PreTrainedModel) -> int:
    """Count the layer in use and the one fetched meanwhile; embedding and head all the time.

    A gradient is whole until it is reduced, right after its layer's backward.
    """

    def nbytes(module: nn.Module) -> int:
        return sum(p.nbytes * (2 if p.requires_grad else 1) for p in module.parameters())

    layers = [nbytes(layer) for layer in decoder_layers(model)]
    return 2 * max(layers, default=0) + nbytes(trained) - sum(layers)


def summed_over_tiles(model: PreTrainedModel) -> int:
    """Count the float32 sums of one MLP's gradients, and the largest term that is added."""

    def nbytes(mlp: nn.Module | None) -> int:
        trained = [p.numel() for p in mlp.parameters() if p.requires_grad] if mlp else []
        return 4 * (sum(trained) + max(trained, default=0))

    return max((nbytes(mlp_of(layer)) for layer in decoder_layers(model)), default=0)
