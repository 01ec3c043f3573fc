"""What does not load is refused before anything else: by the files' headers, without weights."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from sft_app.common.errors import ConfigError
from sft_app.config.schema.model import ModelConfig
from sft_app.config.schema.rope import RopeConfig
from sft_app.loader.checkpoint.pretrained_config import load_pretrained_config
from sft_app.loader.checkpoint.stored_weights import StoredWeight, StoredWeights
from sft_app.loader.checkpoint.tensor_headers import INDEX
from sft_app.loader.checkpoint.weights_plan import WeightsPlan, plan_weights
from sft_app.loader.model.load_model import load_model
from sft_app.loader.model.restore_keys import restore_keys
from sft_app.loader.rope.rope_plan import plan_rope

MakeCheckpoint = Callable[..., ModelConfig]
Weights = dict[str, torch.Tensor]


def with_weights(
    checkpoint: ModelConfig, directory: Path, change: Callable[[Weights], Weights]
) -> ModelConfig:
    """A copy of the checkpoint whose weights went through `change`."""
    shutil.copytree(checkpoint.name_or_path, directory, dirs_exist_ok=True)
    file = directory / "model.safetensors"
    save_file(change(load_file(file)), file, metadata={"format": "pt"})
    return ModelConfig(name_or_path=str(directory))


def planned(checkpoint: ModelConfig) -> WeightsPlan:
    return plan_weights(checkpoint, load_pretrained_config(checkpoint))


def renamed(prefix: str) -> Callable[[Weights], Weights]:
    return lambda weights: {f"{prefix}{name}": tensor for name, tensor in weights.items()}


def without(part: str) -> Callable[[Weights], Weights]:
    return lambda weights: {n: t for n, t in weights.items() if part not in n}


DAMAGE: dict[str, tuple[str, Callable[[Weights], Weights], str]] = {
    "wrapper": ("llama", renamed("module."), r"all names begin with 'module\.'"),
    "compiled": ("qwen2", renamed("_orig_mod."), r"all names begin with '_orig_mod\.'"),
    "peft": ("llama", renamed("base_model.model."), r"all names begin with 'base_model\.model\.'"),
    "two wrappers": ("llama", renamed("module._orig_mod."),
                     r"all names begin with 'module\._orig_mod\.', which a wrapper"),
    "some other": ("llama", renamed("policy."), r"all names begin with 'policy\.'"),
    "doubled": ("qwen2", renamed("model.model."), r"all names begin with 'model\.model\.'"),
    "inside": ("llama",
               lambda w: {n.replace("layers.", "layers._orig_mod."): t for n, t in w.items()},
               r"have '_orig_mod\.' in them.*18 tensors"),
    "of a multimodal model": ("llama",
        lambda w: {n.replace("model.", "model.language_model.", 1): t for n, t in w.items()},
        r"begin with 'model\.language_model\.' where the architecture has 'model\.'"),
    "another head": ("llama",
                     lambda w: {**without("lm_head")(w), "score.weight": torch.zeros(2, 32)},
                     r"lacks lm_head\.weight and has score\.weight"),
    "no embedding": ("llama", without("embed_tokens"), r"lacks model\.embed_tokens\.weight; "),
    "no last norm": ("qwen2", without("model.norm"), r"lacks model\.norm\.weight; "),
    "an expert of a layer": ("mixtral", without("1.block_sparse_moe.experts.0.w2"),
                             r"lacks model\.layers\.1\..*experts\.0\.w2"),
    "no head": ("llama", without("lm_head"), r"lacks lm_head\.weight; .*random"),
    "no MLP": ("llama", without("layers.1.mlp"), r"lacks model\.layers\.1\.mlp"),
    "an expert": ("mixtral", without("0.block_sparse_moe.experts.1.w1"), r"lacks .*experts\.1\.w1"),
    "one more": ("llama", lambda w: {**w, "model.layers.2.mlp.up_proj.weight": torch.zeros(48, 32)},
                 r"has model\.layers\.2\.mlp\.up_proj\.weight"),
    "a shape": ("llama", lambda w: {**w, "model.embed_tokens.weight": torch.zeros(100, 32)},
                r"shape \(100, 32\).*means \(96, 32\)"),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGE)
def test_what_the_architecture_lacks_or_does_not_know_is_refused_by_name_in_plan_and_load(
    make_checkpoint: MakeCheckpoint, tmp_path: Path, damage: str
) -> None:
    family, change, message = DAMAGE[damage]
    checkpoint = with_weights(make_checkpoint(family), tmp_path, change)
    with pytest.raises(ConfigError, match=message):
        planned(checkpoint)
    config = load_pretrained_config(checkpoint)
    with pytest.raises(ConfigError, match=r"model\.name_or_path"):
        load_model(checkpoint, config, plan_rope(config, 64, RopeConfig()))


@pytest.mark.parametrize("family", ["llama", "gpt2", "mixtral", "neox", "gemma3-multimodal"])
def test_whole_checkpoints_are_whole(make_checkpoint: MakeCheckpoint, family: str) -> None:
    checkpoint = make_checkpoint(family)
    stored = load_file(Path(checkpoint.name_or_path) / "model.safetensors")
    plan = planned(checkpoint)
    assert (plan.num_tensors, plan.dropped) == (len(stored), {})


def test_a_base_model_without_the_outer_prefix_is_the_same_model(
    make_checkpoint: MakeCheckpoint, tmp_path: Path
) -> None:
    """GPT-2's own weights on the hub are named so."""
    whole = make_checkpoint("gpt2")
    checkpoint = with_weights(
        whole, tmp_path, lambda w: {n.removeprefix("transformer."): t for n, t in w.items()}
    )
    assert planned(checkpoint).num_tensors == planned(whole).num_tensors


