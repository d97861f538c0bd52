"""int8 by ONNX Runtime's quantiser: static (ranges from calibration) and dynamic (ranges measured at run time)."""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from nagedge.backends.onnx_precision.selection import chosen_nodes, one_scale_weights
from nagedge.backends.onnx_precision.session import check_runs, folded, prepare_onnxruntime
from nagedge.errors import UnsupportedOperatorError

__all__ = ["quantize_dynamic", "quantize_static"]

Array = npt.NDArray[Any]


def quantize_static(payload: dict[str, Any]) -> dict[str, bytes]:
    """Return ``model`` (a serialised float32 ONNX model) with quantised weights and activations, in QDQ form.

    QDQ: every quantised tensor passes a QuantizeLinear and a DequantizeLinear of the standard domain, which ONNX
    Runtime fuses with the operator between them into an integer kernel when it loads the model. Weights are int8,
    symmetric, one scale an output channel; activations int8, asymmetric, one scale a tensor, over the whole range that
    was seen. Both are signed because that suits the kernels of arm64 (ONNX Runtime's guide, in ``quantize_static``).
    Inputs and outputs stay float32. So do the results of linear layers, whose sums the integer kernel hands out as
    float: the outputs of heads are neither rounded to 256 steps nor cut off at the largest value of the calibration.

    The ranges are the smallest and the largest value seen. Percentiles and entropy (which would hold all activations of
    all rows in memory) gave no better metric on trained networks, nor did leaving first or last layers in float.

    Args:
        payload: ``model``; ``calibration``: safetensors with the tensors ``<batch number>/<input>``.
    """
    prepare_onnxruntime()
    import onnx
    from onnxruntime import quantization

    prepared = folded(payload["model"])
    onnx.save(prepared, "prepared.onnx")
    chosen = chosen_nodes(prepared.graph)
    if not chosen:
        raise _nothing_to_quantise(payload["target"])
    int8 = quantization.QuantType.QInt8
    batches = _Batches(payload["calibration"])
    with _quiet():
        quantization.quantize_static(
            "prepared.onnx",
            "int8.onnx",
            batches,
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=sorted(
                {node.op_type for node in prepared.graph.node if node.name in set(chosen)}
            ),
            nodes_to_quantize=chosen,
            per_channel=True,
            activation_type=int8,
            weight_type=int8,
            calibrate_method=quantization.CalibrationMethod.MinMax,
            extra_options={
                "OpTypesToExcludeOutputQuantization": ["Gemm", "MatMul"],
                "TensorQuantOverrides": {
                    name: [{"quant_type": int8, "symmetric": True}]
                    for name in one_scale_weights(prepared.graph, chosen)
                },
            },
        )
    return {"model": _finished(onnx.load("int8.onnx"), batches.first)}


def quantize_dynamic(payload: dict[str, Any]) -> dict[str, bytes]:
    """Return ``model`` with int8 matrix products, whose activations are quantised as they come.

    Only products with constant weights, and tables that are looked up in. Convolutions are left alone: their dynamic
    form, ``ConvInteger``, has no optimised kernel and no fusion, and takes several times as long as float32.

    Raises:
        UnsupportedOperatorError: there is no such operator.
    """
    prepare_onnxruntime()
    import onnx
    from onnxruntime import quantization

    prepared = folded(payload["model"])
    _transpose_weights(prepared.graph)
    onnx.save(prepared, "prepared.onnx")
    with _quiet():
        quantization.quantize_dynamic(
            "prepared.onnx",
            "int8.onnx",
            op_types_to_quantize=["MatMul", "Gather"],  # Gemm becomes a MatMul first
            nodes_to_exclude=_products_of_many_matrices(prepared.graph),
            per_channel=True,
            weight_type=quantization.QuantType.QInt8,
            # Matrix products are of float32; without this the quantiser looks their type up, and may not find it.
            extra_options={"MatMulConstBOnly": True, "DefaultTensorType": onnx.TensorProto.FLOAT},
        )
    model = onnx.load("int8.onnx")
    if not any(node.op_type in ("MatMulInteger", "DequantizeLinear") for node in model.graph.node):
        raise _nothing_to_quantise(payload["target"])
    return {"model": _finished(model)}


