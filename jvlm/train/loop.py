"""The training loop: build, restore, then for each step update, log, checkpoint, evaluate."""

import json
import os
import shutil
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
from etils import epath
from ml_collections import ConfigDict

from jvlm.checkpoint.manager import Checkpoints
from jvlm.core import sharding
from jvlm.core.errors import ConfigError, UserError
from jvlm.core.files import absolute, write_json
from jvlm.core.tree import count
from jvlm.interop.native import write_model
from jvlm.interop.pretrained import Pretrained
from jvlm.train.adapt import attach_to, based, describe, plain_target
from jvlm.train.adapter_base import start_from, trained_plain
from jvlm.train.config import check_resumable
from jvlm.train.data import make_data, make_source
from jvlm.train.evaluate import Evaluations, variables
from jvlm.train.hosts import Watch, check_alike, code_digest, compile_together, leave
from jvlm.train.pretrained import save as save_pretrained
from jvlm.train.report import write_report
from jvlm.train.setup import Run, setup
from jvlm.train.state import TrainState, initial_state, state_shardings
from jvlm.train.status import Status, StopNotice
from jvlm.train.step import make_step
from jvlm.train.writer import Terminal, Writers
from jvlm.transforms.freeze import partition


def train(config: ConfigDict, workdir: str, *, quiet: bool = False) -> dict[str, Any]:
    """Trains to `config.steps`, or goes on where `workdir` stopped; returns what `status.json` holds.

    Writes `config.json`, `model.json`, `status.json`, `metrics.jsonl`, `results.json`, `checkpoints/` and
    `report.html`. SIGTERM saves and returns with `preempted`. UserError where the work cannot go on.
    """
    folder = absolute(workdir)
    folder.mkdir(parents=True, exist_ok=True)
    status = Status(folder)
    step, began_here = 0, False
    try:
        run = setup(config)
        limit = float(os.environ.get("JVLM_HANG_SECONDS", "600"))
        with sharding.use(run.mesh, run.rules), StopNotice() as notice, Watch(limit) as watch:
            if jax.process_count() > 1:
                source = make_source(run.config["data"]).fingerprint()
                check_alike(dict(configuration=run.config, code=code_digest(), data=source))
            checkpoints = Checkpoints(folder / "checkpoints", **(run.config.get("checkpoint") or {}))
            if checkpoints.steps() and (folder / "config.json").exists():
                before = json.loads((folder / "config.json").read_text())
                changed = check_resumable(before, run.config, folder)
                if ended := whole_run(run, status, checkpoints, folder):
                    return ended
                if changed and jax.process_index() == 0:
                    print(f"jvlm train: goes on with {', '.join(changed)}", flush=True)
            state, position, counters = start(run, checkpoints)
            adapter = describe(run, folder)
            step = int(state.step)
            if jax.process_index() == 0:
                write_json(folder / "config.json", run.config)
                write_model(folder, run.model_config, run.processor, dict(adapter=adapter) if adapter else None)
            status.write("running", step)
            began_here = True
            terminal = Terminal(run.config["steps"], step, run.config["batch_size"], quiet)
            writers = Writers(tuple(run.config.get("writers") or ()), folder, step)
            data = make_data(run, position, counters)
            introduce(run, state, data.facts, writers, terminal)
            evaluations = Evaluations(run, folder)
            compiled = compile_step(run, state)
            programs: dict[Any, Any] = {}  # by the shapes of a batch
            seed = jax.random.key(run.config["seed"])
            # What is put together from parts says nothing sensible yet.
            if step == 0 and run.config["init"] and "=" not in run.config["init"]:
                evaluations.run(state, step, writers, terminal)
            waiting: tuple[int, Any] | None = None
            first = step
            while step < run.config["steps"] and not notice.asks(step):
                began = time.monotonic()
                batch = sharding.put_batch(next(data), run.mesh)
                terminal.waited(time.monotonic() - began)
                shapes = tuple((key, batch[key].shape) for key in sorted(batch))
                if shapes not in programs:
                    if programs:
                        terminal.say(f"step {step + 1}: batches of another shape, compiling it")
                    with watch.paused():
                        programs[shapes] = compile_together(compiled, len(programs), state, batch, seed)
                    first = step
                state, metrics = programs[shapes](state, batch, seed)
                step += 1
                # The metrics of the step before: waiting for this one's would leave the device idle.
                if waiting:
                    inspect(run, *waiting, writers, terminal)
                    watch.beat(waiting[0])
                    if step == first + 2:
                        terminal.rates(waiting[0])  # compiling is no part of a step's time
                waiting = (step, metrics)
                keep, look = step % run.config["checkpoint_every"] == 0, evaluations.due(step)
                if keep or look:
                    jax.block_until_ready(metrics)  # so that a collective that hangs is noticed
                    with watch.paused():
                        if keep:
                            save(run, checkpoints, state, data)
                        if look:
                            evaluations.run(state, step, writers, terminal)
            if waiting:
                inspect(run, *waiting, writers, terminal)
            save(run, checkpoints, state, data)
            checkpoints.close()
            data.close()
            if data.counters:
                left = ", ".join(f"{n} {cause}" for cause, n in sorted(data.counters.items()))
                terminal.say(f"samples without weight so far: {left}")
            if notice.reason:
                terminal.close()
                return status.write("preempted", step, notice.reason)
            export(run, state, folder)
            evaluations.finish(state, step, writers, terminal)
            ended = status.write("finished", step)
            if jax.process_index() == 0:
                write_report(folder)
            terminal.close()
            writers.close()
            return ended
    except ConfigError as error:
        # The command is wrong, not the run that may already lie in the workdir.
        if began_here:
            status.write("failed", step, str(error))
        if jax.process_index() == 0 and not any(folder.iterdir()):
            folder.rmdir()
        raise
    except BaseException as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        status.write("failed", step, reason)
        if jax.process_count() > 1:
            leave(reason)
        raise


