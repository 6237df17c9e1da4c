"""A trained model as a file that runs without this package: `torch.export` (.pt2) or ONNX.

Both take clips (B, 3, T, H, W) float, normalised as for the model, at any batch size and at the
configuration's frames and size. What was written is read back and compared with the model.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from posmlp.checkpoint import copied, own_model, write_atomically
from posmlp.config_checks import one_of
from posmlp.model import PosMLPVideo
from posmlp.shapes import not_written

FORMATS = (".pt2", ".onnx")
LARGEST_DIFFERENCE = 1e-5
"""Of logits, between the model and what was written of it, relative to the largest if over 1."""


def export(model: PosMLPVideo, path: str | Path) -> float:
    """Write `path`, whose suffix names the format; the largest difference of logits.

    The file takes its place only once it has been read back and its logits, of batches of other
    sizes than that of the export, agree. Raises ValueError for another suffix, where the packages
    for ONNX are not installed, or where logits differ by more than LARGEST_DIFFERENCE, and
    NotWrittenError where nothing can be written.
    """
    path = Path(path)
    _check_place(path)
    if (own := own_model(model)) is None:
        raise ValueError(
            f"{type(model).__name__} is no model of this package, which alone is exported"
        )
    model = copied(own).cpu().float().eval()
    trial = path.with_name(f".{path.name}.{uuid4().hex}.tmp")
    try:  # before the work
        trial.parent.mkdir(parents=True, exist_ok=True)
        trial.touch()
        trial.unlink()
    except OSError as error:
        raise not_written(path, 0, error) from error
    content, run = _EXPORTERS[path.suffix](model)
    difference = max(_difference(model, run, num_clips) for num_clips in (1, 3))
    if not difference <= LARGEST_DIFFERENCE:
        raise ValueError(
            f"the logits of the exported model differ by {difference:.1e}, more than "
            f"{LARGEST_DIFFERENCE:.0e}; nothing was written to {path}"
        )
    write_atomically(path, content)
    return difference


def _check_place(path: Path) -> None:
    one_of(path.suffix, FORMATS, f"export format of {path},")
    if path.is_dir():
        raise ValueError(f"{path} is a folder; name a file, for example {path / 'model.pt2'}")


def example_clips(model: PosMLPVideo, num_clips: int) -> Tensor:
    """Random clips, or images for an image model, of the size that the model is configured for."""
    config = model.config
    frames = () if config.kind == "image" else (config.num_frames,)
    shape = (num_clips, config.in_channels, *frames, *config.size)
    return torch.randn(shape, generator=torch.Generator().manual_seed(num_clips))


def _difference(model: nn.Module, run: Callable[[Tensor], Tensor], num_clips: int) -> float:
    clips = example_clips(model, num_clips)  # type: ignore[arg-type]
    with torch.no_grad():
        expected = model(clips)
    return ((run(clips) - expected).abs().max() / expected.abs().max().clamp(min=1)).item()


def _program(model: PosMLPVideo) -> torch.export.ExportedProgram:
    batch = torch.export.Dim("batch", min=1, max=4096)
    clips = example_clips(model, 2)
    with torch.no_grad():
        return torch.export.export(model, (clips,), dynamic_shapes=({0: batch},))


def _export_program(model: PosMLPVideo) -> tuple[bytes, Callable[[Tensor], Tensor]]:
    file = io.BytesIO()  # torch itself aborts where it finds a full disk
    torch.export.save(_program(model), file)
    file.seek(0)
    return file.getvalue(), torch.export.load(file).module()


def _export_onnx(model: PosMLPVideo) -> tuple[bytes, Callable[[Tensor], Tensor]]:
    try:
        import onnxruntime
        import onnxscript  # noqa: F401  what torch.onnx is built on
    except ImportError as error:
        raise ValueError(
            f"ONNX needs packages that are not installed ({error}); pip install "
            "posmlp-workbench[export], or export to .pt2"
        ) from error
    program = _program(model)
    with sdpa_kernel(SDPBackend.MATH):  # attention as products: ONNX has no other of six axes
        program = program.run_decompositions()
    with torch.no_grad():
        made = torch.onnx.export(
            program, dynamo=True, input_names=["clips"], output_names=["logits"], verbose=False
        )
    assert made is not None
    content = made.model_proto.SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return content, lambda clips: torch.from_numpy(session.run(None, {"clips": clips.numpy()})[0])


_EXPORTERS = {".pt2": _export_program, ".onnx": _export_onnx}
