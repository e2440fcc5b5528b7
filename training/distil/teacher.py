"""The answers of the teachers: in every step to the student's own pixels, or once for the whole run to fixed views."""

from __future__ import annotations

import json

import torch
from torch import Tensor, nn

from alexnet_deploy.errors import ArtifactError, InputError
from alexnet_deploy.model.architecture import PixelClassifier
from alexnet_deploy.model.checkpoint import Checkpoint, write_tensors
from alexnet_deploy.model.weights.safetensors_file import open_safetensors, tensors_in
from alexnet_deploy.progress import Progress, no_progress
from training.data.lists.content import content_digest
from training.data.lists.listing import ImageList
from training.data.loader import eval_batches
from training.distil.distillation import Distillation
from training.distil.loss import distillation_loss, mean_targets, soft_targets

# Legend: N image, V view, K class

TARGETS_FILE = "teacher.safetensors"
_KEY = "alexnet_deploy.teacher"
_TARGETS = "targets_NK"


class Teachers(nn.Module):
    """The teachers of a run on one device. They never learn: no dropout, no gradient."""

    def __init__(self, distillation: Distillation, device: torch.device) -> None:
        super().__init__()
        self.temperature = distillation.temperature
        self.networks = nn.ModuleList(_classifier(checkpoint, device) for checkpoint in distillation.teachers)
        self.requires_grad_(False)
        self.eval()

    @torch.no_grad()
    def forward(self, pixels_NHWC: Tensor) -> Tensor:
        """Probabilities ``[N, K]`` at the temperature, float32, for uint8 pixels on the device of the teachers."""
        logits = [network(pixels_NHWC)[:, None] for network in self.networks]
        return mean_targets([soft_targets(logits_N1K, self.temperature) for logits_N1K in logits])


class Teaching:
    """The teachers' part in each step of a run.

    Raises InputError if a picture cannot be read, while the answers to a fixed view are computed.
    """

    def __init__(
        self,
        distillation: Distillation,
        images: ImageList,
        device: torch.device,
        *,
        workers: int,
        on_progress: Progress = no_progress,
    ) -> None:
        self.distillation = distillation
        self._teachers: Teachers | None = None
        self._targets_NK: Tensor | None = None
        if distillation.is_fixed:
            self._classes_N = torch.tensor(images.targets)
            self._targets_NK = cached_targets(distillation, images, device, workers=workers, on_progress=on_progress)
        else:
            self._teachers = Teachers(distillation, device)

    def labels(self, listed_N: Tensor) -> Tensor:
        """The classes of a batch whose targets come from ``Distillation.training_list``."""
        return listed_N if self._targets_NK is None else self._classes_N[listed_N]

    def probabilities(self, pixels_NHWC: Tensor, listed_N: Tensor) -> Tensor:
        """The teachers' probabilities ``[N, K]`` for a batch, on the device of its pixels."""
        if self._targets_NK is not None:
            return self._targets_NK[listed_N].to(pixels_NHWC.device)
        assert self._teachers is not None
        targets_NK: Tensor = self._teachers(pixels_NHWC)
        return targets_NK

    def loss(self, logits_NK: Tensor, teacher_NK: Tensor, labels_loss: Tensor) -> Tensor:
        """``distillation_loss`` with the temperature and the weight of the run."""
        plan = self.distillation
        return distillation_loss(logits_NK, teacher_NK, labels_loss, temperature=plan.temperature, weight=plan.weight)


def _classifier(checkpoint: Checkpoint, device: torch.device) -> PixelClassifier:
    pre = checkpoint.contract.preprocessing
    model = checkpoint.build().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in torch's stub
    return PixelClassifier(model, pre.mean, pre.std).to(device)


def cached_targets(
    distillation: Distillation,
    images: ImageList,
    device: torch.device,
    *,
    workers: int,
    on_progress: Progress = no_progress,
) -> Tensor:
    """``compute_targets``, read from ``distillation.folder`` where an earlier call kept them for the same teachers.

    This is exact: a fixed view of a picture does not depend on the step, so the file holds the very numbers that were
    computed. A file for other teachers or other pictures, also under the same names, is computed again, and so is one
    that is damaged.
    """
    path = distillation.folder / TARGETS_FILE
    key = json.dumps(distillation.config() | {"images": images.digest(), "bytes": _bytes_of(images, workers)})
    try:
        with open_safetensors(path) as (metadata, file):
            if metadata.get(_KEY) == key:
                targets_NK = tensors_in(file)[_TARGETS]
                if targets_NK.shape[0] == len(images.files) and bool(torch.isfinite(targets_NK).all()):
                    return targets_NK
    except (OSError, ValueError, KeyError, ArtifactError):
        pass
    targets_NK = compute_targets(distillation, images, device, workers=workers, on_progress=on_progress)
    write_tensors({_TARGETS: targets_NK}, path, {_KEY: key})
    return targets_NK


def _bytes_of(images: ImageList, workers: int) -> str:
    try:
        return content_digest(images.files, threads=workers)
    except OSError as exc:
        raise InputError(f"{exc.filename}: cannot be read ({exc.strerror}); repair or remove it") from exc


@torch.inference_mode()
def compute_targets(
    distillation: Distillation,
    images: ImageList,
    device: torch.device,
    *,
    workers: int,
    on_progress: Progress = no_progress,
) -> Tensor:
    """Probabilities ``[N, K]`` at the temperature for each of ``images``, float32, on the CPU.

    Each teacher sees the pictures as its own contract says, or ten views of them. Raises InputError for a picture that
    cannot be read.
    """
    ten_crop = distillation.view == "ten-crop"
    parts: list[Tensor] = []
    total = len(images.files) * len(distillation.teachers)
    done = 0
    for checkpoint in distillation.teachers:
        classifier = _classifier(checkpoint, device).eval()
        pre, found = checkpoint.contract.preprocessing, []
        for pixels, targets_N in eval_batches(
            images, pre, batch=8 if ten_crop else 64, workers=workers, ten_crop=ten_crop
        ):
            pixels_NVHWC = pixels if ten_crop else pixels[:, None]
            logits_MK = classifier(pixels_NVHWC.flatten(0, 1).to(device)).cpu()  # M: all views of all images
            found.append(soft_targets(logits_MK.unflatten(0, pixels_NVHWC.shape[:2]), distillation.temperature))
            done += len(targets_N)
            on_progress("teacher outputs", done, total)
        parts.append(torch.cat(found))
    return mean_targets(parts)
