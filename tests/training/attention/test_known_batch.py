"""What the host knows of a batch is not asked of the device, and is the same."""

import pytest
import torch
from transformers import Gemma2Config, Gemma2ForCausalLM, Llama4ForCausalLM, Llama4TextConfig

from sft_app.training.attention import packed_attention
from sft_app.training.attention.known_batch import know_batch, known_in_forward, positions_of
from sft_app.training.attention.packed_forward import install_packed_forward
from sft_app.training.loss.loss_of_logits import install_loss_of_logits
from sft_app.training.loss.patched_forward import install_chunked_loss
from tests.benchmarks.bench_host_time import STEPS, trained
from tests.benchmarks.host_waits import HostWaits
from tests.benchmarks.small_llama import packed_row, small_llama

SHAPE = {
    "vocab_size": 8192,
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,
    "attn_implementation": packed_attention.NAME,
}


def test_a_step_of_several_micro_batches_waits_for_the_device_once() -> None:
    waits, _ = trained(small_llama(packed_attention.NAME, hidden=128, layers=2))
    in_steps = {p: n for p, n in waits.places.items() if "data_loader.py" not in p}  # of an epoch
    assert in_steps and all("look" in place for place in in_steps), in_steps
    assert sum(in_steps.values()) == STEPS - 1


def test_a_step_at_skipped_positions_waits_no_more_often() -> None:
    model = small_llama(packed_attention.NAME, hidden=128, layers=2)
    waits, _ = trained(model, position_target=4096)
    in_steps = {p: n for p, n in waits.places.items() if "data_loader.py" not in p}
    assert in_steps and all("look" in place for place in in_steps), in_steps


def test_padded_rows_wait_no_more_often() -> None:
    """Where a row's padding begins is read where the batch was made, and not off the device."""
    waits, _ = trained(small_llama(packed_attention.NAME, hidden=128, layers=2), padded=True)
    in_steps = {p: n for p, n in waits.places.items() if "data_loader.py" not in p}
    assert in_steps and all("look" in place for place in in_steps), in_steps


def test_padding_known_on_the_host_is_that_of_the_device() -> None:
    packed_attention.register()
    model = small_llama(packed_attention.NAME, hidden=128, layers=1).eval()
    row = packed_row(24, 24)
    mask = torch.tensor([[1] * 24, [1] * 15 + [0] * 9])
    batch = {"input_ids": row["input_ids"].repeat(2, 1), "attention_mask": mask}
    asked = model(**batch).logits
    with known_in_forward(know_batch(batch | {"labels": batch["input_ids"]}, [39])):
        told = model(**batch).logits
        other = model(row["input_ids"], attention_mask=mask[1:]).logits  # of another shape
    torch.testing.assert_close(told, asked, rtol=0, atol=0)
    torch.testing.assert_close(other[0], asked[1], rtol=1e-5, atol=1e-5)


def test_the_loss_of_logits_asks_the_device_for_nothing_that_the_host_knows() -> None:
    model = small_llama(packed_attention.NAME, hidden=128, layers=1)
    install_loss_of_logits(model, model)
    row = packed_row(48, 11, supervised_share=0.6)
    asked = model(**row, num_items_in_batch=20).loss
    known = know_batch(row, [48])
    with known_in_forward(known), HostWaits(model) as waits:
        told = model(**row, num_items_in_batch=20).loss
    assert not [place for place in waits.places if "loss_of_logits" in place], waits.places
    torch.testing.assert_close(told, asked, rtol=0, atol=0)


def test_documents_are_told_row_by_row() -> None:
    rows = torch.tensor([[0, 1, 2, 0, 1], [0, 1, 0, 0, 1]])
    batch = {"input_ids": rows, "labels": rows, "position_ids": rows}
    assert know_batch(batch, [10], (7, 2)).documents_of_rows() == [[3, 2], [2, 1, 2]]
    padded = batch | {"attention_mask": torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])}
    assert know_batch(padded, [3, 5], (7, 2)).documents_of_rows() == [[3], [5]]


def test_the_count_sees_what_waits_and_not_what_is_on_the_host() -> None:
    model = torch.nn.Linear(2, 2)
    with HostWaits(model) as waits:
        host = torch.ones(2)
        bool(host.sum() > 0)
        moved = host.clone().to(torch.device("cpu"))
        moved[moved > 0].sum()
        float(model(host).sum().detach())
        model.weight.detach().cpu().tolist()
    assert waits.total == 3, waits.places


@pytest.mark.parametrize("windows", ["sliding", "chunked"])
def test_a_forward_that_knows_its_documents_is_the_one_that_reads_them(windows: str) -> None:
    packed_attention.register()
    torch.manual_seed(0)
    if windows == "sliding":
        model = Gemma2ForCausalLM(Gemma2Config(**SHAPE, sliding_window=5)).eval()
    else:
        shape = SHAPE | {"num_local_experts": 2, "intermediate_size_mlp": 64}
        config = Llama4TextConfig(**shape, attention_chunk_size=8, no_rope_layers=[1, 1, 1, 0])
        model = Llama4ForCausalLM(config).eval()
    install_packed_forward(model)
    install_chunked_loss(model)
    row = packed_row(48, 11, supervised_share=0.6)
    known = know_batch(row, [48])
    asked = model(**row).loss
    with known_in_forward(known):
        told = model(**row).loss
    torch.testing.assert_close(told, asked, rtol=0, atol=0)
    if windows == "sliding":  # Llama-4's chunks are counted from the row's beginning
        second = {key: row[key][:, 11:22] for key in ("input_ids", "position_ids")}
        with known_in_forward(known):
            packed = model(input_ids=row["input_ids"], position_ids=row["position_ids"]).logits
        torch.testing.assert_close(packed[:, 11:22], model(**second).logits, rtol=1e-4, atol=1e-4)


def test_a_batch_of_another_shape_is_not_taken_for_the_known_one() -> None:
    packed_attention.register()
    model = small_llama(packed_attention.NAME, hidden=128, layers=1).eval()
    install_packed_forward(model)
    other, row = packed_row(30, 7), packed_row(48, 11)
    expected = model(**row).logits
    with known_in_forward(know_batch(other, [30])):
        torch.testing.assert_close(model(**row).logits, expected, rtol=0, atol=0)


def test_positions_of_flags_are_those_of_nonzero_and_a_wrong_count_is_loud() -> None:
    generator = torch.Generator().manual_seed(0)
    for share in (0.0, 0.3, 1.0):
        flags = torch.rand(97, generator=generator) < share
        found = positions_of(flags, int(flags.sum()))
        assert found.tolist() == flags.nonzero().flatten().tolist()
    flags = torch.tensor([True, False, True])
    with pytest.raises((RuntimeError, IndexError)):
        positions_of(flags, 1)
    with pytest.raises((RuntimeError, IndexError)):
        torch.zeros(3).index_select(0, positions_of(flags, 3))
