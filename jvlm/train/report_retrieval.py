"""The report's pictures of a retrieval: the similarity matrix, and the best and worst queries of both directions."""

import html
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from jvlm.train.plots import colours, heat_map, png_uri

SHOWN, TOP = 6, 5


class Found(NamedTuple):
    """A query's place in the order of difficulty and what it found."""

    query: int
    rank: int
    answer: int
    top: tuple[int, ...]


def order_queries(similarity: np.ndarray, own: np.ndarray) -> list[Found]:
    """Queries (rows) from best to worst by the margin of the best right answer over the best wrong one.

    A row without both a right and a wrong column is left out. NaN counts as the lowest similarity.
    """
    clean = np.where(np.isnan(similarity), -np.inf, similarity)
    right = np.where(own, clean, -np.inf)
    wrong = np.where(own, -np.inf, clean)
    usable = np.flatnonzero(own.any(1) & (~own).any(1) & np.isfinite(right.max(1)))
    margin = right.max(1)[usable] - wrong.max(1)[usable]
    out = []
    for query in usable[np.argsort(-margin, kind="stable")].tolist():
        answer = int(right[query].argmax())
        rank = int((wrong[query] >= right[query, answer]).sum()) + 1
        # A wrong answer of the same similarity comes first, as in the scores.
        order = np.lexsort((own[query], -clean[query]))
        out.append(Found(query, rank, answer, tuple(order[:TOP].tolist())))
    return out


def retrieval_section(name: str, arrays: Mapping[str, np.ndarray]) -> str:
    """Heat map and grids of one suite; the arrays are those of `evals.examples.retrieval_examples`."""
    similarity = arrays["similarity"]
    own = arrays["image_id"][:, None] == arrays["text_id"]
    thumbs = [png_uri(thumb) for thumb in arrays["thumbnail"]]
    texts = [str(text) for text in arrays["text"]]
    parts = [f"<h3>{html.escape(name)}: similarities</h3>", similarity_map(arrays)]
    to_text = order_queries(similarity, own)
    to_image = order_queries(similarity.T, own.T)
    for title, found, worst in (
        ("pictures that find their text best", to_text[:SHOWN], False),
        ("pictures that find their text worst", to_text[::-1][:SHOWN], True),
    ):
        rows = [text_row(f, similarity[f.query], own[f.query], thumbs[f.query], texts, worst) for f in found]
        parts.append(f'<h3>{html.escape(name)}: {title}</h3><div class="rows">{"".join(rows)}</div>')
    for title, found, worst in (
        ("texts that find their picture best", to_image[:SHOWN], False),
        ("texts that find their picture worst", to_image[::-1][:SHOWN], True),
    ):
        rows = [picture_row(f, similarity[:, f.query], own[:, f.query], texts[f.query], thumbs, worst) for f in found]
        parts.append(f'<h3>{html.escape(name)}: {title}</h3><div class="rows">{"".join(rows)}</div>')
    return "".join(parts)


def similarity_map(arrays: Mapping[str, np.ndarray]) -> str:
    """The matrix as a picture, rows and columns sorted by id, so that what belongs together lies on the diagonal."""
    rows, columns = (np.argsort(arrays[key], kind="stable") for key in ("image_id", "text_id"))
    matrix = arrays["similarity"][rows][:, columns]
    uri, low, high = heat_map(matrix.astype(np.float64))
    n, m = matrix.shape
    cell = 440 / max(n, m)
    bar = png_uri(colours(np.linspace(1, 0, 100)[:, None]))
    return (
        f'<div class="map"><span class="down">{n} pictures</span>'
        f'<img src="{uri}" style="width:{max(24, m * cell):.0f}px;height:{max(24, n * cell):.0f}px" '
        f'alt="similarity of {n} pictures and {m} texts">'
        f'<span class="scale">{high:.2f}<img src="{bar}" alt="colour scale">{low:.2f}<span>cosine</span></span>'
        f'<span class="under">{m} texts, in the order of the pictures</span></div>'
    )


def text_row(found: Found, similarity: np.ndarray, own: np.ndarray, thumb: str, texts: list[str], worst: bool) -> str:
    """A picture, its text and the texts it found."""
    items = [_item(texts[at], float(similarity[at]), bool(own[at])) for at in found.top]
    if worst and found.answer not in found.top:
        items.append(_item(texts[found.answer], float(similarity[found.answer]), True, found.rank))
    asked = f'<img src="{thumb}" alt=""><small>{html.escape(texts[found.answer])}<br>rank {found.rank}</small>'
    return f'<div class="row"><div class="asked">{asked}</div><ol class="texts">{"".join(items)}</ol></div>'


def _item(text: str, similarity: float, right: bool, rank: int | None = None) -> str:
    style = ' class="right"' if right else ""
    place = f"{rank}. " if rank is not None else ""
    return f"<li{style}><span>{place}{html.escape(text)}</span><b>{similarity:.3f}</b></li>"


def picture_row(
    found: Found, similarity: np.ndarray, own: np.ndarray, text: str, thumbs: list[str], worst: bool
) -> str:
    """A text, its picture and the pictures it found."""

    def picture(at: int, note: str = "") -> str:
        style = ' class="right"' if own[at] else ""
        return f'<div{style}><img src="{thumbs[at]}" alt="">{note}<b>{similarity[at]:.3f}</b></div>'

    shown = [picture(at) for at in found.top]
    if worst and found.answer not in found.top:
        shown.append(picture(found.answer, f"{found.rank}.<br>"))
    asked = f"<q>{html.escape(text)}</q><small>rank {found.rank}</small>"
    return f'<div class="row"><div class="asked">{asked}</div><div class="pics">{"".join(shown)}</div></div>'
