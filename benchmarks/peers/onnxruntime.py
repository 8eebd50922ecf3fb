"""ONNX Runtime: the forward pass of a model exported from PyTorch, batch sizes as in :data:`INFERENCE`."""

from __future__ import annotations

import io
import warnings

import numpy as np
import onnxruntime
import torch

from ..protocol import Prepared, Unavailable
from ..workloads import INFERENCE, Workload
from .torch_models import build, parameter_count


def prepare(workload: Workload, mode: str, threads: int) -> Prepared:
    batch = int(mode.removeprefix("inference_b")) if mode.startswith("inference_b") else 0
    if batch not in INFERENCE.get(workload.name, ()):
        raise Unavailable(f"ONNX Runtime has no mode {mode} here")
    torch.manual_seed(0)
    model = build(workload).eval()
    records = torch.rand(batch, *workload.shape) * 2 - 1
    exported = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(model, (records,), exported, input_names=["records"], dynamo=False)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(exported.getvalue(), options, providers=["CPUExecutionProvider"])
    given = {"records": records.numpy()}
    # What is timed is what was asked for: the exported model gives PyTorch's own logits.
    with torch.no_grad():
        expected = model(records).numpy()
    if not np.allclose(session.run(None, given)[0], expected, rtol=1e-3, atol=1e-4):
        raise Unavailable("the exported model does not give PyTorch's logits")
    return Prepared(
        lambda: session.run(None, given),
        parameter_count(model),
        {"onnxruntime": onnxruntime.__version__, "torch": torch.__version__},
    )
