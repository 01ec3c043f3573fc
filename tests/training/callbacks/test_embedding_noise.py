"""NEFTune's noise is that of a document alone, in whatever row it stands (arXiv:2310.05914)."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel, TrainerCallback

from sft_app.training.metrics import token_counts
from tests.training.training_steps import packed_rows, prepared, trainer_of

ALPHA = 5.0


class KeepNoise(TrainerCallback):
    """Keeps what the first layer is given beyond the embeddings themselves."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.found: list[torch.Tensor] = []
        self.tokens = torch.empty(0)
        layers: Any = model.get_decoder().layers
        embeddings: Any = model.get_input_embeddings()
        embeddings.register_forward_pre_hook(lambda module, args: setattr(self, "tokens", args[0]))
        layers[0].register_forward_pre_hook(
            lambda module, args: self.found.append(
                (args[0] - embeddings.weight[self.tokens]).detach()
            )
        )


@pytest.mark.parametrize("padded", [False, True], ids=["packed", "padded"])
def test_a_document_gets_the_noise_of_its_own_length(
    random_model: Callable[..., PreTrainedModel],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    padded: bool,
) -> None:
    """Packed: documents of 9, 11 and 4 tokens. Padded: rows of 9 and 20, filled up to 24."""
    monkeypatch.setattr(token_counts, "measure_matmul_rate", lambda device, dtype: 1e9)
    model = random_model("llama")
    rows = packed_rows(2)
    lengths = [[9, 11, 4]] * 2
    if padded:
        lengths = [[9], [20]]
        for row, (length,) in zip(rows, lengths, strict=True):
            del row["position_ids"]
            row["attention_mask"] = (torch.arange(24) < length).long()
    seen = KeepNoise(model)
    trainer = trainer_of(
        prepared(model), tmp_path, rows, per_device_train_batch_size=2, max_steps=2,
        neftune_noise_alpha=ALPHA, data_seed=1, train_sampling_strategy="sequential",
    )  # fmt: skip
    trainer.train()
    for row, documents in zip(seen.found[-1], lengths, strict=True):
        parts = row[: sum(documents)].split(documents)
        for document, length in zip(parts, documents, strict=True):
            most = ALPHA / (length * 32) ** 0.5
            assert 0.9 * most < document.abs().max() <= most * (1 + 1e-5)


def test_what_is_measured_has_no_noise(
    random_model: Callable[..., PreTrainedModel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(token_counts, "measure_matmul_rate", lambda device, dtype: 1e9)
    model = random_model("llama")
    seen = KeepNoise(model)
    trainer = trainer_of(prepared(model), tmp_path, packed_rows(1), neftune_noise_alpha=ALPHA)
    trainer.train()
    assert seen.found[-1].abs().max() > 0
    for mode in (False, True):  # once it has trained, in neither
        model.train(mode)(input_ids=torch.arange(8)[None])
        assert seen.found[-1].abs().max() == 0
