"""Two ranks take the step that one process takes."""

from pathlib import Path

from tests.programs import run_on_ranks


def test_ddp_and_fsdp2_equal_one_process(tmp_path: Path) -> None:
    printed = run_on_ranks(2, "tests.training.parallel.two_ranks", str(tmp_path))
    for rank in (0, 1):
        assert f"rank {rank}: DDP equals one process" in printed
        assert f"rank {rank}: conversations equal one process" in printed
        assert f"rank {rank}: conversations in shards equal one process" in printed
        assert f"rank {rank}: FSDP2 equals one process, shard_head=False" in printed
        assert f"rank {rank}: FSDP2 equals one process, shard_head=True" in printed
