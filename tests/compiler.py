"""How the tests compile."""

QUICK = (
    "--xla_backend_optimization_level=0",
    "--xla_cpu_parallel_codegen_split_count=1",
    "--xla_cpu_use_fusion_emitters=false",
)
"""Flags of XLA: unoptimized code, each program in one part, fusions written the plain way. Most of a test's time is
spent compiling what runs once on a handful of numbers, and this compiles in a third of the time."""
USUAL = {"xla_backend_optimization_level": 3, "xla_cpu_use_fusion_emitters": True}
"""Compiler options of one program that is to be compiled as users compile it."""


def flags(devices: int, quick: tuple[str, ...] = QUICK) -> str:
    """`XLA_FLAGS` of a process with that many CPU devices.

    Eight of them on a busy core may wait three times as long for each other before XLA aborts the process.
    """
    wait = "--xla_cpu_collective_call_terminate_timeout_seconds=120"
    return " ".join([f"--xla_force_host_platform_device_count={devices}", *quick, wait])
