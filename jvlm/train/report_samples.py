"""The report's painted pictures: the newest of every prompt, and how a few of them came to be as training went."""

import html
import io
from collections.abc import Mapping

import numpy as np
from etils import epath

from jvlm.train.plots import png_uri

KEYS = {"sample", "prompt", "score", "rank"}
SHOWN, FOLLOWED = 120, 14
Arrays = Mapping[str, np.ndarray]


def painted(folder: epath.Path) -> dict[str, dict[int, Arrays]]:
    """What `evals.examples.painted_examples` left as `SUITE@STEP.npz`, by suite and step, ascending."""
    out: dict[str, dict[int, Arrays]] = {}
    for path in sorted(folder.glob("*@*.npz")) if folder.exists() else ():
        suite, _, step = path.stem.rpartition("@")
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as found:
            if set(found.files) >= KEYS and step.isdecimal():
                out.setdefault(suite, {})[int(step)] = {key: found[key] for key in KEYS}
    return out


def samples_section(suite: str, steps: Mapping[int, Arrays]) -> str:
    """The newest step's pictures with prompts and ranks, and a row of each step's first."""
    last = max(steps)
    newest = steps[last]
    found = int((newest["rank"] == 1).sum())
    note = f"{len(newest['prompt'])} prompts, {found} of them ranked first by the judge (framed)."
    grid = "".join(_figure(newest, at) for at in range(min(SHOWN, len(newest["prompt"]))))
    rows = "".join(_row(step, arrays) for step, arrays in sorted(steps.items())) if len(steps) > 1 else ""
    return f'<h3>{html.escape(suite)}, step {last}</h3><p>{note}</p><div class="painted">{grid}</div>' + (
        f"<h3>{html.escape(suite)}, as training went</h3>{rows}" if rows else ""
    )


def _figure(arrays: Arrays, at: int) -> str:
    prompt, rank, score = str(arrays["prompt"][at]), int(arrays["rank"][at]), float(arrays["score"][at])
    title = f"{prompt}: rank {rank}, cosine {score:.2f}"
    right = ' class="right"' if rank == 1 else ""
    return (
        f"<figure{right}>{_picture(arrays['sample'][at], title)}<figcaption>{html.escape(prompt)}</figcaption></figure>"
    )


def _row(step: int, arrays: Arrays) -> str:
    count = min(FOLLOWED, len(arrays["prompt"]))
    pictures = "".join(
        f"<figure>{_picture(arrays['sample'][at], str(arrays['prompt'][at]))}</figure>" for at in range(count)
    )
    return f'<div class="painted small"><b>step {step}</b>{pictures}</div>'


def _picture(pixels: np.ndarray, title: str) -> str:
    return f'<img src="{png_uri(pixels)}" alt="{html.escape(title)}" title="{html.escape(title)}">'
