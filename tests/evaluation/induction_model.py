"""A causal LM without training that copies: an oracle that finds some needles and misses others.

After four tokens that stood in the row before it predicts what followed there the last time; after
others, token 0. What it answers can be worked out by looking at the text.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationMixin, LlamaConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput, CausalLMOutput

CONTEXT = 4


class InductionBase(PreTrainedModel):
    config_class = LlamaConfig

    def forward(self, input_ids: Tensor, **kwargs: Any) -> BaseModelOutput:
        size = self.config.vocab_size
        hidden = torch.zeros(*input_ids.shape, size)
        for row, ids in enumerate(input_ids.tolist()):
            followed: dict[tuple[int, ...], int] = {}
            for place, token in enumerate(ids):
                if place >= CONTEXT:
                    followed[tuple(ids[place - CONTEXT : place])] = token
                seen = tuple(ids[max(0, place + 1 - CONTEXT) : place + 1])
                hidden[row, place, followed.get(seen, 0)] = 9.0
        return BaseModelOutput(last_hidden_state=hidden)


class InductionModel(PreTrainedModel, GenerationMixin):
    config_class = LlamaConfig
    base_model_prefix = "model"

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__(config)
        self.model = InductionBase(config)
        self.lm_head = nn.Linear(config.vocab_size, config.vocab_size, bias=False)
        with torch.no_grad():
            self.lm_head.weight.copy_(torch.eye(config.vocab_size))

    def get_output_embeddings(self) -> nn.Linear:
        return self.lm_head

    def prepare_inputs_for_generation(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        return {"input_ids": input_ids}

    def forward(self, input_ids: Tensor, logits_to_keep: int = 0, **kwargs: Any) -> CausalLMOutput:
        hidden = self.model(input_ids).last_hidden_state
        return CausalLMOutput(logits=self.lm_head(hidden[:, -logits_to_keep:]))


def induction_model(vocab_size: int) -> InductionModel:
    config = LlamaConfig(vocab_size=vocab_size, hidden_size=8, num_hidden_layers=1,
                         num_attention_heads=1)  # fmt: skip
    return InductionModel(config).eval()
