"""A secret on a command line, or in a file, would be written into the files of the run."""

from sft_app.common.errors import ConfigError
from sft_app.common.secrets import is_secret_key, is_secret_value
from sft_app.config.schema.app import AppConfig
from sft_app.config.schema.from_environment import FromEnvironment, texts_by_key


def check_secrets(config: AppConfig) -> None:
    """Raise ConfigError for the first secret that does not come from the environment."""
    for key, value in texts_by_key(config):
        if not value or isinstance(value, FromEnvironment):
            continue
        if is_secret_key(key) or is_secret_value(value):
            raise ConfigError(
                f"{key}=(hidden) is a secret, and what is typed stands in the files of the run and "
                "in the list of processes: put it into the environment, and write "
                f"'{key}=${{oc.env:NAME}}' with the variable's name."
            )
