"""Writes the tables of README.md that say what jvlm knows, from the dicts that say it to the program.

    python scripts/readme_tables.py

A test fails while README.md differs from what this writes.
"""

from pathlib import Path

from jvlm.data import DATASETS
from jvlm.evals import EVALUATORS
from jvlm.interop.diffusers import TABLES as DIFFUSERS
from jvlm.interop.diffusers.directory import PIPELINES
from jvlm.interop.hf import TABLES
from jvlm.interop.open_clip_directory import TABLES as OPEN_CLIP
from jvlm.models import MODELS
from jvlm.tasks import TASKS
from jvlm.train.optim import OPTIMIZERS
from jvlm.train.pretrained import FORMATS
from jvlm.transforms.methods import ADAPTERS

README = Path(__file__).resolve().parents[1] / "README.md"
BEGIN, END = "<!-- families -->\n", "<!-- /families -->"


def families() -> str:
    """The families with their published sizes and formats, and the names that a configuration may use."""
    lines = ["| family | published sizes | transformers | diffusers | open_clip |", "|---|---|---|---|---|"]
    for name, family in MODELS.items():
        types = [f"`{kind}`" for kind, table in TABLES.items() if table.family == name]
        painted = [f"`{kind}`" for kind, table in DIFFUSERS.items() if table.family == name]
        painted += [f"`{kind}`" for kind in PIPELINES if name == "latent-diffusion"]
        other = "yes" if name in OPEN_CLIP else ""
        columns = [f"`{name}`", ", ".join(family.variants), ", ".join(types), ", ".join(painted), other]
        lines.append(f"| {' | '.join(columns)} |")
    names = {
        "Training objectives": TASKS,
        "Optimizers": OPTIMIZERS,
        "Adapters": ADAPTERS,
        "Data sources": DATASETS,
        "Evaluators": EVALUATORS,
        "Formats that `jvlm export` writes": FORMATS,
    }
    lines.append("")
    lines += [f"- {what}: {', '.join(f'`{name}`' for name in table)}" for what, table in names.items()]
    return "\n".join(lines) + "\n"


def with_tables(text: str) -> str:
    """`text` with what stands between the markers renewed. ValueError when a marker is missing."""
    before, after = text.index(BEGIN) + len(BEGIN), text.index(END)
    return text[:before] + families() + text[after:]


if __name__ == "__main__":
    README.write_text(with_tables(README.read_text()))