def whole_run(run: Run, status: Status, checkpoints: Checkpoints, folder: epath.Path) -> dict[str, Any] | None:
    """What `status.json` says of a run that has come to its end, scores included; else None."""
    ended = status.read() or {}
    reached = min(ended.get("step", 0), max(checkpoints.steps()))
    if ended.get("status") != "finished" or reached < run.config["steps"]:
        return None
    if jax.process_index() == 0:
        print(f"jvlm train: {folder} has finished; give more --config.steps to go on, another --workdir to begin anew")
    return ended


def start(run: Run, checkpoints: Checkpoints) -> tuple[TrainState, int, dict[str, int]]:
    """The newest good state in the workdir or a fresh one, the position in the data, and its bad samples so far."""
    make, template = plan_state(run)
    held = None
    if checkpoints.steps() and based(run):
        held = fresh(run, make, template).frozen
        template = template.replace(frozen=None)
    if checkpoints.steps():
        restored = checkpoints.restore(template)
        for problem in restored.problems:
            print(f"jvlm train: passed over {problem}", flush=True)
        state = restored.tree if held is None else restored.tree.replace(frozen=held)
        return state, restored.meta["position"], restored.meta["counters"]
    return fresh(run, make, template), 0, {}


def fresh(run: Run, make: Callable[[jax.Array], TrainState], template: TrainState) -> TrainState:
    """The first state of a run, its parameters those of the directory that it starts from."""
    shardings = jax.tree.map(lambda x: x.sharding, template)
    state = jax.jit(make, out_shardings=shardings)(jax.random.key(run.config["seed"]))
    return adopt(run, state)


def plan_state(run: Run) -> tuple[Callable[[jax.Array], TrainState], TrainState]:
    """What makes a run's first state of a random key, and that state as shapes with their shardings."""
    make = partial(
        initial_state,
        run.task,
        run.optimizer,
        run.batch,
        frozen=run.frozen,
        quantization=run.quantization,
        adapter=run.adapter,
        average=run.config.get("average") is not None,
        window=(run.config.get("guard") or {}).get("window", 128),
    )
    abstract = jax.eval_shape(make, jax.random.key(0))
    shardings = state_shardings(abstract, run.names, run.mesh, run.rules)
    return make, jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), abstract, shardings)


