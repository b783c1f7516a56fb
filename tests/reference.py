"""Makes the reference implementations importable in tests: torch on one thread, torchvision's operators declared.

The torchvision wheel beside a CPU torch lacks its compiled operators and refuses to import without them; open_clip
and transformers' torchvision image processors need its Python part only.
"""

import warnings

import torch

torch.set_num_threads(1)
_library = torch.library.Library("torchvision", "DEF")
_library.define("nms(Tensor boxes, Tensor scores, float iou_threshold) -> Tensor")
_library.define("qnms(Tensor boxes, Tensor scores, float iou_threshold) -> Tensor")

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import transformers

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()