def test_what_a_family_leaves_out_by_design_is_counted(
    make_checkpoint: MakeCheckpoint, tmp_path: Path
) -> None:
    """GLM-4.5 ignores layers 46 and 92: its MTP layer in one size, a layer of its own in none."""
    checkpoint = with_weights(
        make_checkpoint("glm4-moe"),
        tmp_path,
        lambda w: {**w, "model.layers.46.eh_proj.weight": torch.zeros(2, 2)},
    )
    plan = planned(checkpoint)
    assert plan.dropped == {"model.layers.46.": 1}
    assert "NOT CARRIED" in str(plan) and "1 tensors of model.layers.46." in str(plan)


def test_frequencies_of_old_checkpoints_are_counted_and_computed_anew(
    make_checkpoint: MakeCheckpoint, tmp_path: Path
) -> None:
    """Llama's and Vicuna's first checkpoints hold them, a float32 tensor a layer."""
    names = [f"model.layers.{n}.self_attn.rotary_emb.inv_freq" for n in range(2)]
    checkpoint = with_weights(
        make_checkpoint("llama"), tmp_path, lambda w: {**w, **{n: torch.ones(4) for n in names}}
    )
    plan = planned(checkpoint)
    assert plan.dropped == {"rotary_emb.inv_freq": 2} and not plan.tensor_dtypes
    assert "2 tensors of rotary_emb.inv_freq: computed" in str(plan)
    assert "NOT CARRIED" not in str(plan)


def test_a_head_of_its_own_below_a_config_that_ties_it_is_refused(
    make_checkpoint: MakeCheckpoint, tmp_path: Path
) -> None:
    """transformers v5 reads the head, v4 and others leave it out; both are random in a test."""
    tied = make_checkpoint("llama", tie_word_embeddings=True)
    embedding = load_file(Path(tied.name_or_path) / "model.safetensors")[
        "model.embed_tokens.weight"
    ]
    same = with_weights(
        tied, tmp_path / "same", lambda w: {**w, "lm_head.weight": embedding.clone()}
    )
    assert planned(same).num_tensors == 21
    other = with_weights(tied, tmp_path / "other", lambda w: {**w, "lm_head.weight": -embedding})
    with pytest.raises(ConfigError, match=r"ties lm_head\.weight to .*tie_word_embeddings"):
        planned(other)
    config = load_pretrained_config(other)
    with pytest.raises(ConfigError, match=r"tie_word_embeddings"):
        load_model(other, config, plan_rope(config, 64, RopeConfig()))


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.float8_e4m3fn])
def test_numbers_that_stand_for_others_are_refused(
    make_checkpoint: MakeCheckpoint, tmp_path: Path, dtype: torch.dtype
) -> None:
    norm = {"model.norm.weight": torch.ones(32).to(dtype)}
    checkpoint = with_weights(make_checkpoint("llama"), tmp_path, lambda w: {**w, **norm})
    with pytest.raises(ConfigError, match=r"model\.norm\.weight' .* does not say how"):
        planned(checkpoint)


