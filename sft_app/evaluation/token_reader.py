"""What a model says of each token of a row, without ever holding the logits of all of them.

The model's forward is run for its hidden states; the head is applied to the positions that are
asked for, in chunks. What a family does to its logits is known by name (logit_transform.py), and
checked on the model itself: where the two ways differ, the model's own logits are taken.

Letters in shapes: B rows, T tokens of a row, t of this rank's part, D hidden size, V vocabulary,
R positions of one chunk.
"""

import logging
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from sft_app.compat.model_internals import forget_longer_inputs
from sft_app.evaluation.work_split import RowShard, WorkSplit
from sft_app.loader.model.logit_transform import logit_transform
from sft_app.loader.rope.model_context import follows_length

log = logging.getLogger(__name__)

CHUNK_BYTES = {"cpu": 16 * 2**20, "cuda": 512 * 2**20}
"""Of one chunk's float32 logits: caches are small on a CPU, and GPUs want large matmuls."""
FORWARD_TOKENS = {"cpu": 8192, "cuda": 32768}
"""Tokens of one forward over several rows."""
TOLERANCE_FLOAT32, TOLERANCE_16_BITS = 1e-3, 1e-1
"""Nats by which a token's loss may differ from that of the model's own logits."""

Judge = Callable[[Tensor, Tensor], Tensor]
"""From float32 logits [R, V] and targets [R] to a float for each position [R]."""


class HeadPassedBy(Exception):
    """Says that a forward came to its end without calling the head."""


