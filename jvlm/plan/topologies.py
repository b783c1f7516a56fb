"""TPU slices by name, as the compiler sees them without one at hand, and what their chips can do at most."""

import contextlib
import importlib.util
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Any

from jvlm.core.errors import ConfigError, UserError, nearest

GIB = 2**30

ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",  # no metadata server answers outside of a TPU VM
    "JAX_PLATFORMS": "cpu",  # compiling for a TPU must not look for one
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # two plans at a time on one machine
    "TPU_LOG_DIR": "disabled",
}
"""What lets libtpu compile on a machine without a TPU; to be set before jax is imported."""


@dataclass(frozen=True)
class Chip:
    """Peaks of one chip, as published: ceilings, never to be reached.

    memory: bytes. flops: bfloat16 products per second. memory_rate, link_rate (all links of the chip together, one
    direction) and network_rate (its share of the data-center network; None where nothing is published): bytes/s.
    axes: of the torus. cores: devices that jax shows for a chip.
    """

    memory: int
    flops: float
    memory_rate: float
    link_rate: float
    network_rate: float | None
    axes: int
    cores: int = 1


CHIPS: dict[str, Chip] = {
    # docs.cloud.google.com/tpu/docs/v4; links after arXiv:2304.01433, table 4: 6 of 50 GB/s
    "v4": Chip(32 * GIB, 275e12, 1228e9, 300e9, None, 3),
    # docs.cloud.google.com/tpu/docs/v5e: 400 GB/s both ways, 6.4 Tbit/s of network for a pod of 256
    "v5e": Chip(16 * GIB, 197e12, 819e9, 200e9, 3.125e9, 2),
    # docs.cloud.google.com/tpu/docs/v5p: 1,200 GB/s both ways, 50 Gbit/s of network
    "v5p": Chip(95 * GIB, 459e12, 2765e9, 600e9, 6.25e9, 3),
    # docs.cloud.google.com/tpu/docs/v6e: 800 GB/s both ways, 25.6 Tbit/s of network for a pod of 256
    "v6e": Chip(32 * GIB, 918e12, 1640e9, 400e9, 12.5e9, 2),
    # docs.cloud.google.com/tpu/docs/tpu7x: 1,200 GB/s both ways
    "tpu7x": Chip(192 * GIB, 2307e12, 7380e9, 600e9, None, 3, cores=2),
}


@dataclass(frozen=True)
class Topology:
    """A slice, or several of them joined by the data-center network."""

    name: str
    kind: str
    shape: tuple[int, ...]
    slices: int
    devices: tuple[Any, ...]

    @property
    def chip(self) -> Chip:
        return CHIPS[self.kind]

    @property
    def chips(self) -> int:
        return self.slices * prod(self.shape)


def parse(name: str) -> tuple[int, str, tuple[int, ...]]:
    """(slices, kind, shape) of a name such as `v5e:16x16` or, of four slices, `4xv5e:16x16`.

    ConfigError for a name of another form, an unknown kind, or a shape with the wrong number of axes.
    """
    match = re.fullmatch(r"(?:(\d+)x)?([a-z]\w*):(\d+(?:x\d+)*)", name)
    if match is None:
        raise ConfigError(f"topology {name!r} does not read like v5e:16x16, v5p:8x8x16 or, with slices, 4xv5e:16x16")
    kind, shape = match.group(2), tuple(int(n) for n in match.group(3).split("x"))
    if kind not in CHIPS:
        raise ConfigError(f"topology {name!r}: unknown TPU {kind!r}; {nearest(kind, CHIPS)}")
    axes = CHIPS[kind].axes
    if len(shape) != axes:
        raise ConfigError(f"topology {name!r}: a {kind} slice has {axes} axes, such as {kind}:{'x'.join('4' * axes)}")
    slices = int(match.group(1) or 1)
    if not slices or not all(shape):
        raise ConfigError(f"topology {name!r} has no chips; every number is 1 or more")
    return slices, kind, shape


def describe(name: str) -> Topology:
    """The slice called `name`, with devices that a program can be compiled for but not run on.

    UserError without libtpu, ConfigError for a slice that libtpu refuses.
    """
    slices, kind, shape = parse(name)
    if importlib.util.find_spec("libtpu") is None:
        raise UserError("compiling for a TPU needs libtpu, which is not installed: pip install jvlm[tpu]")
    os.environ.update({key: value for key, value in ENVIRONMENT.items() if key != "JAX_PLATFORMS"})

    import jax
    from jax.experimental import topologies

    options: dict[str, Any] = {"num_slices": slices} if slices > 1 else {}
    if prod(shape) == 1:
        options["chips_per_host_bounds"] = [1, 1, 1]
    if kind == "v4":
        options["chip_config_name"] = "megacore"  # as on a real one: the two cores of a chip are one device
    try:
        found = topologies.get_topology_desc(
            platform="tpu", topology_name=f"{kind}:{'x'.join(map(str, shape))}", **options
        )
    except jax.errors.JaxRuntimeError as error:
        reason = " ".join(str(error).split())[:160]
        raise ConfigError(f"topology {name!r} is no slice that libtpu knows: {reason}") from None
    return Topology(name, kind, shape, slices, tuple(found.devices))


@contextlib.contextmanager
def uncached() -> Iterator[None]:
    """Compiles without the persistent cache: what is made for a slice that is not there cannot be read back from it."""
    import jax
    from jax.experimental.compilation_cache import compilation_cache

    def switch(on: bool) -> None:
        jax.config.update("jax_enable_compilation_cache", on)
        compilation_cache.reset_cache()

    switch(False)
    try:
        yield
    finally:
        switch(True)
