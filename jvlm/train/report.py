"""`report.html` of a workdir: one file that needs nothing else, from what the run has written."""

import html
import io
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from jvlm.core.files import absolute, write_atomic
from jvlm.evals.metrics import shown
from jvlm.train.plots import Series, line_chart, number, smooth
from jvlm.train.report_retrieval import retrieval_section
from jvlm.train.report_samples import painted, samples_section
from jvlm.train.report_style import STYLE

# Curves that a report always shows first: key of metrics.jsonl, title, label of its axis.
CURVES = (
    ("loss", "Loss", "loss"),
    ("lr", "Learning rate", "learning rate"),
    ("scale", "Scale of the logits", "scale"),
    ("images_per_second", "Throughput", "images / s"),
    ("grad_norm", "Gradient norm", "gradient norm"),
    ("data_wait", "Waiting for data", "share of the time"),
)
# What every step records but no curve of its own needs.
_SILENT = {"step", "accepted", "skipped", "skipped_in_row", "step_seconds", "trained", "frozen"}
_PIXELS = "_pixels"


def write_report(workdir: epath.PathLike) -> epath.Path:
    """Writes `workdir/report.html` and returns its path.

    Read are `config.json`, `status.json`, `metrics.jsonl`, `results.json` and `report/*.npz` (the arrays of
    `evals.examples`), each where it exists.
    """
    folder = absolute(workdir)
    config, status, results = (_json(folder / f"{name}.json") for name in ("config", "status", "results"))
    records = read_metrics(folder / "metrics.jsonl")
    parts = [
        f"<h1>{html.escape(folder.name)}</h1><p>{html.escape(_subtitle(config))}</p>",
        facts(config, status, records),
        section("Results", results_tables(results), _RESULTS_NOTE),
        section("Training", curves(records)),
        section("Painted", "".join(samples_section(name, steps) for name, steps in painted(folder / "report").items())),
        section("Retrieval", "".join(retrieval_section(name, arrays) for name, arrays in examples(folder / "report"))),
        section("Configuration", f"<pre>{html.escape(json.dumps(config, indent=2))}</pre>" if config else ""),
    ]
    page = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{html.escape(folder.name)}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{STYLE}</style></head><body>{''.join(parts)}</body></html>\n"
    )
    path = folder / "report.html"
    write_atomic(path, page)
    return path


_RESULTS_NOTE = (
    "Fractions as per cent. The band is the 95 % interval; "
    '<i class="swatch" style="background:var(--soft)"></i>chance, '
    '<i class="swatch" style="background:var(--bad)"></i>blind (the pictures shuffled among the samples), '
    '<i class="swatch" style="background:var(--s1)"></i>nearest pixels (no model), where measured.'
)


def section(title: str, body: str, note: str = "") -> str:
    """A heading with what belongs to it, or nothing where there is nothing to show."""
    return f"<h2>{title}</h2>{f'<p>{note}</p>' if note else ''}{body}" if body else ""


def read_metrics(path: epath.Path) -> list[dict[str, Any]]:
    """The objects of `metrics.jsonl` that have a step, by step; a line cut by a kill is left out."""
    records = []
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict) and isinstance(record.get("step"), int | float):
            records.append(record)
    return sorted(records, key=lambda record: record["step"])


def _json(path: epath.Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text()) if path.exists() else {}
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _subtitle(config: Mapping[str, Any]) -> str:
    model = config.get("model") or {}
    task = config.get("task") or {}
    words = [model.get("family"), model.get("variant"), task.get("name"), task.get("kind")]
    return "jvlm training run" + "".join(f", {word}" for word in words if word)


def facts(config: Mapping[str, Any], status: Mapping[str, Any], records: Sequence[Mapping[str, Any]]) -> str:
    """The run in a line: how it ended, how far it went, how fast it was."""
    out = []
    if status:
        ended = str(status.get("status", "?"))
        shown = f"{ended}: {status['reason']}" if status.get("reason") else ended
        out.append((shown[:80], "status", ended == "failed"))
    losses = [record for record in records if "loss" in record]
    if losses:
        out.append(
            (f"{number(losses[-1]['step'])} / {number(config.get('steps', losses[-1]['step']))}", "steps", False)
        )
        if _finite(losses[-1]["loss"]):
            out.append((number(losses[-1]["loss"]), "last loss", False))
    speeds = [record["images_per_second"] for record in losses if _finite(record.get("images_per_second"))]
    if speeds:
        out.append((number(float(np.median(speeds))), "images / s, median", False))
    for key, label in (("trained", "parameters trained"), ("frozen", "parameters held")):
        counts = [record[key] for record in records if record.get(key)]
        if counts:
            out.append((number(counts[-1]), label, False))
    if "batch_size" in config:
        out.append((number(config["batch_size"]), "batch size", False))
    if losses and losses[-1].get("skipped"):
        out.append((number(losses[-1]["skipped"]), "updates refused", True))
    cells = (
        f'<div class="fact{" bad" if bad else ""}"><b>{html.escape(value)}</b><span>{label}</span></div>'
        for value, label, bad in out
    )
    return f'<div class="facts">{"".join(cells)}</div>' if out else ""


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def series_of(records: Sequence[Mapping[str, Any]], key: str) -> Series:
    """The steps and values of one metric; null, NaN and infinity become gaps."""
    rows = [record for record in records if key in record]
    y = [float(record[key]) if _finite(record[key]) else math.nan for record in rows]
    return Series([float(record["step"]) for record in rows], y)