def test_untied_without_a_head_lacks_it(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    shutil.copytree(
        make_checkpoint("llama", tie_word_embeddings=True).name_or_path,
        tmp_path,
        dirs_exist_ok=True,
    )
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": False}))
    with pytest.raises(ConfigError, match=r"lacks lm_head\.weight"):
        planned(ModelConfig(name_or_path=str(tmp_path)))


def sharded(checkpoint: ModelConfig, directory: Path) -> Path:
    """Two shards and their index."""
    shutil.copytree(checkpoint.name_or_path, directory, dirs_exist_ok=True)
    weights = load_file(directory / "model.safetensors")
    (directory / "model.safetensors").unlink()
    names = sorted(weights)
    where: dict[str, str] = {}
    for number, part in enumerate((names[:5], names[5:]), start=1):
        file = f"model-0000{number}-of-00002.safetensors"
        save_file({n: weights[n] for n in part}, directory / file, metadata={"format": "pt"})
        where |= dict.fromkeys(part, file)
    index = {"metadata": {}, "weight_map": where}
    (directory / INDEX).write_text(json.dumps(index))
    return directory


def cut_short(directory: Path) -> None:
    file = directory / "model-00002-of-00002.safetensors"
    file.write_bytes(file.read_bytes()[:-7])


def with_other_places(directory: Path) -> None:
    """A header whose first tensor begins one byte later: as long as before."""
    file = directory / "model-00001-of-00002.safetensors"
    content = file.read_bytes()
    assert content.count(b'"data_offsets":[0,') == 1
    file.write_bytes(content.replace(b'"data_offsets":[0,', b'"data_offsets":[1,'))


def as_a_link(directory: Path) -> None:
    """As a snapshot of a hub's cache that was copied without what its links lead to."""
    for path in directory.glob("model*"):
        path.unlink()
    (directory / "model.safetensors").symlink_to("../../blobs/5f4d")


def as_a_folder(directory: Path) -> None:
    for path in directory.glob("model*"):
        path.unlink()
    (directory / "model.safetensors").mkdir()


def in_a_third_file(directory: Path) -> None:
    """A shard of another checkpoint, with a tensor that the index has elsewhere."""
    file = "model-00003-of-00003.safetensors"
    tensors = {"model.norm.weight": torch.zeros(32), "model.norm.bias": torch.zeros(32)}
    save_file(tensors, directory / file, metadata={"format": "pt"})
    index = json.loads((directory / INDEX).read_text())
    index["weight_map"]["model.norm.bias"] = file
    (directory / INDEX).write_text(json.dumps(index))


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "shard": (lambda d: (d / "model-00002-of-00002.safetensors").unlink(), "lacks the weight"),
    "index": (lambda d: (d / INDEX).unlink(), r"no model\.safetensors\.index"),
    "index text": (lambda d: (d / INDEX).write_text("{"), "is no index"),
    "cut": (cut_short, "its header speaks of"),
    "places": (with_other_places, "which are not its"),
    "pointer": (lambda d: (d / "model-00001-of-00002.safetensors").write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n"), "git lfs pull"),
    "another file": (lambda d: (d / INDEX).write_text(
        (d / INDEX).read_text().replace("model-00002-of", "weights-2-of")), "lacks the weight"),
    "twice": (lambda d: shutil.copy(d / "model-00001-of-00002.safetensors",
                                    d / "model.safetensors"), "has its weights twice"),
    "two files": (in_a_third_file, r"'model\.norm\.weight' is in two files"),
    "link": (as_a_link, r"is a link to \.\./\.\./blobs/5f4d, which is not there"),
    "folder": (as_a_folder, "is a folder"),
    "adapter": (lambda d: [*map(Path.unlink, d.glob("model*")),
                           (d / "adapter_model.safetensors").write_bytes(b"")],
                "adapter_model.safetensors: a LoRA adapter"),
    "gguf": (lambda d: [*map(Path.unlink, d.glob("model*")), (d / "m.gguf").write_bytes(b"")],
             "model.gguf_file=m.gguf"),
    "mistral's": (lambda d: [*map(Path.unlink, d.glob("model*")),
                             (d / "consolidated.safetensors").write_bytes(b"")],
                  "Mistral's own layout"),
    "nothing": (lambda d: list(map(Path.unlink, d.glob("model*"))), "has no weights"),
}  # fmt: skip


@pytest.mark.parametrize("what", BROKEN)
def test_files_that_are_missing_or_broken_are_told_in_one_sentence(
    make_checkpoint: MakeCheckpoint, tmp_path: Path, what: str
) -> None:
    directory = sharded(make_checkpoint("llama"), tmp_path)
    assert planned(ModelConfig(name_or_path=str(directory))).num_tensors == 21
    breaks, message = BROKEN[what]
    breaks(directory)
    with pytest.raises(ConfigError, match=message) as refused:
        planned(ModelConfig(name_or_path=str(directory)))
    assert "allow_pickle" not in str(refused.value) and len(str(refused.value)) < 500


def test_one_file_is_read_whatever_an_index_of_shards_that_are_gone_says(
    make_checkpoint: MakeCheckpoint, tmp_path: Path
) -> None:
    directory = sharded(make_checkpoint("llama"), tmp_path)
    for shard in directory.glob("model-*"):
        shard.unlink()
    shutil.copy(Path(make_checkpoint("llama").name_or_path) / "model.safetensors", directory)
    stored = planned(ModelConfig(name_or_path=str(directory))).stored
    assert isinstance(stored, StoredWeights)
    assert {header.file for header in stored.headers.values()} == {"model.safetensors"}


def test_shards_may_be_in_a_folder_of_their_own(
    make_checkpoint: MakeCheckpoint, tmp_path: Path
) -> None:
    directory = sharded(make_checkpoint("llama"), tmp_path)
    (directory / "shards").mkdir()
    for shard in directory.glob("model-*"):
        shard.rename(directory / "shards" / shard.name)
    text = (directory / INDEX).read_text()
    (directory / INDEX).write_text(text.replace('"model-0', '"shards/model-0'))
    stored = planned(ModelConfig(name_or_path=str(directory))).stored
    assert isinstance(stored, StoredWeights)
    found = stored.find("model.norm.weight")
    assert isinstance(found, StoredWeight) and found.path.is_file()


def naming(directory: Path, file: str) -> ModelConfig:
    """The checkpoint, whose config.json names its weights."""
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"transformers_weights": file}))
    return ModelConfig(name_or_path=str(directory))


