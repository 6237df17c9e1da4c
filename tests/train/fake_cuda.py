"""A CUDA device that computes nothing: what the host does for a GPU, seen on a machine without one.

Two parts. A stand-in for the CUDA runtime, compiled here, says that there are GPUs and obeys in
silence (`environment`). A dispatch mode, `FakeCuda`, gives tensors on `cuda` as fake tensors, which
have a shape, dtype and device and no values, while tensors on the CPU stay real. What comes back
to the CPU is full of zeros. So whole trainings go through, files and all.

Seen: tensors of mixed devices, rules of `vmap` and autocast, what is launched (operators that are
no views), where the host waits for the device, what CUDA is asked before it is initialised.
Not seen: values, kernels, memory, speed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

NUM_GPUS = 2
OUT_OF_MEMORY = 2  # cudaErrorMemoryAllocation: whatever is not fake is refused
_ASKED = {  # what each function writes through its pointers
    "cudaGetDeviceCount": ("int *n", f"*n = {NUM_GPUS};"),
    "cuDeviceGetCount": ("int *n", f"*n = {NUM_GPUS};"),
    "cudaGetDevice": ("int *d", "*d = current;"),
    "cudaSetDevice": ("int d", "current = d;"),
    "cudaDriverGetVersion": ("int *v", "*v = 13000;"),
    "cudaRuntimeGetVersion": ("int *v", "*v = 13000;"),
    "cudaDeviceGetStreamPriorityRange": ("int *low, int *high", "*low = 0; *high = -5;"),
    "cudaStreamCreateWithPriority": ("void **s", "*s = (void *)1;"),
    "cudaStreamIsCapturing": ("void *s, int *is", "*is = 0;"),
    "cudaEventCreate": ("void **e", "*e = (void *)1;"),
    "cudaEventCreateWithFlags": ("void **e", "*e = (void *)1;"),
    "cudaEventRecord": ("void *e", "recorded_on = current;"),
    "cudaEventRecordWithFlags": ("void *e", "recorded_on = current;"),
    "cudaEventElapsedTime": ("float *ms", "*ms = 1 + recorded_on;"),
    "cudaDeviceCanAccessPeer": ("int *can", "*can = 0;"),
    "cudaDeviceGetAttribute": ("int *value, int what", "*value = what == 75 ? 9 : 1024;"),
    "cudaMemGetInfo": ("size_t *free, size_t *all", "*free = *all = (size_t)80 << 30;"),
    "cuDevicePrimaryCtxGetState": ("int d, int *flags, int *on", "*flags = 0; *on = 0;"),
    "cudaGetDeviceProperties": ("char *p", "properties(p);"),
    "cudaGetDeviceProperties_v2": ("char *p", "properties(p);"),
}
_OBEYED = """
cuInit cudaGetLastError cudaPeekAtLastError cudaDeviceSynchronize cudaStreamQuery
cudaStreamSynchronize cudaStreamWaitEvent cudaEventQuery cudaEventSynchronize cudaEventDestroy
cudaFree cudaFreeHost cudaFuncGetAttributes cudaDeviceGetDefaultMemPool cudaMemcpyAsync
cudaMemsetAsync cudaLaunchKernel cudaThreadExchangeStreamCaptureMode cudaPointerGetAttributes
cudaDeviceGetPCIBusId
"""
_HEAD = """
#include <stddef.h>
#include <string.h>
static __thread int current = 0;
static int recorded_on = 0;
static void properties(char *p) {
  memset(p, 0, 1008);
  strcpy(p, "Fake GPU");
  *(size_t *)(p + 288) = (size_t)80 << 30; /* bytes of memory */
  *(int *)(p + 360) = 9;                   /* major compute capability */
}
const char *cudaGetErrorString(int e) { return "this GPU is fake"; }
const char *cudaGetErrorName(int e) { return "fake"; }
int cudaGetDriverEntryPointByVersion(char *n, void **f, unsigned v, long l, int *r) {
  *f = NULL;
  if (r) *r = 1;
  return 1;
}
"""


def lacking() -> str:
    """Why there can be no fake device here; empty where there can."""
    if shutil.which("cc") is None:
        return "no C compiler (cc)"
    return "" if torch.backends.cuda.is_built() else "torch is built without CUDA"


def environment(folder: Path) -> dict[str, str]:
    """Compile the stand-in into a folder; what a process needs in its environment to meet it."""
    refused = [("cudaMalloc", OUT_OF_MEMORY), ("cudaHostAlloc", OUT_OF_MEMORY)]
    lines = [f"int {name}({args}) {{ {body} return 0; }}" for name, (args, body) in _ASKED.items()]
    lines += [f"int {name}() {{ return 0; }}" for name in _OBEYED.split()]
    lines += [f"int {name}() {{ return {code}; }}" for name, code in refused]
    source, library = folder / "runtime.c", folder / "libcuda.so.1"
    source.write_text(_HEAD + "\n".join(lines) + "\n")
    subprocess.run(["cc", "-shared", "-fPIC", "-w", "-o", library, source], check=True)
    kept = {key: value for key, value in os.environ.items() if key != "CUDA_VISIBLE_DEVICES"}
    return {**kept, "LD_PRELOAD": str(library), "LD_LIBRARY_PATH": str(folder)}


_FREE = ("empty", "detach", "alias", "_unsafe_view", "lift_fresh", "_reshape_alias", "is_pinned")
"""Operators that launch nothing, though no views by their schema."""


class FakeCuda(TorchDispatchMode):
    """Tensors on `cuda` are fake within it.

    It counts launches, bytes sent from the host, and waits by what made the host wait. A copy from
    the host's memory waits unless it was pinned and asked not to block.
    """

    def __init__(self) -> None:
        super().__init__()
        self.fake = FakeTensorMode(allow_non_fake_inputs=True)
        self.launches = 0
        self.waits: Counter[str] = Counter()
        self.sent: Counter[torch.dtype] = Counter()
        self.pinned: set[int] = set()
        self.operators: Counter[str] = Counter()

    def clear(self) -> None:
        self.launches = 0
        self.waits.clear()
        self.sent.clear()
        self.operators.clear()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func._schema.name.partition("::")[2]
        if name == "device":
            return args[0].fake_device if isinstance(args[0], FakeTensor) else func(*args)
        given = [t for t in tree_iter((args, kwargs)) if isinstance(t, torch.Tensor)]
        if name == "_pin_memory":
            held = args[0].clone()
            self.pinned.add(held.untyped_storage().data_ptr())
            return held
        if name == "is_pinned":
            return not on_gpu(args[0]) and args[0].untyped_storage().data_ptr() in self.pinned
        target = kwargs.get("device")
        to_gpu = target is not None and torch.device(target).type == "cuda"
        if not to_gpu and not any(map(on_gpu, given)):
            return func(*args, **kwargs)
        if name == "_local_scalar_dense":
            self.waits["a value is read"] += 1
            return 0.0 if args[0].is_floating_point() else 0
        if name == "equal":
            self.waits["tensors are compared"] += 1
            return False
        if name == "copy_" and not on_gpu(args[0]):
            self.waits["copied to the host"] += 1
            return args[0].zero_()
        if name == "_to_copy" and target is not None and not to_gpu:
            self.waits["copied to the host"] += 1
            dtype = kwargs.get("dtype") or args[0].dtype
            return torch.zeros(args[0].shape, dtype=dtype, device=target)
        if name in ("_to_copy", "copy_"):
            self._count_upload(args[-1], kwargs.get("non_blocking", False))
        elif name.startswith("index") and any(not on_gpu(t) and t.dim() for t in given):
            self.waits["indexed from the host"] += 1
        with self.fake:
            result = func(*args, **kwargs)
        if not func.is_view and not name.startswith(_FREE):
            self.launches += 1
            self.operators[name] += 1
        return result

    def _count_upload(self, source: Any, non_blocking: bool) -> None:
        if not isinstance(source, torch.Tensor) or on_gpu(source):
            return
        self.sent[source.dtype] += source.nbytes
        if not (non_blocking and source.untyped_storage().data_ptr() in self.pinned):
            self.waits["copied from the host"] += 1


def on_gpu(tensor: torch.Tensor) -> bool:
    return isinstance(tensor, FakeTensor) and tensor.fake_device.type == "cuda"


@contextmanager
def fake_gpus() -> Iterator[FakeCuda]:
    """Within the block there are GPUs; only in a process with the `environment` of the stand-in."""
    lifted = torch._C._only_lift_cpu_tensors()
    torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(..., device="cuda") goes by the mode
    try:
        with mock.patch.object(FakeTensorMode, "avoid_device_init", True), FakeCuda() as seen:
            yield seen
    finally:
        torch._C._set_only_lift_cpu_tensors(lifted)
