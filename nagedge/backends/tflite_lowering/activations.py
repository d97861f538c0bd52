"""Activations and special functions that no builtin operator computes: composed of those that exist, to float32."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from torch import fx

from nagedge.backends.tflite_lowering.broadcasting import broadcast, unary
from nagedge.backends.tflite_lowering.builder import BOOL, FLOAT, GraphBuilder, Number, Value
from nagedge.backends.traced import argument_of

__all__ = ["RULES"]

Rule = Callable[[GraphBuilder, fx.Node], Value]


class _Expression:
    """Arithmetic on values in Python's notation."""

    def __init__(self, builder: GraphBuilder, value: Value) -> None:
        self.builder, self.value = builder, value

    def _with(self, kind: str, *operands: _Expression | Number) -> _Expression:
        values = [o.value if isinstance(o, _Expression) else self.builder.scalar(o, FLOAT) for o in operands]
        return _Expression(self.builder, broadcast(self.builder, kind, values))

    def __add__(self, other: _Expression | Number) -> _Expression:
        return self._with("ADD", self, other)

    def __sub__(self, other: _Expression | Number) -> _Expression:
        return self._with("SUB", self, other)

    def __rsub__(self, other: Number) -> _Expression:
        return self._with("SUB", other, self)

    def __mul__(self, other: _Expression | Number) -> _Expression:
        return self._with("MUL", self, other)

    def __truediv__(self, other: _Expression | Number) -> _Expression:
        return self._with("DIV", self, other)

    def __rtruediv__(self, other: Number) -> _Expression:
        return self._with("DIV", other, self)

    def at_least(self, other: Number) -> _Expression:
        return self._with("MAXIMUM", self, other)

    def at_most(self, other: Number) -> _Expression:
        return self._with("MINIMUM", self, other)

    def apply(self, kind: str) -> _Expression:
        return _Expression(self.builder, unary(self.builder, kind, self.value))

    def above(self, bound: Number) -> Value:
        return broadcast(self.builder, "GREATER", [self.value, self.builder.scalar(bound, FLOAT)], BOOL)


def _choose(condition: Value, yes: _Expression, no: _Expression) -> _Expression:
    return _Expression(yes.builder, broadcast(yes.builder, "SELECT_V2", [condition, yes.value, no.value]))


def _polynomial(x: _Expression, coefficients: Sequence[float]) -> _Expression:
    """Horner's rule; the first coefficient is that of the highest power."""
    result = x * coefficients[0] + coefficients[1]
    for coefficient in coefficients[2:]:
        result = result * x + coefficient
    return result


def _of(builder: GraphBuilder, node: fx.Node, place: int = 0) -> _Expression:
    return _Expression(builder, builder.of(node.args[place], FLOAT))


def _erf(builder: GraphBuilder, node: fx.Node) -> Value:
    # x P(x^2) / Q(x^2) on [-ERF_RANGE, ERF_RANGE], where erf reaches 1 in float32; fitted to the relative error.
    x = _of(builder, node).at_least(-_ERF_RANGE).at_most(_ERF_RANGE)
    square = x.apply("SQUARE")
    return (x * _polynomial(square, _ERF_NUMERATOR) / _polynomial(square, _ERF_DENOMINATOR)).value


def _atanh_series(ratio: _Expression) -> _Expression:
    """``2 atanh(r)`` for ``|r| <= 1/3``: ``2 r (1 + r^2/3 + r^4/5 + ...)``."""
    return ratio * _polynomial(ratio.apply("SQUARE"), [2 / n for n in range(17, 0, -2)])


def log1p(x: _Expression) -> _Expression:
    """Keep the precision near 0 that ``log(1 + x)`` loses: ``log1p(x) = 2 atanh(x / (x + 2))``."""
    inside = x.at_least(-0.5).at_most(1.0)
    near = _atanh_series(inside / (inside + 2.0))
    is_far = (
        _Expression(x.builder, broadcast(x.builder, "SUB", [x.value, inside.value])).apply("ABS").above(0.0)
    )
    return _choose(is_far, (x + 1.0).apply("LOG"), near)


def _log1p(builder: GraphBuilder, node: fx.Node) -> Value:
    return log1p(_of(builder, node)).value


def expm1(x: _Expression) -> _Expression:
    """Keep the precision near 0 that ``exp(x) - 1`` loses: ``expm1(x) = tanh(x / 2) (exp(x) + 1)``."""
    return (x * 0.5).apply("TANH") * (x.apply("EXP") + 1.0)


def _expm1(builder: GraphBuilder, node: fx.Node) -> Value:
    return expm1(_of(builder, node)).value


def _softplus(builder: GraphBuilder, node: fx.Node) -> Value:
    # max(x, 0) + log1p(exp(-|x|)): no overflow; beyond the threshold torch returns x itself
    x = _of(builder, node)
    beta = float(argument_of(node, 1, "beta", 1.0))
    threshold = float(argument_of(node, 2, "threshold", 20.0))
    scaled = x if math.isclose(beta, 1.0) else x * beta
    soft = scaled.apply("RELU") + log1p(scaled.apply("ABS").apply("NEG").apply("EXP"))
    if not math.isclose(beta, 1.0):
        soft = soft / beta
    return _choose(scaled.above(threshold), x, soft).value


