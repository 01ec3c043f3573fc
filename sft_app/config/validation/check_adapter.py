"""What the adapter group can ask for and this application, or this installation, cannot do."""

from sft_app.common.errors import ConfigError
from sft_app.common.processes import is_installed
from sft_app.config.schema.adapter import AdapterConfig, AdapterMethod
from sft_app.config.schema.app import AppConfig
from sft_app.config.schema.trainer import Parallelism

PACKAGES = {
    AdapterMethod.none: (),
    AdapterMethod.lora: ("peft",),
    AdapterMethod.qlora: ("peft", "bitsandbytes"),
}


def check_adapter(config: AppConfig) -> None:
    """Raise ConfigError for what is refused, has no effect, or needs a missing package."""
    method = config.adapter.method
    if method is not AdapterMethod.qlora:
        _check_no_quantisation(config.adapter)
    elif config.trainer.parallelism is Parallelism.fsdp:
        raise ConfigError(
            "adapter.method=qlora with trainer.parallelism=fsdp is refused: weights in 4 bits are "
            "not sharded here. Use trainer.parallelism=ddp, or adapter=lora."
        )
    for package in PACKAGES[method]:
        if not is_installed(package):
            raise ConfigError(
                f"adapter.method={method} needs {package}, which is not installed: pip install "
                f"'sft-app[{method}]', or leave the adapter out."
            )


def _check_no_quantisation(adapter: AdapterConfig) -> None:
    default = AdapterConfig()
    for name in ("quantization", "double_quantization"):
        if getattr(adapter, name) != getattr(default, name):
            raise ConfigError(
                f"adapter.{name}={getattr(adapter, name)} has no effect with "
                f"adapter.method={adapter.method}: choose adapter=qlora, or leave it out."
            )
