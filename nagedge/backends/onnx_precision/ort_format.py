"""ONNX Runtime's own file format, and the list of operators for a build of ONNX Runtime that holds no others.

The same means as the command ``python -m onnxruntime.tools.convert_onnx_models_to_ort --target_platform arm
--enable_type_reduction``: the session that loads a model saves what it made of it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nagedge.backends.onnx_precision.session import check_runs, prepare_onnxruntime, session_options

__all__ = ["convert"]


def convert(payload: dict[str, Any]) -> dict[str, bytes]:
    """Return each model of the payload (name -> serialised ONNX model) in ORT format, and ``config``.

    The graph is optimised here, once and for all; a session that loads the file optimises nothing more. What only this
    machine could run is left out: the blocked layout NCHWc of x86. ("Saved runtime optimisations", the tool's other
    style, are applied only by sessions with ``session.enable_saved_runtime_optimizations``: without it, an int8 model
    would compute in float.) The content is always the same, but not the order in which ONNX Runtime writes some lists.
    """
    ort = prepare_onnxruntime()
    from onnxruntime.tools.ort_format_model import create_config_from_models

    answer: dict[str, bytes] = {}
    paths = []
    for name, model in payload.items():
        path = Path(f"{name}.ort")
        options = session_options(ort)
        options.optimized_model_filepath = str(path)
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.add_session_config_entry("session.save_model_format", "ORT")
        options.add_session_config_entry("session.qdqisint8allowed", "1")  # arm64 computes on signed int8
        ort.InferenceSession(
            model, options, providers=["CPUExecutionProvider"], disabled_optimizers=["NchwcTransformer"]
        )
        answer[name] = path.read_bytes()
        check_runs(answer[name])
        paths.append(path)
    create_config_from_models(paths, Path("required_operators.config"), enable_type_reduction=True)
    answer["config"] = Path("required_operators.config").read_bytes()
    return answer
