"""The round trip at the end of a run, and sft-verify on what it left."""

from pathlib import Path

from tests.integration.trained_runs import Run, run_training


def test_every_run_ends_with_the_verdict_of_a_fresh_process(
    run_command: Run, tiny_model: Path, chat_file: Path, tmp_path: Path
) -> None:
    """LoRA on an extended rope: merged, saved, and found again as it was in memory."""
    trained = run_training(
        run_command, tiny_model, chat_file, "evaluation.verify_saved=true", "adapter=lora",
        "rope=yarn", "evaluation=none", work=tmp_path, cache=tmp_path / "cache",
    )  # fmt: skip
    verdict = trained.result.verification
    assert verdict is not None and verdict.passed, verdict
    assert "rope_parameters" not in verdict.checks["positions"].detail
    assert "a fresh process loads the model as it was trained" in trained.output
    assert "differ by" in verdict.checks["adapter"].detail, "PEFT, on the base, gives the same"
    assert (trained.directory / "adapter" / "adapter_model.safetensors").is_file()
    answer = run_command("sft-verify", "run", cwd=tmp_path)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert "against the model as it was trained" in answer.stdout
    (trained.directory / "model" / "model.safetensors").write_bytes(b"damaged")
    answer = run_command("sft-verify", "run", cwd=tmp_path)
    assert answer.returncode == 1
    assert "NOT VERIFIED" in answer.stdout
    assert run_command("sft-verify", ".", cwd=tmp_path).returncode == 2
