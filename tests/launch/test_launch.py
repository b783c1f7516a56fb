"""The launch scripts: shellcheck, what they would do, and when a run is started again."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.commands import ROOT, check_command

LAUNCH = ROOT / "launch"
SCRIPTS = sorted(path.name for path in LAUNCH.glob("*.sh") if path.name != "common.sh")
CLOUD = [name for name in SCRIPTS if name != "local.sh"]
CONFIG = "configs/clip_l14_laion_pretrain.py"
OPTIONS = ["--name", "run1", "--zone", "z", "--topology", "v5e:16x16", "--config", CONFIG, "--workdir", "gs://b/x"]


def launch(name: str, *arguments: str, path: Path | None = None, **variables: str) -> subprocess.CompletedProcess[str]:
    """Runs a script with nothing but the folder `path` before the system's commands."""
    env = {"PATH": f"{path}:/usr/bin:/bin" if path else "/usr/bin:/bin", "HOME": "/tmp"} | variables
    return subprocess.run(
        [str(LAUNCH / name), *arguments], capture_output=True, text=True, env=env, timeout=60, check=False
    )


def options_for(name: str) -> list[str]:
    return [*OPTIONS, *(["--slices", "4"] if name == "multislice.sh" else [])]


def commands(output: str) -> list[list[str]]:
    """The commands that a script printed, in words."""
    return [shlex.split(line[2:]) for line in output.splitlines() if line.startswith("+ ")]


def fake(folder: Path, name: str, script: str) -> Path:
    """A command `name` in `folder` that runs `script` instead."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/bash\n{script}\n")
    (folder / name).chmod(0o755)
    return folder


def test_shellcheck_has_nothing_to_say() -> None:
    shellcheck = Path(sys.executable).with_name("shellcheck")
    done = subprocess.run([shellcheck, "-x", *sorted(LAUNCH.glob("*.sh"))], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert all(os.access(LAUNCH / name, os.X_OK) for name in SCRIPTS)


@pytest.mark.parametrize("name", CLOUD)
def test_a_dry_run_prints_every_step_and_does_none(name: str, tmp_path: Path) -> None:
    marker = tmp_path / "called"
    tools = fake(tmp_path / "bin", "gcloud", f"touch {marker}")
    done = launch(name, "--dry-run", *options_for(name), "--config.data.paths=gs://b/*.tar", path=tools)
    assert done.returncode == 0, done.stderr
    assert not marker.exists() and not list(tmp_path.glob("*.tar.gz"))
    steps = commands(done.stdout)
    verbs = [next(word for word in step if word in ("create", "archive", "scp", "ssh", "delete")) for step in steps]
    assert verbs == ["create", "archive", "scp", "ssh", "ssh", "delete"]
    assert "v5litepod-256" in steps[0]
    (command,) = [word.removeprefix("--command=") for word in steps[4] if word.startswith("--command=")]
    words = shlex.split(command.partition("bin/")[2])
    args = check_command(words)
    assert args is not None and args.config == CONFIG and args.workdir == "gs://b/x"
    assert args.overrides == ["data.paths=gs://b/*.tar"]
    assert "JVLM_DISTRIBUTED=auto" in command
    install = " ".join(steps[3])
    assert re.search(r"pip install .*\[tpu,gcs\]", install)
    assert ("--node-count" in steps[0]) == (name == "multislice.sh")
    assert ("--spot" in steps[0]) == (name == "spot.sh")


@pytest.mark.parametrize(
    ("topology", "accelerator"),
    [("v4:2x2x4", "v4-32"), ("v5e:2x4", "v5litepod-8"), ("v5p:8x8x16", "v5p-2048"), ("v6e:4x4", "v6e-16")],
)
def test_topologies_have_the_names_of_cloud_tpu(topology: str, accelerator: str) -> None:
    done = launch("queued.sh", "--dry-run", *OPTIONS, "--topology", topology)
    assert accelerator in commands(done.stdout)[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--topology", "v9:2x2"], "Cloud TPU offers"),
        (["--topology", "v5e"], "does not read like"),
        (["--workdir", "runs/x"], "must be on gs://"),
        (["--slices", "0"], "must be a number"),
        (["--zone", ""], "--zone is missing"),
        (["--bogus"], "unknown argument --bogus"),
        (["--name"], "--name needs a value"),
    ],
)
def test_a_wrong_option_is_named_before_anything_is_created(arguments: list[str], message: str) -> None:
    done = launch("spot.sh", *OPTIONS, *arguments)
    assert done.returncode == 2 and message in done.stderr
    assert len(done.stderr.splitlines()) == 1 and not done.stdout


@pytest.mark.parametrize("name", SCRIPTS)
def test_help_shows_an_example(name: str) -> None:
    done = launch(name, "--help")
    assert done.returncode == 0 and f"launch/{name} " in done.stdout and "--dry-run" in done.stdout


# The state of a request is ACTIVE; `ssh` that trains writes what status.json would say by then.
_GCLOUD = """
case "$*" in
  *describe*) echo ACTIVE ;;
  *"storage cat"*) cat {folder}/status.json ;;
  *"jvlm train"*)
    echo train >> {folder}/log
    sed -n "$(wc -l < {folder}/log)p" {folder}/ends > {folder}/status.json ;;
  *) printf '%s\\n' "$*" | grep -oE 'create|delete' >> {folder}/requests || true ;;
