"""The transformers formats, by `model_type`."""

from jvlm.interop.hf import align, bert, clip, decoders, gpt2, llava, opt, siglip, vit
from jvlm.interop.table import Table

TABLES: dict[str, Table] = {
    "align": align.TABLE,
    "bert": bert.TABLE,
    "clip": clip.TABLE,
    "siglip": siglip.TABLE,
    "siglip2": siglip.TABLE2,
    "vit": vit.TABLE,
    **decoders.TABLES,
    "opt": opt.TABLE,
    "gpt2": gpt2.TABLE,
    "llava": llava.TABLE,
    "llava_next": llava.NEXT,
}
