"""(3) The chunked cross-entropy, against plain logits: time and peak memory."""

from collections.abc import Callable

import torch
from torch.nn import functional as F

from sft_app.training.loss.chunked_cross_entropy import chunked_cross_entropy
from tests.benchmarks.measuring import extra_peak_bytes, take_turns, write_table

TOKENS, HIDDEN, VOCABULARY = 4096, 256, 32_000


def main() -> None:
    rows = []
    for share in (1.0, 0.5):
        cases = make_cases(share)
        expected = cases["plain"]()
        for name, case in cases.items():
            assert abs(case() - expected) < 1e-3 * expected, name
        timings = take_turns(cases, rounds=3)
        peaks = {name: extra_peak_bytes(case) for name, case in cases.items()}
        for name, timing in timings.items():
            rows.append(
                {
                    "supervised": f"{share:.0%}",
                    "head": name,
                    "wall s": timing.wall_seconds,
                    "CPU s": timing.cpu_seconds,
                    "time of plain (CPU)": timing.cpu_seconds / timings["plain"].cpu_seconds,
                    "peak MB": round(peaks[name] / 1e6),
                    "peak of plain": peaks[name] / peaks["plain"],
                }
            )
    write_table(
        "loss_head",
        f"Loss and gradients of {TOKENS} positions x {HIDDEN} x {VOCABULARY} words, float32",
        rows,
        goal="ours at most 0.15 of plain's peak memory at no more than 1.2 times its time",
    )


def make_cases(supervised_share: float) -> dict[str, Callable[[], float]]:
    torch.manual_seed(0)
    hidden = torch.randn(TOKENS, HIDDEN, requires_grad=True)
    weight = (torch.randn(VOCABULARY, HIDDEN) * 0.05).requires_grad_()
    labels = torch.randint(VOCABULARY, (TOKENS,))
    labels[torch.rand(TOKENS) >= supervised_share] = -100

    def finish(loss: torch.Tensor) -> float:
        loss.backward()
        hidden.grad = weight.grad = None
        return loss.item()

    def plain() -> float:
        return finish(F.cross_entropy(F.linear(hidden, weight), labels, reduction="sum"))

    def chunked() -> float:
        kept = (labels != -100).nonzero().flatten()
        return finish(chunked_cross_entropy(hidden[kept], weight, labels[kept]))

    cases = {"plain": plain, "ours": chunked}
    if hasattr(F, "linear_cross_entropy"):  # torch 2.13

        def torchs() -> float:
            options = torch.nn.LinearCrossEntropyOptions()
            loss = F.linear_cross_entropy(
                hidden, weight, labels, reduction="sum", ignore_index=-100, options=options
            )
            return finish(loss)

        cases["torch linear_cross_entropy"] = torchs
    return cases


if __name__ == "__main__":
    main()
