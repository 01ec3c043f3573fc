"""Folders of a sweep's jobs: one plain name each, the same for the same settings."""

from sft_app.config.job_folders import folder_name, keys_left_out, sweep_dir


def test_a_named_sweep_has_a_fixed_place_and_an_unnamed_one_a_new_one() -> None:
    assert sweep_dir("lengths", "2026-11-21/10-00-00") == "outputs/sweeps/lengths"
    assert sweep_dir(None, "2026-11-21/10-00-00") == "outputs/multirun/2026-11-21/10-00-00"


def test_plain_settings_are_the_name() -> None:
    assert folder_name("context_length-4096_rope-yarn_seed-1") == (
        "context_length-4096_rope-yarn_seed-1"
    )


def test_commas_and_slashes_make_no_folders_and_no_collisions() -> None:
    one, other = folder_name("model-/data/a,b"), folder_name("model-/data/a/b")
    assert one != other
    assert not set("/, ") & set(one + other)


def test_long_settings_are_cut_and_stay_distinct() -> None:
    one, other = folder_name("x" * 400 + "1"), folder_name("x" * 400 + "2")
    assert one != other
    assert max(len(one), len(other)) < 200


def test_what_is_the_same_for_all_jobs_names_no_folder_unless_it_is_a_choice() -> None:
    fixed = ["data.train", "rope", "context_length", "trainer.max_steps"]
    assert keys_left_out(fixed, groups=["rope"]) == ["data.train", "trainer.max_steps"]
