"""One node's part of a job with several worker processes: torch elastic starts and watches them.

A process of its own, so that the one that composed the configuration never imports torch.
"""

import argparse
import logging
import signal
import sys
from pathlib import Path

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from sft_app.common.console import RUN, guard_console
from sft_app.records.failure import record_death


def main() -> None:
    """Run this node's workers; exit as the first that failed did."""
    guard_console(RUN)
    arguments = parse_arguments()
    # The parent reports the root cause from the workers' own records; elastic's log of each
    # signal and its failure table would bury it.
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    config = LaunchConfig(
        min_nodes=arguments.nnodes,
        max_nodes=arguments.nnodes,
        nproc_per_node=arguments.nproc_per_node,
        run_id=arguments.run_id,
        rdzv_backend="static" if arguments.nnodes > 1 else "c10d",
        rdzv_endpoint=arguments.rdzv_endpoint,
        rdzv_configs={"rank": arguments.node_rank, "timeout": arguments.rdzv_timeout},
        local_addr="127.0.0.1" if arguments.nnodes == 1 else None,
        max_restarts=0,
        # torch >= 2.12 has shutdown_timeout as a field, too; the variable works in all versions.
    )
    try:
        elastic_launch(config, sys.executable)("-m", arguments.module, arguments.config)
    except ChildFailedError as failure:
        for rank, failed in failure.failures.items():
            if failed.exitcode < 0 and -failed.exitcode != signal.SIGTERM:
                record_death(Path(arguments.config).parent, rank=rank, signum=-failed.exitcode)
        exit_code = failure.get_first_failure()[1].exitcode
        sys.exit(exit_code if exit_code > 0 else 128 - exit_code)  # as a shell tells of a signal
    except SignalException as interruption:
        sys.exit(128 + int(interruption.sigval))


def parse_arguments() -> argparse.Namespace:
    """Read the command line, which run_job.py writes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", help="the resolved config.yaml of the run")
    parser.add_argument("--module", default="sft_app.training.worker", help="what a worker runs")
    parser.add_argument("--nproc-per-node", type=int, required=True)
    parser.add_argument("--nnodes", type=int, default=1)
    parser.add_argument("--node-rank", type=int, default=0)
    parser.add_argument("--rdzv-endpoint", required=True)
    parser.add_argument("--rdzv-timeout", type=int, default=900)
    parser.add_argument("--run-id", required=True)
    return parser.parse_args()


if __name__ == "__main__":
    main()
