"""A wrong key or option is answered with the nearest right one."""

import pytest

from sft_app.common.errors import ConfigError
from sft_app.config.overrides import check_overrides, open_dict_overrides


@pytest.mark.parametrize(
    ("override", "suggestion"),
    [
        ("trainer.lerning_rate=1", "trainer.learning_rate"),
        ("learning_rate=1", "trainer.learning_rate"),
        ("contxt_length=1", "context_length"),
        ("rope=yarnn", "rope=yarn"),
        ("+model.revison=x", "model.revision"),
        ("rope=linear,yarnn", "rope=yarn"),
        ("trainer.nonsense=1", "trainer.extra"),
        ("model.zzz=1", "name_or_path"),
        ("sweep.zzz=1", "name"),
    ],
)
def test_did_you_mean(override: str, suggestion: str) -> None:
    with pytest.raises(ConfigError, match=suggestion):
        check_overrides([override])


@pytest.mark.parametrize(
    "override",
    [
        "context_length=4096,8192",
        "rope=glob(*)",
        "rope=linear,yarn",
        "experiment=null",
        "hydra.run.dir=/somewhere",
        "trainer.extra.label_smoothing_factor=0.1",
        "data.train=[{path: a.json, weight: 1.0}]",
        "~experiment",
        "--cfg",
        "not an override",
    ],
)
def test_what_hydra_understands_passes(override: str) -> None:
    check_overrides([override])


def test_options_of_a_users_own_folder_are_left_to_hydra() -> None:
    check_overrides(["--config-dir=mine", "rope=my_own"])


def test_an_open_dictionary_takes_new_keys_without_a_plus() -> None:
    given = ["trainer.extra.debug=x", "trainer.extra={debug: x}", "trainer.extras=1", "seed=1"]
    wanted = ["++trainer.extra.debug=x", "++trainer.extra={debug: x}", "trainer.extras=1", "seed=1"]
    assert open_dict_overrides(given) == wanted