def _elu(builder: GraphBuilder, node: fx.Node) -> Value:
    alpha = float(argument_of(node, 1, "alpha", 1.0))
    scale, input_scale = (float(argument_of(node, i, n, 1.0)) for i, n in ((2, "scale"), (3, "input_scale")))
    x = _of(builder, node)
    if alpha == input_scale == 1.0:
        result = x.apply("ELU")
    else:
        low = expm1(x.at_most(0.0) * input_scale) * alpha
        result = x.apply("RELU") + low
    return (result if scale == 1.0 else result * scale).value


def _leaky_relu(builder: GraphBuilder, node: fx.Node) -> Value:
    slope = float(argument_of(node, 1, "negative_slope", 0.01))
    return unary(builder, "LEAKY_RELU", builder.of(node.args[0], FLOAT), alpha=slope)


def _hardsigmoid(builder: GraphBuilder, node: fx.Node) -> Value:
    return ((_of(builder, node) + 3.0).apply("RELU6") * (1 / 6)).value


def _hardswish(builder: GraphBuilder, node: fx.Node) -> Value:
    return unary(builder, "HARD_SWISH", builder.of(node.args[0], FLOAT))


def _tan(builder: GraphBuilder, node: fx.Node) -> Value:
    x = _of(builder, node)
    return (x.apply("SIN") / x.apply("COS")).value


def _sinh(builder: GraphBuilder, node: fx.Node) -> Value:
    # (e + e / (e + 1)) / 2 with e = expm1(|x|), and the sign of x
    x = _of(builder, node)
    e = expm1(x.apply("ABS"))
    return ((e + e / (e + 1.0)) * x.apply("SIGN") * 0.5).value


def _cosh(builder: GraphBuilder, node: fx.Node) -> Value:
    e = _of(builder, node).apply("ABS").apply("EXP")
    return ((e + 1.0 / e) * 0.5).value


def _asinh(builder: GraphBuilder, node: fx.Node) -> Value:
    # log1p(|x| + x^2 / (1 + sqrt(1 + x^2))), and the sign of x
    x = _of(builder, node)
    size, square = x.apply("ABS"), x.apply("SQUARE")
    return (log1p(size + square / ((square + 1.0).apply("SQRT") + 1.0)) * x.apply("SIGN")).value


def _acosh(builder: GraphBuilder, node: fx.Node) -> Value:
    above = _of(builder, node) - 1.0
    return log1p(above + (above * (above + 2.0)).apply("SQRT")).value


def _atanh(builder: GraphBuilder, node: fx.Node) -> Value:
    # log1p(2 |x| / (1 - |x|)) / 2, and the sign of x
    x = _of(builder, node)
    size = x.apply("ABS")
    return (log1p(size * 2.0 / (1.0 - size)) * x.apply("SIGN") * 0.5).value


def _other_leg(x: _Expression) -> _Expression:
    """``sqrt(1 - x^2)``."""
    return ((1.0 - x) * (x + 1.0)).apply("SQRT")


def _asin(builder: GraphBuilder, node: fx.Node) -> Value:
    x = _of(builder, node)
    return broadcast(builder, "ATAN2", [x.value, _other_leg(x).value])


def _acos(builder: GraphBuilder, node: fx.Node) -> Value:
    x = _of(builder, node)
    return broadcast(builder, "ATAN2", [_other_leg(x).value, x.value])


def _atan(builder: GraphBuilder, node: fx.Node) -> Value:
    x = _of(builder, node)  # ATAN2 does not broadcast
    return broadcast(builder, "ATAN2", [x.value, (x.at_least(-1.0).at_most(1.0) * 0.0 + 1.0).value])


# Weighted least squares of erf(x) = x P(x^2) / Q(x^2) over Chebyshev points; in float32 the error is below 5e-7.
_ERF_RANGE = 3.95
_ERF_NUMERATOR = (
    1.9603817236202303e-08, -1.950910700543318e-06, 1.4381120854523033e-04, 3.8079158402979374e-03,
    5.092348903417587e-02, 2.0258460938930511e-01, 1.1283791065216064,
)  # fmt: skip
_ERF_DENOMINATOR = (
    9.798649698495865e-04, 1.45758967846632e-02, 1.1609521508216858e-01, 5.128674507141113e-01, 1.0,
)  # fmt: skip

RULES: dict[str, Rule] = {
    "erf": _erf, "log1p": _log1p, "expm1": _expm1, "softplus": _softplus, "elu": _elu, "leaky_relu": _leaky_relu,
    "hardsigmoid": _hardsigmoid, "hardswish": _hardswish, "tan": _tan, "sinh": _sinh, "cosh": _cosh, "asinh": _asinh,
    "acosh": _acosh, "atanh": _atanh, "asin": _asin, "acos": _acos, "atan": _atan,
}  # fmt: skip
