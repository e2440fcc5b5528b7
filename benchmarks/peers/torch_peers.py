"""The checkpoint in eager float32 torch, fed by three loaders: a plain one, torchvision's reference and timm's.

The weights are in our module for all three: neither library has this network, and both loops take any module. Each
goes through the files once before it is timed, and keeps its workers: starting them takes as long as tens of photos.
"""

from __future__ import annotations

from typing import Any

from alexnet_deploy.machine.cpu import cores
from benchmarks.peers.task import BATCH, Classify, Task, resized_to


def dataloader(task: Task) -> Classify:
    """A Dataset of torchvision's transforms in a DataLoader, one worker per core."""
    torch, model = _torch_and_model(task)
    from PIL import Image
    from torchvision import transforms  # type: ignore[import-not-found]

    transform = transforms.Compose([*_resize_and_crop(task), transforms.ToTensor(), _normalize(task)])
    files = task.files

    class Photos(torch.utils.data.Dataset):  # type: ignore[misc]
        def __len__(self) -> int:
            return len(files)

        def __getitem__(self, index: int) -> Any:
            return transform(Image.open(files[index]).convert("RGB"))

    loader = torch.utils.data.DataLoader(Photos(), BATCH, num_workers=cores(), persistent_workers=True)

    def classify() -> list[int]:
        with torch.inference_mode():
            return [top for batch in loader for top in _top5(model(batch).softmax(1))[:, 0].tolist()]

    classify()
    return classify


def torchvision_reference(task: Task) -> Classify:
    """``references/classification/train.py --test-only``: ImageFolder, its evaluation transforms, loss and top-5.

    Kept: the dataset, the transforms and their order, the sampler, ``inference_mode``, loss and accuracy per batch. Not
    kept: 16 workers (one per core is faster) that end with the loop, ``pin_memory`` (does nothing without a GPU), the
    printed meters.
    """
    torch, model = _torch_and_model(task)
    from torchvision import datasets, transforms

    steps = [*_resize_and_crop(task), transforms.PILToTensor(), transforms.ConvertImageDtype(torch.float)]
    dataset = datasets.ImageFolder(task.folder("photos"), transforms.Compose([*steps, _normalize(task)]))
    sampler = torch.utils.data.SequentialSampler(dataset)
    loader = torch.utils.data.DataLoader(dataset, BATCH, sampler=sampler, num_workers=cores(), persistent_workers=True)
    criterion = torch.nn.CrossEntropyLoss()

    def classify() -> list[int]:
        answers: list[int] = []
        with torch.inference_mode():
            for image, target in loader:
                output = model(image)
                criterion(output, target).item()
                top5 = _top5(output)
                (top5 == target[:, None]).sum().item()
                answers += top5[:, 0].tolist()
        return answers

    classify()
    return classify


def timm_inference(task: Task) -> Classify:
    """timm's ``inference.py``: its dataset, loader with prefetcher, and the loop of softmax and topk.

    Kept: ``create_dataset``, ``resolve_data_config``, ``create_loader``, the loop. Not kept: ``create_model``, labels,
    the written table, and 2 workers (one per core).
    """
    torch, model = _torch_and_model(task)
    from timm.data import create_dataset, create_loader, resolve_data_config  # type: ignore[import-not-found]

    pre = task.preprocessing()
    to = resized_to(pre)
    # timm states the resize as the cropped share; half a pixel keeps its floor() from losing one to rounding.
    share = pre.height / ((to if isinstance(to, int) else to[0]) + 0.5)
    wanted = {
        "input_size": (3, pre.height, pre.width),
        "mean": pre.mean,
        "std": pre.std,
        "interpolation": pre.interpolation,
        "crop_pct": share,
        "crop_mode": "center" if isinstance(to, int) else "squash",
    }
    config = resolve_data_config(pretrained_cfg=wanted)
    dataset = create_dataset("", root=str(task.folder("photos")))
    loader = create_loader(
        dataset,
        batch_size=BATCH,
        use_prefetcher=True,
        num_workers=cores(),
        device=torch.device("cpu"),
        **config,
    )

    def classify() -> list[int]:
        answers: list[int] = []
        with torch.inference_mode():
            for images, _ in loader:
                output = model(images).softmax(-1)
                answers += _top5(output)[:, 0].tolist()
        return answers

    classify()
    return classify


def _torch_and_model(task: Task) -> tuple[Any, Any]:
    """torch itself, and the network after one batch of zeros."""
    import torch

    torchvision_beside_cpu_torch()
    from alexnet_deploy.model.architecture import AlexNet
    from alexnet_deploy.model.checkpoint import load_weights

    checkpoint, pre = load_weights(task.weights), task.preprocessing()
    model = AlexNet(checkpoint.arch).eval()
    model.load_state_dict(checkpoint.weights)
    with torch.inference_mode():
        model(torch.zeros(BATCH, 3, pre.height, pre.width))
    return torch, model


def _top5(scores: Any) -> Any:
    return scores.topk(min(5, scores.shape[1])).indices


def _resize_and_crop(task: Task) -> list[Any]:
    from torchvision import transforms

    pre = task.preprocessing()
    return [transforms.Resize(resized_to(pre)), transforms.CenterCrop((pre.height, pre.width))]


def _normalize(task: Task) -> Any:
    from torchvision import transforms

    pre = task.preprocessing()
    return transforms.Normalize(pre.mean, pre.std)


def torchvision_beside_cpu_torch() -> None:
    """Let PyPI's torchvision load with a CPU build of torch.

    Its compiled operators are built for CUDA and do not load there, so its import fails where it describes two of
    them. Declaring them is enough; no classifier calls them.
    """
    import torch

    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        library = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")  # type: ignore[no-untyped-call]
        _LIBRARIES.append(library)


_LIBRARIES: list[Any] = []
"""Keeps the declarations alive."""
