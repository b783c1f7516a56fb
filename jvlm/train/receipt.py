"""The receipt of a quantization as a page: sizes, fidelity, and the error of every layer as a plot."""

import html
from collections.abc import Mapping, Sequence
from typing import Any

from jvlm.train.plots import LINES, Series, line_chart, number
from jvlm.train.report_style import STYLE

JSON, HTML = "receipt.json", "receipt.html"


def page(receipt: Mapping[str, Any]) -> str:
    """One file that needs nothing else, from the values of receipt.json."""
    parts = [
        "<!doctype html><html lang='en'><meta charset='utf-8'><meta name='viewport' content='width=device-width'>",
        f"<title>Receipt: {html.escape(receipt['scheme'])}</title><style>{STYLE}</style>",
        f"<h1>{html.escape(_title(receipt))}</h1><p>{html.escape(receipt['source'])}</p>",
        _facts(receipt),
        error_plots(receipt["layers"]),
        _table("Worst layers", ("kernel", "layer", "relative error"), _worst(receipt["worst"])),
        _evaluation(receipt),
        _requantized(receipt.get("requantized", {})),
        _table("Left as they were", ("parameter", "why"), list(receipt["left"].items())),
    ]
    return "\n".join(part for part in parts if part) + "</html>\n"


def error_plots(layers: Sequence[Mapping[str, Any]]) -> str:
    """The relative error of every stacked kernel over its layers, a chart for each stack."""
    stacks: dict[str, dict[str, list[tuple[int, float]]]] = {}
    for row in layers:
        if row["layer"] is not None:
            stack, _, name = row["path"].rpartition("/layers/")
            line = stacks.setdefault(stack, {}).setdefault(name.removesuffix("/kernel"), [])
            line.append((row["layer"], row["error"]))
    figures = []
    for stack, lines in stacks.items():
        names = list(lines)
        for start in range(0, len(names), LINES):
            series = {name: Series(*zip(*lines[name])) for name in names[start : start + LINES]}
            chart = line_chart(series, x_label="layer", y_label="relative error")
            figures.append(f"<figure><figcaption>{html.escape(stack or 'layers')}</figcaption>{chart}</figure>")
    return f"<h2>Error per layer</h2><div class='charts'>{''.join(figures)}</div>" if figures else ""


def _title(receipt: Mapping[str, Any]) -> str:
    group = receipt.get("group")
    words = [receipt["scheme"], f"groups of {group}" if group else "whole columns"]
    words += ["double quantization"] if receipt.get("double") else []
    words += [receipt["calibrate"]] if receipt.get("calibrate") else []
    return ", ".join(words)


def _facts(receipt: Mapping[str, Any]) -> str:
    sizes = receipt["bytes"]
    facts = [(_size(sizes["before"]), "before"), (_size(sizes["after"]), "after"), (f"{sizes['ratio']:.3f}", "ratio")]
    if sizes["per_quantized_parameter"] is not None:
        facts.append((f"{sizes['per_quantized_parameter']:.4f}", "bytes per quantized parameter"))
    facts += [(f"{c['mean']:.4f}", f"mean cosine, {side} ({c['n']})") for side, c in receipt["cosine"].items()]
    facts += [(f"{c['lowest']:.4f}", f"lowest cosine, {side}") for side, c in receipt["cosine"].items()]
    cells = (f'<div class="fact"><b>{value}</b><span>{html.escape(name)}</span></div>' for value, name in facts)
    return f'<div class="facts">{"".join(cells)}</div>'


def _size(count: int) -> str:
    return f"{number(count)}B"


def _worst(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    return [(row["path"], "" if row["layer"] is None else str(row["layer"]), f"{row['error']:.4f}") for row in rows]


def _evaluation(receipt: Mapping[str, Any]) -> str:
    rows = [
        (metric, *(f"{100 * v[key]:.2f}" for key in ("before", "after")), f"{100 * v['change']:+.2f}", str(v["n"]))
        for metric, v in receipt.get("evaluation", {}).items()
    ]
    return _table(f"Evaluation: {receipt.get('suite')}", ("metric", "before %", "after %", "change", "n"), rows)


def _requantized(changes: Mapping[str, Any]) -> str:
    rows = [(path, *(f"{c[key]:.4f}" for key in ("update", "error", "kept"))) for path, c in changes.items()]
    return _table("Merged and rounded again", ("kernel", "update", "error", "share of the update kept"), rows)


def _table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    if not rows:
        return ""
    head = "".join(f"<th>{html.escape(column)}</th>" for column in columns)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<h2>{html.escape(title)}</h2><div class='scroll'><table><tr>{head}</tr>{body}</table></div>"
