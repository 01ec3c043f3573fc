"""liger-kernel's head keeps our contract, run by Triton's interpreter where there is no GPU."""

import importlib.util
from importlib.metadata import version

import pytest
import torch
from packaging.version import Version

from sft_app.common.errors import ConfigError
from sft_app.config.schema.trainer import LossHead
from sft_app.training.loss import choose_loss
from sft_app.training.loss import patched_forward as loss_module
from sft_app.training.loss.choose_loss import LossPlan, plan_loss
from sft_app.training.loss.patched_forward import install_chunked_loss
from tests.programs import run_program

INSTALLED = importlib.util.find_spec("liger_kernel") is not None
# Older interpreters of Triton fail with NumPy 2.4.
CAN_INTERPRET = INSTALLED and Version(version("triton")) >= Version("3.9")


@pytest.mark.slow
@pytest.mark.skipif(not CAN_INTERPRET, reason="needs sft-app[fused] and triton 3.9")
def test_it_equals_the_plain_head() -> None:
    program = "tests.training.loss.liger_in_the_interpreter"
    printed = run_program("-m", program, env={"TRITON_INTERPRET": "1"}, timeout=300)
    for held in (
        "loss and gradients equal, with_bias=False",
        "loss and gradients equal, with_bias=True",
        "frozen parts have no gradient",
        "no positions, no loss",
        "autocast equal",
        "model equal: loss            liger-kernel's fused linear cross-entropy",
    ):
        assert held in printed


@pytest.fixture
def liger_is(monkeypatch: pytest.MonkeyPatch):
    def install(installed: bool) -> None:
        monkeypatch.setattr(choose_loss, "is_installed", lambda name: installed)

    return install


def test_auto_takes_liger_on_a_gpu_where_it_is_installed(random_model, liger_is) -> None:
    pretrained = random_model("llama").config
    liger_is(True)
    assert plan_loss(LossHead.auto, pretrained, "cuda").head is LossHead.liger
    assert plan_loss(LossHead.auto, pretrained, "cpu").head is LossHead.chunked
    liger_is(False)
    plan = plan_loss(LossHead.auto, pretrained, "cuda")
    assert plan.head is LossHead.chunked
    assert "sft-app[fused]" in plan.reason


@pytest.mark.parametrize(
    ("family", "settings"), [("gemma2", {"final_logit_softcapping": 2.0}), ("cohere", {})]
)
def test_logits_that_are_scaled_or_capped_stay_with_the_chunked_cross_entropy(
    random_model, liger_is, family, settings
) -> None:
    pretrained = random_model(family, **settings).config
    liger_is(True)
    assert plan_loss(LossHead.auto, pretrained, "cuda").head is LossHead.chunked
    with pytest.raises(ConfigError, match=r"trainer\.loss_head=liger .* soft-caps its logits"):
        plan_loss(LossHead.liger, pretrained, "cuda")


def test_liger_asked_for_without_a_gpu_is_refused_before_weights_are_loaded(random_model) -> None:
    with pytest.raises(ConfigError, match="runs on cpu; leave it out"):
        plan_loss(LossHead.liger, random_model("llama").config, "cpu")


def test_a_fused_head_that_is_wrong_is_replaced_or_refused(random_model, monkeypatch) -> None:
    def wrong(hidden, weight, targets, bias=None):
        return hidden.float().sum() + 1.0

    monkeypatch.setattr(loss_module, "liger_cross_entropy", wrong)
    choice = install_chunked_loss(random_model("llama"), LossPlan(LossHead.liger, "installed"))
    assert choice.head is LossHead.chunked
    assert "the loss of liger-kernel's fused linear cross-entropy differs by" in str(choice)
    asked = LossPlan(LossHead.liger, "asked", asked_for=True)
    with pytest.raises(ConfigError, match=r"trainer\.loss_head=liger cannot be used here"):
        install_chunked_loss(random_model("llama"), asked)


def test_the_models_own_loss_can_be_asked_for(random_model) -> None:
    model = random_model("llama")
    plan = plan_loss(LossHead.model, model.config, "cpu")
    assert install_chunked_loss(model, plan).head is LossHead.model
    tokens = torch.arange(3, 15)[None]
    assert model(tokens, labels=tokens).logits is not None
