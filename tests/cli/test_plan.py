"""`jvlm plan`: what it prints, and one line for what cannot be."""

import json

import pytest
from PIL import Image

from jvlm.cli.main import main
from jvlm.cli.plan import adapter_fields, load_settings, show
from jvlm.plan.arrays import Buffer
from jvlm.plan.compile import Plan
from jvlm.train.config import to_plain
from tests.commands import check_command
from tests.plan.slices import CLIP, MESH, needs_libtpu

SMALL = [
    "--config", "configs/clip_l14_laion_pretrain.py", "--topology", "v5e:2x4", "--batch", "512",
    f"--config.model={CLIP!r}", f"--config.mesh={dict(preset='fsdp', shape=MESH)!r}",
]  # fmt: skip


@needs_libtpu
def test_json_is_one_object_and_the_plot_is_a_picture(tmp_path, capsys) -> None:
    from resvg_py import svg_to_bytes

    assert main(["plan", *SMALL, "--json", "--plot", str(tmp_path / "memory.svg")]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["fits"] and found["chips"] == 8 and found["mesh"] == MESH
    (tmp_path / "memory.png").write_bytes(bytes(svg_to_bytes(svg_path=str(tmp_path / "memory.svg"))))
    picture = Image.open(tmp_path / "memory.png").convert("RGB")
    colours = {colour for _, colour in picture.getcolors(1 << 20) or []}
    assert {(200, 100, 60), (170, 0, 0)} <= colours  # temporaries, and the line of the limit


@needs_libtpu
def test_people_see_the_bottleneck_and_a_bound_called_a_bound(capsys) -> None:
    assert main(["plan", *SMALL]) == 0
    out = capsys.readouterr().out
    for phrase in ("parameters", "temporaries", "capacity", "all-gather", "bottleneck", "a bound, not a prediction"):
        assert phrase in out


def test_out_of_memory_is_no_error(capsys) -> None:
    buffer = Buffer(5_000_000_000, "bfloat16[24,128,257,4096]", "mlp/up")
    plan = Plan(
        topology="v5e:2x4", chips=8, mesh=MESH, params=1, kinds={"batch": 10**9}, arguments=10**9, temporaries=10**11,
        peak=101 * 10**9, capacity=16 * 10**9, compiled_flops=None, model_flops=1, moved=None, roof=None,
        compile_s=1.0, buffers=(buffer,),
    )  # fmt: skip
    show(plan, "a run")
    out = capsys.readouterr().out
    assert "does not fit: 85.00 GB too large; the largest arrays:" in out
    assert "5.00 GB  bfloat16[24,128,257,4096]  mlp/up" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--topology", "v5x:2x4"], "unknown TPU 'v5x'"),
        (["--mesh", "fsdp:data"], "does not read like"),
        (["--adapter", "lora:rank"], "has no value"),
        (["--config.model.widht=3"], "has no key 'widht'"),
        (["--search", "everything"], "invalid choice"),
    ],
)
def test_a_wrong_command_is_one_line(arguments: list[str], message: str, capsys) -> None:
    assert main(["plan", *SMALL, *arguments]) == 2
    errors = capsys.readouterr().err
    assert message in errors and len(errors.splitlines()) == 1


def test_the_command_line_sets_batch_mesh_and_adapter() -> None:
    words = ["jvlm", "plan", *SMALL, "--mesh", "dp:data=8", "--batch", "64", "--adapter", "lora:rank=4,alpha=8.0"]
    args = check_command(words)
    assert args is not None
    plain = to_plain(load_settings(args))
    assert plain["batch_size"] == 64 and plain["mesh"] == {"preset": "dp", "shape": {"data": 8}}
    assert plain["adapter"] == {"kind": "lora", "rank": 4, "alpha": 8.0}
    assert adapter_fields("dora") == {"kind": "dora"}
