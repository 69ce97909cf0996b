"""Environment variables that change how fast kernels are and that benches inherit as the user set them."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["INHERITED", "inherited"]

#: Each with what it does.
INHERITED: Mapping[str, str] = {
    "ATEN_CPU_CAPABILITY": "torch's kernels use another instruction set than the processor has",
    "CUBLAS_WORKSPACE_CONFIG": "cuBLAS has another workspace, and other kernels to choose from",
    "CUDA_LAUNCH_BLOCKING": "every CUDA launch waits for its kernel: launches cannot overlap",
    "DNNL_MAX_CPU_ISA": "oneDNN's kernels use another instruction set than the processor has",
    "GLIBC_TUNABLES": "malloc may behave otherwise than measure.malloc says",
    "GOMP_CPU_AFFINITY": "OpenMP's threads are pinned, NumPy's are not: they may share CPUs",
    "KMP_AFFINITY": "OpenMP's threads are pinned, NumPy's are not: they may share CPUs",
    "MKL_CBWR": "MKL computes reproducibly, on slower paths",
    "MKL_DYNAMIC": "MKL chooses its number of threads by another rule",
    "MKL_ENABLE_INSTRUCTIONS": "MKL uses another instruction set than the processor has",
    "NPY_DISABLE_CPU_FEATURES": "NumPy's kernels use another instruction set than the processor has",
    "NVIDIA_TF32_OVERRIDE": "CUDA libraries use TF32, or do not, whatever torch's setting says",
    "OMP_DYNAMIC": "OpenMP may use fewer threads than it is told",
    "OMP_PLACES": "OpenMP's threads are pinned, NumPy's are not: they may share CPUs",
    "OMP_PROC_BIND": "OpenMP's threads are pinned, NumPy's are not: they may share CPUs",
    "OMP_THREAD_LIMIT": "OpenMP may use fewer threads than it is told",
    "ONEDNN_DEFAULT_FPMATH_MODE": "oneDNN may compute float32 in a lower precision",
    "ONEDNN_MAX_CPU_ISA": "oneDNN's kernels use another instruction set than the processor has",
    "OPENBLAS_CORETYPE": "OpenBLAS uses the kernels of another processor",
    "OPENBLAS_L2_SIZE": "OpenBLAS's blocks are made for another cache",
    "PYTHONMALLOC": "Python's own objects are allocated by other means, and more slowly",
    "PYTHONDEVMODE": "Python checks itself while it runs, which makes calls of small kernels slower",
    "PYTORCH_ALLOC_CONF": "torch's allocators of accelerators behave otherwise, in time and in memory",
    "PYTORCH_CUDA_ALLOC_CONF": "torch's CUDA allocator behaves otherwise, in time and in memory",
    "PYTORCH_NO_CUDA_MEMORY_CACHING": "every CUDA tensor is allocated by the driver, which takes long",
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE": "float32 products on a GPU may be TF32, whatever torch is told",
}


def inherited(here: Mapping[str, str]) -> dict[str, str]:
    """Those of `INHERITED` that are set `here`, with their values."""
    return {name: here[name] for name in INHERITED if here.get(name)}
