"""Matrices are decayed, in every family, and Muon moves those between embedding and head."""

from pathlib import Path

import pytest

from sft_app.config.schema.trainer import TrainerConfig
from sft_app.training.metrics import token_counts
from sft_app.training.optim.muon import muon_for
from tests.training.training_steps import packed_rows, prepared, trainer_of


@pytest.mark.parametrize(
    ("family", "decayed", "left_alone"),
    [
        ("llama", ["q_proj.weight", "embed_tokens.weight"], ["input_layernorm.weight"]),
        ("gpt2", ["c_attn.weight", "wpe.weight"], ["ln_f.weight", "c_attn.bias"]),
        ("mamba", ["in_proj.weight"], ["norm_f.weight", "A_log", "mixer.D", "dt_proj.bias"]),
        ("gpt_oss", ["experts.gate_up_proj", "q_proj.weight"], ["sinks", "q_proj.bias"]),
        ("xlstm", ["q.weight"], ["norm_ffn.weight", "norm_mlstm.weight"]),
        ("diffllama", ["q_proj.weight"], ["input_layernorm.weight", "lambda_q1"]),  # and a norm
    ],  # without a weight
)
def test_matrices_are_decayed_whatever_a_family_calls_the_rest(
    small_family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    family: str, decayed: list[str], left_alone: list[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(token_counts, "measure_matmul_rate", lambda device, dtype: 1e9)
    model = small_family(family)
    trainer = trainer_of(prepared(small_family("llama")), tmp_path, packed_rows(1))
    names = trainer.get_decay_parameter_names(model)
    for ending in decayed:
        assert any(name.endswith(ending) for name in names)
    for ending in left_alone:
        assert any(name.endswith(ending) for name, _ in model.named_parameters())
        assert not any(name.endswith(ending) for name in names)


@pytest.mark.parametrize(
    ("family", "hidden", "others"),
    [
        ("gpt2", "c_attn.weight", ["wte.weight", "wpe.weight"]),
        ("mamba", "in_proj.weight", ["embeddings.weight", "A_log"]),
    ],
)
def test_muon_moves_neither_embeddings_of_positions_nor_tables(
    small_family, family: str, hidden: str, others: list[str]
) -> None:
    model = small_family(family)
    make, settings = muon_for(model, TrainerConfig(optim="muon"))
    optimizer = make([{"params": list(model.parameters()), "weight_decay": 0.0}], **settings)
    moved = {id(p) for group in optimizer.muon.param_groups for p in group["params"]}
    of_muon = [name for name, p in model.named_parameters() if id(p) in moved]
    assert any(name.endswith(hidden) for name in of_muon)
    for ending in others:
        assert any(name.endswith(ending) for name, _ in model.named_parameters())
        assert not any(name.endswith(ending) for name in of_muon)
