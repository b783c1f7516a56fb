"""The models of diffusers directories, by their `_class_name`."""

from jvlm.interop.diffusers import autoencoder, unet
from jvlm.interop.table import Table

TABLES: dict[str, Table] = {
    "AutoencoderKL": autoencoder.GAUSSIAN,
    "UNet2DConditionModel": unet.CONDITIONAL,
    "UNet2DModel": unet.PIXEL,
    "VQModel": autoencoder.QUANTIZED,
}
