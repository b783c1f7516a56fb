"""Makes bitsandbytes, torchao and compressed-tensors importable in tests; their imports warn about missing GPUs."""

import logging
import warnings

from tests.reference import torch

logging.getLogger("torchao").setLevel(logging.ERROR)
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import bitsandbytes.functional as bitsandbytes
    import compressed_tensors
    from torchao.quantization.quant_primitives import MappingType
    from torchao.quantization.quantize_.workflows.intx.intx_unpacked_to_int8_tensor import IntxUnpackedToInt8Tensor

__all__ = ["IntxUnpackedToInt8Tensor", "MappingType", "bitsandbytes", "compressed_tensors", "torch"]
