"""NEFTune: noise on the embeddings of a training, which a document gets as if it stood alone.

(Jain et al. 2023, arXiv:2310.05914.) Uniform noise up to alpha / sqrt(L * D), L the tokens of a
sequence. transformers takes the length of a row for L: packed into a row of sixteen times its
length, a document would get a quarter of the noise, and padding would take some of it away.

Letters in shapes: B rows, T positions, D hidden size.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel, TrainerCallback

from sft_app.training.attention.known_batch import known_sequences


class EmbeddingNoise(TrainerCallback):
    """Adds the noise while the model trains, and never while it is measured."""

    def __init__(self, model: PreTrainedModel, alpha: float) -> None:
        """Be ready to add it behind the input embeddings of the loaded model."""
        self.embeddings, self.alpha = model.get_input_embeddings(), alpha
        self._handle: RemovableHandle | None = None

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        """Begin."""
        self._handle = self.embeddings.register_forward_hook(self._add)

    def on_train_end(self, *args: Any, **kwargs: Any) -> None:
        """End."""
        if self._handle is not None:
            self._handle.remove()

    def _add(self, module: nn.Module, args: Any, output: Tensor) -> Tensor:
        if not module.training:
            return output
        batch_size, row_length, size = output.shape
        lengths = known_sequences(batch_size, row_length)
        most = self.alpha / (lengths * size).sqrt().to(output)  # [B, T]
        return output + torch.empty_like(output).uniform_(-1, 1) * most.unsqueeze(-1)
