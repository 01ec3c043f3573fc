"""Loading a model: what is refused, what is chosen, and what training must find."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, BertConfig, GenerationConfig

from sft_app.common.errors import ConfigError
from sft_app.config.schema.model import Dtype, ModelConfig
from sft_app.config.schema.rope import RopeConfig
from sft_app.loader.checkpoint.pretrained_config import load_pretrained_config
from sft_app.loader.model.dtype import choose_dtype
from sft_app.loader.model.load_model import load_model
from sft_app.loader.rope.rope_plan import plan_rope

MakeCheckpoint = Callable[..., ModelConfig]


def copied(checkpoint: ModelConfig, directory: Path) -> ModelConfig:
    model = AutoModelForCausalLM.from_pretrained(checkpoint.name_or_path)
    model.save_pretrained(directory)
    return ModelConfig(name_or_path=str(directory))


def test_the_cache_is_off_while_training_and_the_given_config_is_not_changed(
    make_checkpoint: MakeCheckpoint,
) -> None:
    checkpoint = make_checkpoint("llama")
    config = load_pretrained_config(checkpoint)
    model = load_model(checkpoint, config, plan_rope(config, 64, RopeConfig()))
    assert model.config.use_cache is False
    assert model.generation_config is not None and model.generation_config.use_cache is True
    assert config.use_cache is True


def test_pickled_weights_are_refused_unless_allowed(
    make_checkpoint: MakeCheckpoint, tmp_path: Path
) -> None:
    checkpoint = copied(make_checkpoint("llama"), tmp_path)
    weights = AutoModelForCausalLM.from_pretrained(tmp_path).state_dict()
    torch.save(weights, tmp_path / "pytorch_model.bin")
    (tmp_path / "model.safetensors").unlink()
    config = load_pretrained_config(checkpoint)
    plan = plan_rope(config, 64, RopeConfig())
    with pytest.raises(ConfigError, match=r"model\.allow_pickle=true"):
        load_model(checkpoint, config, plan)
    checkpoint.allow_pickle = True
    assert load_model(checkpoint, config, plan).config.model_type == "llama"


def test_a_checkpoint_that_needs_code_of_its_own_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(
        json.dumps(
            {"model_type": "its_own", "auto_map": {"AutoConfig": "configuration_own.OwnConfig"}}
        )
    )
    (tmp_path / "configuration_own.py").write_text("raise SystemExit('this must not run')")
    with pytest.raises(ConfigError, match=r"model\.trust_remote_code=true"):
        load_pretrained_config(ModelConfig(name_or_path=str(tmp_path)))


OWN_CODE = """
from transformers import LlamaConfig, LlamaForCausalLM

class OwnConfig(LlamaConfig):
    model_type = "its_own"

class OwnForCausalLM(LlamaForCausalLM):
    config_class = OwnConfig
"""


def test_allowed_code_runs_and_its_rope_is_extended(
    make_checkpoint: MakeCheckpoint, tmp_path: Path
) -> None:
    copied(make_checkpoint("llama"), tmp_path)
    (tmp_path / "own_code.py").write_text(OWN_CODE)
    config = json.loads((tmp_path / "config.json").read_text())
    config["model_type"] = "its_own"
    config["auto_map"] = {
        "AutoConfig": "own_code.OwnConfig",
        "AutoModelForCausalLM": "own_code.OwnForCausalLM",
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    model_config = ModelConfig(name_or_path=str(tmp_path), trust_remote_code=True)
    pretrained = load_pretrained_config(model_config)
    plan = plan_rope(pretrained, 128, RopeConfig())
    assert (plan.model_type, plan.factor) == ("its_own", 2.0)
    assert type(load_model(model_config, pretrained, plan)).__name__ == "OwnForCausalLM"


def test_an_encoder_is_refused(tmp_path: Path) -> None:
    """BERT counts as a causal LM, and sees what it should predict."""
    config = BertConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2)
    with pytest.raises(ConfigError, match="is an encoder"):
        plan_rope(config, 64, RopeConfig())
    config.is_decoder = True
    assert plan_rope(config, 64, RopeConfig()).effective_context_length == 512


@pytest.mark.parametrize("revision", [None, "main", "v1.0"])
def test_code_from_a_hub_is_run_only_from_a_commit(revision: str | None) -> None:
    model = ModelConfig(name_or_path="some/model", trust_remote_code=True, revision=revision)
    with pytest.raises(ConfigError, match=r"model\.revision=<40-hex commit>"):
        load_pretrained_config(model)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("/no/such/directory", "is not a directory"),
        ("./nor/this", "is not a directory"),
        ("nothing.gguf", "is not a file"),
        ("pkg://no_such_package/model.gguf", "is not installed"),
        ("pkg://json/model.gguf", "has no 'model.gguf'"),
    ],
)
def test_a_name_that_leads_nowhere_is_refused_with_what_would_do(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_pretrained_config(ModelConfig(name_or_path=name))


def test_a_package_is_found_without_being_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "brittle_package"
    package.mkdir()
    (package / "__init__.py").write_text("raise ImportError('cannot be imported')")
    (package / "model").mkdir()
    (package / "model" / "config.json").write_text('{"model_type": "llama"}')
    monkeypatch.syspath_prepend(tmp_path)
    config = load_pretrained_config(ModelConfig(name_or_path="pkg://brittle_package/model"))
    assert config.model_type == "llama"


def test_dtype_follows_the_setting_else_the_hardware() -> None:
    cpu = torch.device("cpu")
    assert choose_dtype(ModelConfig(name_or_path="x"), cpu, frozen=False).value == torch.float32
    asked = ModelConfig(name_or_path="x", dtype=Dtype.bfloat16)
    assert choose_dtype(asked, cpu, frozen=True).value == torch.bfloat16


def test_an_attention_kernel_that_is_not_there_is_refused_with_one_that_is(
    make_checkpoint: MakeCheckpoint,
) -> None:
    checkpoint = make_checkpoint("llama")
    config = load_pretrained_config(checkpoint)
    plan = plan_rope(config, 64, RopeConfig())
    with pytest.raises(ConfigError, match=r"model\.attn_implementation=eager"):
        load_model(checkpoint, config, plan, attention="no_such_kernel")


def test_a_generation_config_that_could_not_be_saved_is_mended(
    make_checkpoint: MakeCheckpoint, tmp_path: Path
) -> None:
    """A temperature without sampling: save_pretrained would raise after the training."""
    checkpoint = copied(make_checkpoint("llama"), tmp_path)
    broken = GenerationConfig(bos_token_id=1, eos_token_id=2).to_dict()
    broken |= {"temperature": 0.6, "top_p": 0.9, "do_sample": False}
    (tmp_path / "generation_config.json").write_text(json.dumps(broken))
    config = load_pretrained_config(checkpoint)
    model = load_model(checkpoint, config, plan_rope(config, 64, RopeConfig()))
    model.save_pretrained(tmp_path / "saved")
    reloaded = GenerationConfig.from_pretrained(tmp_path / "saved")
    assert (reloaded.temperature, reloaded.do_sample) == (0.6, True)
