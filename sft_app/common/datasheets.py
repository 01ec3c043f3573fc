"""What the makers of GPUs state about them: for utilisation, and for planning without one."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Datasheet:
    """One card."""

    name: str
    """As it stands in torch.cuda.get_device_name()."""
    tflops: float
    """Dense bfloat16 matrix products with float32 accumulation."""
    gigabytes: int
    """Memory of its largest version, in units of 10^9 bytes."""

    @property
    def key(self) -> str:
        """Return the name as `plan.gpu` takes it, such as h100-pcie."""
        return self.name.lower().replace(" ", "-")

    @property
    def memory(self) -> int:
        """Return bytes; what a card has beyond its round number is left to the driver."""
        return self.gigabytes * 10**9


DATASHEETS = (
    # NVIDIA's and AMD's datasheets, halved where they state it with sparsity. The first name found
    # in a device's name counts, so the special come first. A GPU of a GB200 or GB300 may draw more
    # power than the B200 or B300 of an HGX board.
    Datasheet("GB300", 2500.0, 279),
    Datasheet("B300", 2250.0, 270),
    Datasheet("GB200", 2500.0, 186),
    Datasheet("B200", 2250.0, 180),
    Datasheet("GH200", 989.4, 96),
    Datasheet("H200 NVL", 835.5, 141),
    Datasheet("H200", 989.4, 141),
    Datasheet("H100 PCIe", 756.0, 80),
    Datasheet("H100 NVL", 835.5, 94),
    Datasheet("H100", 989.4, 80),
    Datasheet("H800", 989.4, 80),
    Datasheet("H20", 148.0, 141),
    Datasheet("A100", 312.0, 80),
    Datasheet("A800", 312.0, 80),
    Datasheet("L40S", 362.05, 48),
    Datasheet("L40", 181.05, 48),
    Datasheet("L20", 119.5, 48),
    Datasheet("L4", 121.0, 24),
    Datasheet("A40", 149.7, 48),
    Datasheet("A30", 165.0, 24),
    Datasheet("A10G", 70.0, 24),
    Datasheet("A10", 125.0, 24),
    Datasheet("RTX PRO 6000 Blackwell", 503.8, 96),
    Datasheet("RTX 6000 Ada", 364.2, 48),
    Datasheet("RTX A6000", 154.8, 48),
    Datasheet("RTX 5090", 209.5, 32),
    Datasheet("RTX 4090", 165.2, 24),
    Datasheet("RTX 3090", 71.0, 24),
    Datasheet("MI355X", 2516.6, 288),
    Datasheet("MI350X", 2306.9, 288),
    Datasheet("MI325X", 1307.4, 256),
    Datasheet("MI300X", 1307.4, 192),
)
BY_KEY = {sheet.key: sheet for sheet in DATASHEETS}