class TokenReader:
    """Reads rows of tokens with a model in eval mode; every rank of a group has to call it."""

    def __init__(
        self, model: nn.Module, device: torch.device | str, split: WorkSplit | None = None
    ) -> None:
        """`model`: a causal LM, or PEFT's wrapper of one. Makes two small forwards."""
        self.model = model
        self.inner = inner_model(model)
        self.device = torch.device(device)
        self.split = split or WorkSplit()
        self.transform = logit_transform(self.inner.config)
        self.follows_length = follows_length(self.inner.config)
        """Whether a row is read otherwise beside a longer one, to which it is padded."""
        self.takes_whole_logits = False
        self._not_finite = 0
        obstacle = self._obstacle()
        if obstacle is not None:
            self.takes_whole_logits = True
            log.info("evaluation      from the model's whole logits: %s", obstacle)

    @torch.no_grad()
    def losses(self, input_ids: Tensor, wanted: Tensor | None = None) -> Tensor:
        """Return the cross-entropy of each token but the first, in nats: float32 [B, T-1], CPU.

        `wanted`, bool [B, T-1]: which ones; the others are 0, as are those that other ranks of this
        one's group have.
        """
        return self._measure(input_ids, wanted, _nats)

    @torch.no_grad()
    def hits(self, input_ids: Tensor, wanted: Tensor | None = None) -> Tensor:
        """Return 1 for each token but the first that is the likeliest one there, else 0.

        Where logits are NaN no token is.
        """
        return self._measure(input_ids, wanted, _is_likeliest)

    def note_not_finite(self, tokens: int) -> None:
        """Count predictions that are no numbers."""
        self._not_finite += tokens

    def take_not_finite(self) -> int:
        """Return how many predictions since the last call were no numbers; a collective."""
        counted = torch.tensor([float(self._not_finite)])
        self._not_finite = 0
        return int(self.split.sum(counted, self.device).item())

    def rows_at_once(self, length: int) -> int:
        """Return how many rows of `length` tokens one forward takes."""
        return max(1, FORWARD_TOKENS.get(self.device.type, 8192) // length)

    def _measure(self, input_ids: Tensor, wanted: Tensor | None, judge: Judge) -> Tensor:
        targets = input_ids[:, 1:].to(self.device)
        chosen = torch.ones_like(targets, dtype=torch.bool) if wanted is None else wanted
        chosen = chosen.to(self.device)
        found = torch.zeros(targets.shape, dtype=torch.float32, device=self.device)
        with self._part(input_ids.to(self.device)) as part:
            states = self._states(part.inputs)
            head = None if self.takes_whole_logits else self._head()
            begin = part.start
            end = min(begin + states.shape[1], targets.shape[1])
            if begin < end:
                here = chosen[:, begin:end]
                rows = states[:, : end - begin][here]  # [M, D], or [M, V]
                judged = self._judged(rows, targets[:, begin:end][here], head, judge)
                self.note_not_finite(int((~judged.isfinite()).sum()))
                found[:, begin:end][here] = judged
        if judge is _is_likeliest:
            found.nan_to_num_(nan=0.0)
        return found.cpu()

    def _part(self, input_ids: Tensor) -> Any:
        if self.split.shard_rows is None:
            return nullcontext(RowShard(inputs={"input_ids": input_ids}, start=0))
        return self.split.shard_rows(input_ids)

    def _states(self, inputs: dict[str, Tensor]) -> Tensor:
        """Hidden states before the head [B, t, D]; whole logits [B, t, V] where they are taken."""
        if self.follows_length:
            forget_longer_inputs(self.inner)
        if self.takes_whole_logits:
            return self.model(**inputs, use_cache=False).logits
        kept: list[Tensor] = []

        def keep(states: Tensor) -> Tensor:
            kept.append(states)
            return states[..., :1]

        # In the head's place, beneath whatever wraps the model and has to see the forward (FSDP).
        head: Any = self.inner.get_output_embeddings()
        before = vars(head).get("forward")  # transformers' own, where it sharded the head
        head.forward = keep
        try:
            self.model(**inputs, use_cache=False)
        finally:
            del head.forward
            if before is not None:
                head.forward = before
        if not kept:
            raise HeadPassedBy
        return kept[0]

    def _head(self) -> tuple[Tensor, Tensor | None]:
        """Weight [V, D] and bias [V], gathered where they are sharded."""
        head: Any = self.inner.get_output_embeddings()
        linear = getattr(head, "original_module", head)
        return _whole(head.weight), None if linear.bias is None else _whole(linear.bias)

    def _judged(
        self,
        rows: Tensor,
        targets: Tensor,
        head: tuple[Tensor, Tensor | None] | None,
        judge: Judge,
    ) -> Tensor:
        if head is None:
            return judge(rows.float(), targets)
        weight, bias = head
        size = max(16, CHUNK_BYTES.get(self.device.type, 2**24) // (4 * weight.shape[0]))
        judged = []
        for chunk, expected in zip(rows.split(size), targets.split(size), strict=True):
            logits = nn.functional.linear(chunk.to(weight.dtype), weight, bias).float()
            judged.append(judge(self.transform.apply(logits), expected))
        return torch.cat(judged) if judged else targets.float()

    def _obstacle(self) -> str | None:
        """What speaks against applying the head here; None where it is the same."""
        head: Any = self.inner.get_output_embeddings()
        if type(getattr(head, "original_module", head)) is not nn.Linear:
            return f"its head is no plain linear layer but {type(head).__name__}"
        try:
            difference = self._difference()
        except HeadPassedBy:
            return "it multiplies by its head without calling it"
        mixed = torch.is_autocast_enabled(self.device.type)
        exact = self.inner.dtype == torch.float32 and not mixed
        if difference <= (TOLERANCE_FLOAT32 if exact else TOLERANCE_16_BITS):
            return None
        return f"its head applied to hidden states differs by {difference:.1e} nats"

    @torch.no_grad()
    def _difference(self) -> float:
        """Largest difference of a token's loss between the two ways, on two tiny rows."""
        size = self.inner.config.get_text_config(decoder=True).vocab_size
        generator = torch.Generator().manual_seed(0)
        tokens = torch.randint(size, (2, 12), generator=generator).to(self.device)
        states = self._states({"input_ids": tokens})[:, :-1].flatten(0, 1)
        targets = tokens[:, 1:].flatten()
        ours = self._judged(states, targets, self._head(), _nats)
        own = self.model(input_ids=tokens, use_cache=False).logits
        expected = _nats(own[:, :-1].flatten(0, 1).float(), targets)
        return float((ours - expected).abs().max())


def inner_model(model: nn.Module) -> PreTrainedModel:
    """Return the causal LM, also from inside PEFT's wrapper."""
    wrapper: Any = model
    return model if isinstance(model, PreTrainedModel) else wrapper.get_base_model()


def _whole(parameter: Any) -> Tensor:
    whole: Tensor = parameter.full_tensor() if isinstance(parameter, DTensor) else parameter
    return whole


def _nats(logits: Tensor, targets: Tensor) -> Tensor:
    return logits.logsumexp(-1) - logits.gather(1, targets.unsqueeze(1)).squeeze(1)


def _is_likeliest(logits: Tensor, targets: Tensor) -> Tensor:
    """1 or 0; NaN where the logits are."""
    largest, at = logits.max(-1)
    return torch.where(largest.isnan(), largest, (at == targets).float())
