"""What the configuration becomes on the machine that it has come to."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from sft_app.common.errors import ConfigError
from sft_app.config.schema.app import AppConfig
from sft_app.training.arguments import training_arguments


@pytest.mark.parametrize(
    ("overrides", "way_out"),
    [
        (
            [
                "trainer.gradient_checkpointing=true",
                "+trainer.gradient_checkpointing_kwargs.offload=true",
            ],
            "leave it out",
        ),
        (["trainer.optim=paged_adamw_32bit"], "trainer.optim=adamw_torch_fused"),
        (["trainer.optim=paged_lion_8bit"], "trainer.optim=lion_8bit"),
    ],
)
def test_what_needs_a_gpu_is_refused_where_auto_found_none(
    compose: Callable[..., AppConfig],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    overrides: list[str],
    way_out: str,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=f"{way_out} on a machine without a GPU"):
        training_arguments(compose(*overrides), tmp_path)


def test_what_trackers_write_down_holds_no_value_of_the_environment(
    compose: Callable[..., AppConfig], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """TensorBoard's file has all arguments as text."""
    monkeypatch.setenv("WHERE", "zq7-no-secret-by-its-name")
    config = compose("+trainer.extra.run_name=${oc.env:WHERE}", "launch.device=cpu")
    shown = training_arguments(config, tmp_path).to_json_string()
    assert "zq7" not in shown
    assert "${oc.env:WHERE}" in shown