def _products_of_many_matrices(graph: Any) -> list[str]:
    """Return the names of matrix products with constants of three dimensions or more, for which there is no kernel."""
    rank = {tensor.name: len(tensor.dims) for tensor in graph.initializer}
    return [node.name for node in graph.node if node.op_type == "MatMul" and rank.get(node.input[1], 2) > 2]


def _transpose_weights(graph: Any) -> None:
    """Store the transposed weight of every linear layer, once, and let the layer read it as it is.

    The quantiser would transpose it in its place for every layer that reads it: a weight that two layers share, or one
    that is unrolled over time, would be transposed twice and more.
    """
    from onnx import numpy_helper

    weights = {tensor.name: tensor for tensor in graph.initializer}
    made: set[str] = set()
    for node in graph.node:
        flag = next((attribute for attribute in node.attribute if attribute.name == "transB"), None)
        if node.op_type != "Gemm" or flag is None or flag.i == 0 or node.input[1] not in weights:
            continue
        name = f"{node.input[1]}.transposed"
        if name not in made:
            made.add(name)
            transposed = numpy_helper.to_array(weights[node.input[1]]).T
            graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(transposed), name))
        node.input[1] = name
        flag.i = 0


def _nothing_to_quantise(target: str) -> UnsupportedOperatorError:
    return UnsupportedOperatorError(
        f"target {target!r} is 8-bit, and the model has no operator to quantise: no linear layer or lookup with "
        "constant weights, nor (where activations are calibrated) a convolution. Choose precision 'fp16' or 'fp32'."
    )


class _Batches:
    """What the quantiser reads calibration from, one batch after another."""

    def __init__(self, content: bytes) -> None:
        import safetensors.numpy

        batches: dict[int, dict[str, Array]] = {}
        for name, array in safetensors.numpy.load(content).items():
            number, _, key = name.partition("/")
            batches.setdefault(int(number), {})[key] = array
        self.first = batches[0]
        self._left: Iterator[dict[str, Array]] = iter([batches[number] for number in sorted(batches)])

    def get_next(self) -> dict[str, Array] | None:
        """Return the next batch; None after the last."""
        return next(self._left, None)


def _finished(model: Any, inputs: Mapping[str, Array] | None = None) -> bytes:
    """Return the model's bytes without what the tools note for themselves; it must run."""
    import onnx

    used = {name for node in model.graph.node for name in node.input} | {o.name for o in model.graph.output}
    kept = [tensor for tensor in model.graph.initializer if tensor.name in used]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    del model.graph.value_info[:]
    del model.metadata_props[:]
    _shorten_names(model.graph)
    model.producer_name = "nagedge"
    model.producer_version = ""
    onnx.checker.check_model(model)
    result: bytes = model.SerializeToString()
    check_runs(result, inputs)
    return result


def _shorten_names(graph: Any) -> None:
    """Number the tensors inside the graph: the quantiser's names for them are up to a third of a small model's file."""
    border = {"", *(info.name for info in (*graph.input, *graph.output))}
    numbers: dict[str, str] = {}

    def short(name: str) -> str:
        return name if name in border else numbers.setdefault(name, f"#{len(numbers)}")

    for number, node in enumerate(graph.node):
        node.name = node.name or f"{node.op_type}#{number}"
        node.input[:] = [short(name) for name in node.input]
        node.output[:] = [short(name) for name in node.output]
    for tensor in graph.initializer:
        tensor.name = short(tensor.name)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Swallow what the tools print and advise; errors come as exceptions."""
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(logging.NOTSET)
