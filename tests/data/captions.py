"""Captions that tell tokenizers apart."""

NASTY = [
    "",
    "a",
    "a photo of a cat",
    "A  photo\tof \n a café",
    "don't we'LL I'M they'd",
    "it'ſ old",  # a long s is an s when case is ignored
    "&amp;amp; &lt;b&gt; rock &amp; roll",
    "donâ€™t mend me",
    "👩‍👩‍👧‍👦🐶 ok",
    "日本語 テスト 한국어 中文。",
    "İstanbul ǅ ß ﬁ Å",
    "e\u0301 é",
    "\u200b zero\ufeff width",
    "a\u00a0b\u3000c",
    "1234½² 5.0",
    "_underscore_ -- !!? #tag @you",
    "\x00\x01 control",
    "<start_of_text>q<end_of_text>",
    "<|startoftext|> in <|endoftext|> text",
    "<|ENDOFTEXT|>",
    "x" * 300,
    "word " * 100,
    "日" * 90,
]
