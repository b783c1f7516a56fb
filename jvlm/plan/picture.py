"""Memory of a plan by kind as an SVG: one bar against what a chip has."""

import html

from jvlm.plan.compile import Plan

WIDTH, BAR, LEFT, TOP = 720, 46, 20, 54
COLOURS = {
    "parameters": "#2c4882",
    "optimizer": "#20808c",
    "average": "#46b06e",
    "model state": "#8a8f98",
    "batch": "#b4a03c",
    "temporaries": "#c8643c",
}


def memory_picture(plan: Plan, title: str) -> str:
    """The bytes of a chip by kind, to scale; a line marks the capacity, and what lies beyond it does not fit."""
    kinds = dict(plan.kinds)
    kinds["temporaries"] = max(plan.peak - sum(kinds.values()), 0)
    extent = 1.05 * max(plan.peak, plan.capacity)
    scale = (WIDTH - 2 * LEFT) / extent
    parts, x = [], float(LEFT)
    for kind, size in kinds.items():
        parts.append(_rect(x, TOP, size * scale, BAR, COLOURS[kind], f"{kind}: {size / 1e9:.2f} GB"))
        x += size * scale
    limit = LEFT + plan.capacity * scale
    parts.append(f'<rect x="{LEFT}" y="{TOP}" width="{limit - LEFT:.1f}" height="{BAR}" fill="none" stroke="#555"/>')
    parts.append(f'<path d="M{limit:.1f} {TOP - 8}v{BAR + 16}" stroke="#a00" stroke-width="2"/>')
    note = f"XLA's limit {plan.capacity / 1e9:.2f} GB"
    parts.append(f'<text x="{limit:.1f}" y="{TOP - 12}" text-anchor="end" fill="#a00">{note}</text>')
    y = TOP + BAR + 34
    for place, (kind, size) in enumerate(kinds.items()):
        left, row = LEFT + 230 * (place % 3), y + 24 * (place // 3)
        parts.append(_rect(left, row - 11, 14, 14, COLOURS[kind], kind))
        parts.append(f'<text x="{left + 22}" y="{row}">{html.escape(kind)} {size / 1e9:.2f} GB</text>')
    height = y + 24 * ((len(kinds) + 2) // 3)
    verdict = "fits" if plan.fits else "does not fit"
    head = f"{html.escape(title)}: {plan.peak / 1e9:.2f} GB per chip, {verdict}"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}" '
        'font-family="sans-serif" font-size="13" fill="#222"><rect width="100%" height="100%" fill="#fff"/>'
        f'<text x="{LEFT}" y="22" font-size="15">{head}</text>{"".join(parts)}</svg>\n'
    )


def _rect(x: float, y: float | int, width: float, height: float | int, colour: str, title: str) -> str:
    box = f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" fill="{colour}">'
    return f"{box}<title>{html.escape(title)}</title></rect>"