def curves(records: Sequence[Mapping[str, Any]]) -> str:
    """A chart for each training metric, and one for each group of evaluation metrics (`suite/metric`)."""
    keys = dict.fromkeys(key for record in records for key, value in record.items() if _finite(value))
    figures = []
    plain = [key for key in keys if "/" not in key and key not in _SILENT]
    known = {key: (title, label) for key, title, label in CURVES}
    for key in [*(key for key in known if key in plain), *(key for key in plain if key not in known)]:
        title, label = known.get(key, (key, key))
        line = series_of(records, key)
        noisy = key not in ("lr", "scale") and len(line.x) > 40
        chart = line_chart(
            {title: smooth(line) if noisy else line},
            x_label="step",
            y_label=label,
            faint={title: line} if noisy else None,
        )
        figures.append(_figure(title, chart))
    groups: dict[str, list[str]] = {}
    for key in keys:
        if "/" in key and not key.startswith("data/"):
            groups.setdefault(key.rpartition("/")[0], []).append(key)
    for group, members in groups.items():
        lines = {key.rpartition("/")[2]: series_of(records, key) for key in members}
        figures.append(_figure(group, line_chart(lines, x_label="step", y_label="fraction")))
    return f'<div class="charts">{"".join(figures)}</div>' if any(figures) else ""


def _figure(title: str, chart: str) -> str:
    return f"<figure><figcaption>{html.escape(title)}</figcaption>{chart}</figure>" if chart else ""


def results_tables(results: Mapping[str, Any]) -> str:
    """A table for each suite; the suite `NAME_pixels` becomes a column of the suite `NAME`."""
    parts = []
    for suite, scores in results.items():
        if suite.endswith(_PIXELS) and suite.removesuffix(_PIXELS) in results:
            continue
        baseline = results.get(suite + _PIXELS) or {}
        answers = any("removed" in score for score in scores.values())
        more = [*(["no picture"] if answers else []), *(["nearest pixels"] if baseline else [])]
        head = ["metric", "%", "", "95 % interval", "chance", "blind", *more, "n"]
        rows = [
            _score_row(metric, dict(score, removed=score.get("removed")) if answers else score, baseline.get(metric),
                       bool(baseline))
            for metric, score in scores.items()
        ]  # fmt: skip
        titles = "".join(f"<th>{title}</th>" for title in head)
        parts.append(f"<h3>{html.escape(suite)}</h3>")
        parts.append(f'<div class="scroll"><table><tr>{titles}</tr>{"".join(rows)}</table></div>')
    return "".join(parts)


def _score_row(metric: str, score: Mapping[str, Any], baseline: Mapping[str, Any] | None, wide: bool) -> str:
    def percent(value: Any) -> str:
        if not _finite(value):
            return "-"
        return shown(metric, value)

    base = baseline.get("value") if baseline else None
    cells = [
        f"<td>{html.escape(metric)}</td>",
        f'<td class="value">{percent(score.get("value"))}</td>',
        f'<td class="bar">{score_bar(score, base)}</td>',
        f"<td>{percent(score.get('low'))} to {percent(score.get('high'))}</td>",
        f"<td>{percent(score.get('chance'))}</td>",
        f"<td>{percent(score.get('blind'))}</td>",
        *([f"<td>{percent(score['removed'])}</td>"] if "removed" in score else []),
        *([f"<td>{percent(base)}</td>"] if wide else []),
        f"<td>{html.escape(str(score.get('n', '')))}</td>",
    ]
    return f"<tr>{''.join(cells)}</tr>"


def score_bar(score: Mapping[str, Any], baseline: float | int | None = None) -> str:
    """0 to 100 % as a small drawing: interval, value, and marks for what stands beside it."""

    def at(value: float | int) -> float:
        return 4 + 182 * min(1.0, max(0.0, value))

    parts = ['<svg viewBox="0 0 190 20"><rect class="track" x="4" y="9" width="182" height="2"/>']
    low, high, value = (score.get(key) for key in ("low", "high", "value"))
    if low is not None and high is not None:
        width = max(1.0, at(high) - at(low))
        parts.append(f'<rect class="band" x="{at(low):.1f}" y="6" width="{width:.1f}" height="8" rx="2"/>')
    for style, mark in (("chance", score.get("chance")), ("blind", score.get("blind")), ("base", baseline)):
        if _finite(mark) and mark is not None:
            parts.append(f'<line class="{style}" x1="{at(mark):.1f}" x2="{at(mark):.1f}" y1="4" y2="16"/>')
    if value is not None:
        parts.append(f'<circle class="value" cx="{at(value):.1f}" cy="10" r="4"/>')
    return "".join(parts) + "</svg>"


def examples(folder: epath.Path) -> list[tuple[str, dict[str, np.ndarray]]]:
    """The arrays of every `.npz` in `folder` that holds a retrieval, by name."""
    out = []
    for path in sorted(folder.glob("*.npz")) if folder.exists() else ():
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as found:
            if {"similarity", "thumbnail", "text", "image_id", "text_id"} <= set(found.files):
                out.append((path.stem, {key: found[key] for key in found.files}))
    return out