@pytest.mark.parametrize("in_shards", [False, True])
def test_the_weights_that_config_json_names_are_planned_loaded_and_not_named_in_what_is_saved(
    make_checkpoint: MakeCheckpoint, tmp_path: Path, in_shards: bool
) -> None:
    source, directory, saved = make_checkpoint("llama"), tmp_path / "named", tmp_path / "saved"
    file = "averaged.safetensors"
    if in_shards:
        sharded(source, directory)
        (directory / INDEX).rename(directory / "averaged.safetensors.index.json")
        file = "averaged.safetensors.index.json"
    else:
        shutil.copytree(source.name_or_path, directory)
        (directory / "model.safetensors").rename(directory / file)
    meant = load_file(Path(source.name_or_path) / "model.safetensors")
    others = {name: torch.zeros_like(tensor) for name, tensor in meant.items()}
    save_file(others, directory / "model.safetensors", metadata={"format": "pt"})

    checkpoint = naming(directory, file)
    plan = planned(checkpoint)
    assert f"from {file}, which config.json names" in str(plan)
    assert isinstance(plan.stored, StoredWeights)
    found = plan.stored.find("model.norm.weight")
    assert isinstance(found, StoredWeight) and found.path.name != "model.safetensors"
    config = load_pretrained_config(checkpoint)
    model = load_model(checkpoint, config, plan_rope(config, 64, RopeConfig()))
    assert all(torch.equal(tensor, meant[name]) for name, tensor in model.state_dict().items())
    model.save_pretrained(saved)
    restore_keys(saved, plan.checkpoint)
    assert "transformers_weights" not in json.loads((saved / "config.json").read_text())
    assert not hasattr(model.config, "transformers_weights"), "checkpoints name their own"


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("averaged.safetensors", "lacks averaged.safetensors, which its config.json names"),
        ("../model.safetensors", "a .safetensors file of that folder is expected"),
        ("model.bin", "a .safetensors file of that folder is expected"),
    ],
)
def test_a_name_in_config_json_that_is_no_file_of_weights_is_refused(
    make_checkpoint: MakeCheckpoint, tmp_path: Path, file: str, message: str
) -> None:
    shutil.copytree(make_checkpoint("llama").name_or_path, tmp_path / "named")
    with pytest.raises(ConfigError, match=re.escape(message)):
        planned(naming(tmp_path / "named", file))


