"""Preprocessing of other libraries, each with its source.

Numbers are on the 0..1 scale. The size before the crop is the crop over ``crop_pct``, rounded down as timm does.
"""

from __future__ import annotations

import dataclasses

from alexnet_deploy.adoption.import_options import ImportOptions, PresetName, Resize
from alexnet_deploy.contract import IMAGENET_MEAN, IMAGENET_STD, Channels, Interpolation

_Values = tuple[float, ...]
_TORCHVISION_SHARE = 224 / 256
_ZERO, _HALF, _ONE, _RAW = (0.0,), (0.5,), (1.0,), (1 / 255,)
_CAFFE_MEAN = (123.68 / 255, 116.779 / 255, 103.939 / 255)
"""What Caffe's VGG models subtract, in the order red, green, blue; Caffe has 103.939, 116.779, 123.68 for BGR."""


def with_preset(options: ImportOptions) -> ImportOptions:
    """``options`` on the 0..1 scale, completed by the rules that their ``preprocessing`` names."""
    plain = dataclasses.replace(options.on_unit_scale(), preprocessing=None)
    return plain if options.preprocessing is None else plain.over(PRESETS[options.preprocessing])


def _cropped(
    crop_pct: float, interpolation: Interpolation, mean: _Values, std: _Values, resize: Resize = "shorter-side"
) -> ImportOptions:
    return ImportOptions(mean, std, resize=resize, crop_pct=crop_pct, interpolation=interpolation)


def _keras(mean: _Values, std: _Values, channels: Channels = "rgb") -> ImportOptions:
    # keras.utils.load_img: both sides to target_size, without antialiasing by default
    return ImportOptions(mean, std, resize="stretch", interpolation="nearest", channels=channels)


PRESETS: dict[PresetName, ImportOptions] = {
    # torchvision.transforms._presets.ImageClassification; its newer weights have resize_to 232 and others
    "torchvision": _cropped(_TORCHVISION_SHARE, "bilinear", IMAGENET_MEAN, IMAGENET_STD),
    # timm.data.resolve_data_config without a pretrained_cfg; that of a model may differ
    "timm": _cropped(0.875, "bicubic", IMAGENET_MEAN, IMAGENET_STD),
    # timm's models from TensorFlow (inception_v3, tf_*): IMAGENET_INCEPTION_MEAN and _STD, values within -1..1
    "inception": _cropped(0.875, "bicubic", _HALF, _HALF),
    # openai/CLIP, clip/clip.py, _transform
    "clip": _cropped(1.0, "bicubic", (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    # keras.applications.imagenet_utils.preprocess_input, modes tf, torch and caffe; raw: the model scales by itself
    "keras-tf": _keras(_HALF, _HALF),
    "keras-torch": _keras(IMAGENET_MEAN, IMAGENET_STD),
    "keras-caffe": _keras(_CAFFE_MEAN, _RAW, "bgr"),
    "keras-raw": _keras(_ZERO, _RAW),
    # caffe/python/classify.py: both sides to 256, then a crop
    "caffe": dataclasses.replace(
        _cropped(_TORCHVISION_SHARE, "bilinear", _CAFFE_MEAN, _RAW, "stretch"), channels="bgr"
    ),
    # ultralytics.data.augment.classify_transforms
    "ultralytics": _cropped(1.0, "bilinear", _ZERO, _ONE),
    # PaddleClas, ppcls/configs/ImageNet: ResizeImage resize_short 256, CropImage 224, NormalizeImage
    "paddle": _cropped(_TORCHVISION_SHARE, "bilinear", IMAGENET_MEAN, IMAGENET_STD),
    # pixel values 0..255 as they are: the model normalises by itself
    "raw": ImportOptions(_ZERO, _RAW),
}
