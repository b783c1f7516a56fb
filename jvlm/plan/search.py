"""The largest batch that fits, or the best of the meshes or remat policies: one compilation for each candidate."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ml_collections import ConfigDict

from jvlm.core.errors import ConfigError, UserError
from jvlm.core.sharding import PRESETS, batch_shards, make_mesh
from jvlm.nn.remat import REMAT
from jvlm.plan.compile import Plan, plan
from jvlm.plan.topologies import Topology
from jvlm.train.config import apply_override, to_plain

Loader = Callable[[], ConfigDict]
Report = Callable[["Candidate"], None]
MOST_COMPILATIONS = 12


@dataclass(frozen=True)
class Candidate:
    """One trial: what was set, and its plan."""

    name: str
    plan: Plan


def search(what: str, load: Loader, topology: Topology, report: Report) -> tuple[Candidate | None, list[Candidate]]:
    """The best candidate that fits (None where none does) and all of them, each reported as it is found.

    what: `batch` (the largest), `mesh` or `remat` (the highest bound on MFU; of equal ones the least memory).
    """
    found: list[Candidate] = []

    def tried(name: str, *overrides: str) -> Candidate:
        config = load()
        for override in overrides:
            apply_override(config, override)
        found.append(Candidate(name, plan(config, topology)))
        report(found[-1])
        return found[-1]

    if what == "batch":
        largest_batch(load(), topology, lambda batch: tried(str(batch), f"batch_size={batch}").plan)
    elif what == "remat":
        if "remat" not in to_plain(load())["model"]:
            raise ConfigError("--search remat needs the key model.remat in the configuration")
        for policy in REMAT:
            tried(policy, f"model.remat={policy}")
    else:
        for name, override in meshes(load(), topology):
            tried(name, override)
    return best(what, found), found


def best(what: str, candidates: list[Candidate]) -> Candidate | None:
    """The best of those that fit."""
    fitting = [c for c in candidates if c.plan.fits]
    if what == "batch":
        return max(fitting, key=lambda c: int(c.name), default=None)
    return max(fitting, key=lambda c: (c.plan.mfu_bound or 0.0, -c.plan.peak), default=None)


def largest_batch(config: ConfigDict, topology: Topology, peak_of: Callable[[int], Plan]) -> int:
    """The largest batch that fits, to one sample a device and micro-batch; 0 where none does.

    Memory grows about linearly with the batch, so each guess is where the line through the two nearest trials meets
    the capacity, inside of what is still open. After MOST_COMPILATIONS the largest that was seen to fit stands.
    """
    plain = to_plain(config)
    mesh = make_mesh((plain.get("mesh") or {}).get("shape"), topology.devices)
    unit: int = batch_shards(mesh) * plain.get("micro_batches", 1)
    peaks: dict[int, Plan] = {}

    def fits(count: int) -> bool:
        peaks[count] = peak_of(count * unit)
        return peaks[count].fits

    low, high = 0, 0  # the largest that fits, the smallest that does not (0: none known)
    count: int = max(plain["batch_size"] // unit, 1)
    for _ in range(MOST_COMPILATIONS):
        if fits(count):
            low = count
        else:
            high = count
        if high == low + 1:
            break
        count = _guess(low, high, peaks)
    return low * unit


def _guess(low: int, high: int, peaks: dict[int, Plan]) -> int:
    if len(peaks) == 1:
        return 2 * low if low else max(high // 2, 1)
    (one, first), (other, second) = sorted(peaks.items(), key=lambda item: abs(item[1].peak - item[1].capacity))[:2]
    slope = (second.peak - first.peak) / (other - one)
    if slope <= 0:
        return (low + high) // 2 if high > low + 1 else 2 * low
    guess = max(int(one + (first.capacity - first.peak) / slope), low + 1)
    return min(guess, high - 1 if high else 8 * low)


def meshes(config: ConfigDict, topology: Topology) -> Iterator[tuple[str, str]]:
    """Names of the meshes worth a trial for the slice, each with the override that sets it."""
    inside = len(topology.devices) // topology.slices
    yield _mesh("dp", data=inside)
    sizes = [2**power for power in range(1, inside.bit_length()) if inside % 2**power == 0]
    for fsdp in [size for size in sizes if size >= 4 or size == inside]:
        yield _mesh("fsdp", data=inside // fsdp, fsdp=fsdp)
    for tensor in [size for size in sizes if size <= 8]:
        fsdp = max((size for size in sizes if size * tensor <= min(inside, 64)), default=1)
        if inside % (fsdp * tensor) == 0:
            yield _mesh("fsdp_tp", data=inside // (fsdp * tensor), fsdp=fsdp, tensor=tensor)


def _mesh(preset: str, **sizes: int) -> tuple[str, str]:
    shape = {axis: size for axis, size in sizes.items() if size > 1} or {"data": 1}
    return mesh_name(preset, shape), f"mesh={dict(preset=preset, shape=shape)!r}"


def mesh_name(preset: str, shape: dict[str, int]) -> str:
    """A mesh as `--mesh` takes it: `fsdp:data=16,fsdp=16`."""
    return f"{preset}:" + ",".join(f"{axis}={size}" for axis, size in shape.items())


def mesh_override(text: str, preset: str) -> str:
    """The override for a mesh written as `[PRESET:]AXIS=N[,AXIS=N...]`; `preset` where none is given."""
    name, colon, sizes = text.rpartition(":")
    name = name if colon else preset
    if name not in PRESETS:
        raise ConfigError(f"--mesh {text!r}: no sharding preset {name!r}; valid names: {', '.join(PRESETS)}")
    try:
        shape = {axis.strip(): int(size) for axis, size in (item.split("=") for item in sizes.split(","))}
    except ValueError:
        raise ConfigError(f"--mesh {text!r} does not read like fsdp:data=16,fsdp=16") from None
    return f"mesh={dict(preset=name, shape=shape)!r}"


def nothing_fits(what: str, candidates: list[Candidate]) -> UserError:
    """The error of a search without a result, with the candidate that came closest."""
    near = min(candidates, key=lambda c: c.plan.peak)
    over = (near.plan.peak - near.plan.capacity) / 1e9
    return UserError(
        f"no {what} of {len(candidates)} fits; {near.name} comes closest, {over:.2f} GB above the capacity"
    )
