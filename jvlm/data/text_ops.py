"""Cleaning of captions, as each published tokenizer does it."""

import html
import re
import string

import ftfy

_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def basic_clean(text: str) -> str:
    """Mends broken encodings, resolves HTML entities twice (CLIP's published cleaning)."""
    return html.unescape(html.unescape(ftfy.fix_text(text))).strip()


def whitespace_clean(text: str) -> str:
    """One space for every run of white space, none at the ends."""
    return " ".join(text.split())


def canonicalize(text: str) -> str:
    """open_clip's "canonicalize": underscores to spaces, punctuation removed, lower case (from
    big_vision)."""
    return whitespace_clean(text.replace("_", " ").translate(_NO_PUNCTUATION).lower())


def siglip_canonicalize(text: str, lower: bool = True) -> str:
    """What transformers' SiglipTokenizer does: lower case, punctuation removed, one space."""
    text = (text.lower() if lower else text).translate(_NO_PUNCTUATION)
    return re.sub(r"\s+", " ", text).strip()


def _as_is(text: str) -> str:
    return text


CLEANERS = {
    "": _as_is,
    "whitespace": lambda text: whitespace_clean(basic_clean(text)),
    "lower": lambda text: whitespace_clean(basic_clean(text)).lower(),
    "canonicalize": lambda text: canonicalize(basic_clean(text)),
}
"""open_clip's `clean` options by name; "" leaves the text to the tokenizer."""