def test_an_adapter_beside_the_weights_or_alone_is_told(
    make_checkpoint: MakeCheckpoint, tmp_path: Path
) -> None:
    shutil.copytree(make_checkpoint("llama").name_or_path, tmp_path, dirs_exist_ok=True)
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "some/base"}')
    checkpoint = ModelConfig(name_or_path=str(tmp_path))
    with pytest.raises(ConfigError, match=r"a whole model and an adapter .*take the adapter"):
        planned(checkpoint)
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).unlink()
    with pytest.raises(ConfigError, match=r"is an adapter \(.*\) without a model"):
        load_pretrained_config(checkpoint)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused_when_they_are_read(
    make_checkpoint: MakeCheckpoint, tmp_path: Path, value: float
) -> None:
    def spoil(weights: Weights) -> Weights:
        weights["model.layers.1.mlp.up_proj.weight"][3, 5] = value
        return weights

    checkpoint = with_weights(make_checkpoint("llama"), tmp_path, spoil)
    config = load_pretrained_config(checkpoint)
    with pytest.raises(ConfigError, match=r"layers\.1\.mlp\.up_proj.* 1 numbers of 1,536"):
        load_model(checkpoint, config, plan_rope(config, 64, RopeConfig()))


@pytest.mark.parametrize(
    "absurd",
    [
        {"num_hidden_layers": 1_000_000},
        {"vocab_size": 10**12},
        {"num_hidden_layers": -1},
        {"num_attention_heads": 10**9},
    ],
)
def test_numbers_that_no_model_has_end_in_a_sentence(
    make_checkpoint: MakeCheckpoint, tmp_path: Path, absurd: dict[str, int]
) -> None:
    shutil.copytree(make_checkpoint("llama").name_or_path, tmp_path, dirs_exist_ok=True)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | absurd))
    [(key, value)] = absurd.items()
    with pytest.raises(ConfigError, match=f"says {key}={re.escape(str(value))}"):
        load_pretrained_config(ModelConfig(name_or_path=str(tmp_path)))


def test_the_dtypes_of_the_files_are_known_tensor_by_tensor(
    make_checkpoint: MakeCheckpoint, tmp_path: Path
) -> None:
    def half(weights: Weights) -> Weights:
        kept = "model.norm.weight"
        return {n: t if n == kept else t.to(torch.bfloat16) for n, t in weights.items()}

    plan = planned(with_weights(make_checkpoint("llama"), tmp_path, half))
    assert plan.dtype == torch.bfloat16
    assert plan.tensor_dtypes == {"model.norm.weight": torch.float32}