def adopt(run: Run, state: TrainState) -> TrainState:
    """`state` with the parameters of the directory that the run starts from."""
    if run.source is None:
        return state
    whole = start_from(plain_target(run, state), run.source.params)
    if jax.process_index() == 0:
        print(f"jvlm train: from {run.config['init']}: {whole}", flush=True)
    params = attach_to(run, whole)
    params, frozen = partition(params, run.frozen)
    average = jax.tree.map(lambda x: x.copy(), params) if state.average is not None else None
    carried = run.source.state if run.source.state and "=" not in run.config["init"] else state.state
    return state.replace(params=params, frozen=frozen, average=average, state=carried)


def compile_step(run: Run, state: TrainState) -> Any:
    """The step under jit, the state donated and kept in its shardings."""
    step = make_step(
        run.task,
        run.optimizer,
        micro_batches=run.config.get("micro_batches", 1),
        average_decay=run.config.get("average"),
        sigmas=(run.config.get("guard") or {}).get("sigmas", 6.0),
        wide_gradients=run.config.get("gradients") == "float32",
    )
    shardings = jax.tree.map(lambda x: x.sharding, state)
    return jax.jit(step, donate_argnums=0, out_shardings=(shardings, None))


def save(run: Run, checkpoints: Checkpoints, state: TrainState, data: Any) -> None:
    """Writes the state and the position in the data that belongs to it; what an adapter's base holds is left out."""
    state = state.replace(frozen=None) if based(run) else state
    checkpoints.save(int(state.step), state, {"position": data.position, "counters": dict(data.counters)})


def export(run: Run, state: TrainState, folder: epath.Path) -> None:
    """Writes `export/` in the workdir when `config.export` names a format, replacing that of a shorter run."""
    if not run.config.get("export") or jax.process_count() > 1:
        return
    whole = variables(state)
    params = whole.pop("params")
    shutil.rmtree(folder / "export", ignore_errors=True)
    own = trained_plain(params, run.config["adapter"]) if run.adapter is not None else ()
    trained = Pretrained(run.model, params, whole, run.model_config, run.processor, {}, trained=own)
    save_pretrained(trained, str(folder / "export"), format=run.config["export"])


def introduce(
    run: Run, state: TrainState, facts: Mapping[str, float | int], writers: Writers, terminal: Terminal
) -> None:
    """Logs how many parameters are trained and held and what is known of the data; says what is odd about the run."""
    record = dict(trained=count(state.params), frozen=count(state.frozen or {}))
    writers.write(dict(step=int(state.step), **record, **{f"data/{name}": value for name, value in facts.items()}))
    if facts:
        terminal.say("data: " + "  ".join(f"{name} {value:.6g}" for name, value in facts.items()))
    steps, size = run.config["steps"], run.config["batch_size"]
    warmup = (run.config["optimizer"].get("schedule") or {}).get("warmup", 0)
    if warmup >= steps:
        terminal.say(f"the warmup of {warmup} steps is no shorter than the run: optimizer.lr is never reached")
    if run.conversations is None and facts.get("samples", size) < size:
        terminal.say(f"a batch of {size} repeats the {facts['samples']} samples: lower batch_size")
    elif facts.get("smallest_bucket", size) < size:
        smallest = facts["smallest_bucket"]
        terminal.say(f"a batch of {size} repeats the samples of a bucket that has fewer; the smallest has {smallest}")
    terminal.say(f"going on from step {int(state.step)}" if int(state.step) else "compiling the step")


def inspect(run: Run, step: int, metrics: Any, writers: Writers, terminal: Terminal) -> None:
    """Logs a step's metrics when due; stops the run after too many refused steps in a row."""
    values = {key: float(value) for key, value in jax.device_get(metrics).items()}
    limit = (run.config.get("guard") or {}).get("max_in_row", 20)
    if values["skipped_in_row"] >= limit:
        raise UserError(
            f"step {step}: {limit} updates in a row were refused (loss {values['loss']:.4g}, gradient norm "
            f"{values['grad_norm']:.4g}); lower optimizer.lr or look at the data"
        )
    if step % run.config["log_every"] == 0 or step == run.config["steps"]:
        record = dict(step=step, **values, lr=float(jax.device_get(run.schedule(step - 1))), **terminal.rates(step))
        writers.write(record)
        terminal.show(step, record)