esac
"""


def ends(folder: Path, *statuses: str) -> None:
    lines = [f'{{"status": "{status}", "step": 1, "reason": ""}}' for status in statuses]
    (folder / "ends").write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize(("last", "code"), [("finished", 0), ("failed", 1)])
def test_spot_starts_again_until_the_run_is_over(last: str, code: int, tmp_path: Path) -> None:
    ends(tmp_path, "running", "preempted", last, "finished")
    tools = fake(tmp_path / "bin", "gcloud", _GCLOUD.format(folder=tmp_path))
    fake(tools, "git", "exit 0")
    done = launch("spot.sh", *OPTIONS, path=tools, PAUSE="0")
    assert done.returncode == code, done.stderr
    assert (tmp_path / "log").read_text().split() == ["train"] * 3
    assert (tmp_path / "requests").read_text().split() == ["create", "delete"] * 3


def test_spot_leaves_a_finished_run_alone(tmp_path: Path) -> None:
    ends(tmp_path, "finished")
    (tmp_path / "status.json").write_text('{"status": "finished", "step": 1, "reason": ""}')
    tools = fake(tmp_path / "bin", "gcloud", _GCLOUD.format(folder=tmp_path))
    assert launch("spot.sh", *OPTIONS, path=tools).returncode == 0
    assert not (tmp_path / "requests").exists()


@pytest.mark.parametrize("name", ["queued.sh", "multislice.sh", "tpu_pod.sh"])
def test_a_slice_is_given_back_when_a_step_fails(name: str, tmp_path: Path) -> None:
    log = tmp_path / "log"
    script = f'echo "$*" >> {log}; case "$*" in *scp*) exit 7 ;; *describe*) echo ACTIVE ;; esac'
    tools = fake(tmp_path / "bin", "gcloud", script)
    fake(tools, "git", "exit 0")
    assert launch(name, *options_for(name), path=tools).returncode == 7
    assert "delete" in log.read_text().splitlines()[-1]
    log.unlink()
    assert launch(name, *options_for(name), "--keep", path=tools).returncode == 7
    assert "delete" not in log.read_text()


@pytest.mark.parametrize(("last", "code"), [("finished", 0), ("failed", 1)])
def test_local_starts_again_until_the_run_is_over(last: str, code: int, tmp_path: Path) -> None:
    ends(tmp_path, "running", "preempted", last)
    body = f"""
echo train >> {tmp_path}/log
sed -n "$(wc -l < {tmp_path}/log)p" {tmp_path}/ends > {tmp_path}/status.json
[ "$(wc -l < {tmp_path}/log)" = 2 ] && exit 0
exit {code if last == "failed" else 0}
"""
    tools = fake(tmp_path / "bin", "jvlm", body)
    done = launch("local.sh", "--config", CONFIG, "--workdir", str(tmp_path), path=tools, PAUSE="0")
    assert done.returncode == code
    assert (tmp_path / "log").read_text().split() == ["train"] * 3


def test_local_does_not_repeat_a_wrong_command(tmp_path: Path) -> None:
    tools = fake(tmp_path / "bin", "jvlm", f"echo train >> {tmp_path}/log; exit 2")
    done = launch("local.sh", "--config", "nothing.py", "--workdir", str(tmp_path), path=tools, PAUSE="0")
    assert done.returncode == 2 and (tmp_path / "log").read_text().split() == ["train"]


def test_the_commands_of_the_readme_parse() -> None:
    text = (LAUNCH / "README.md").read_text()
    lines = re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    for line in "".join(lines).replace("\\\n", " ").splitlines():
        words = shlex.split(line.partition(" > ")[0].partition(" < ")[0])
        if words[0] in ("jvlm", "make"):
            check_command(words)
        elif words[0].startswith("launch/"):
            done = launch(Path(words[0]).name, *words[1:])
            assert done.returncode == 0, done.stderr


def test_the_cost_is_steps_times_work_over_rate() -> None:
    plan = '{"fits": true, "mfu_bound": 0.5, "flops": {"model": 197e12}, "topology": "v5e:2x4", "chips": 8}'
    command = [sys.executable, str(LAUNCH / "cost.py"), "--steps", "1800", "--price", "1.5"]
    done = subprocess.run(command, input=plan, capture_output=True, text=True, check=False)
    assert done.stdout == "at least 1.0 hours, at least 12 at 1.5 per chip and hour\n", done.stderr
    done = subprocess.run([*command, "--mfu", "0.25"], input=plan, capture_output=True, text=True, check=False)
    assert done.stdout == "2.0 hours, 24 at 1.5 per chip and hour\n"
    unfit = plan.replace("true", "false")
    done = subprocess.run(command, input=unfit, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and done.stderr == "cost.py: the step does not fit, so it has no price\n"
