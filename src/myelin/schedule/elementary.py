"""Elementary functions as polynomials, so that kernels need no mathematics library and vectorise.

Each takes and returns one float32 TIR expression. Coefficients are those of the Cephes library (S. L.
Moshier, *Methods and Programs for Mathematical Functions*, 1989). Bounds on the error, over all finite
inputs, are what the tests of this room measure against float64: 2 ulp for :func:`exp` and :func:`tanh`, 3
ulp for :func:`sigmoid`. Infinities give the limits; NaN gives NaN.
"""

from __future__ import annotations

from collections.abc import Callable

from tvm import tirx

from ..graph.selection import fenced

EXP_POLYNOMIAL = (
    1.9875691500e-4,
    1.3981999507e-3,
    8.3334519073e-3,
    4.1665795894e-2,
    1.6666665459e-1,
    5.0000001201e-1,
)
"""Of (e**r − 1 − r) / r², |r| ≤ ln 2 / 2, highest power first."""
TANH_POLYNOMIAL = (
    -5.70498872745e-3,
    2.06390887954e-2,
    -5.37397155531e-2,
    1.33314422036e-1,
    -3.33332819422e-1,
)
"""Of (tanh x − x) / x³ in x², |x| < 0.625, highest power first."""
ERF_NUMERATOR = (
    -2.72614225801306e-10,
    2.77068142495902e-08,
    -2.10102402082508e-06,
    -5.69250639462346e-05,
    -7.34990630326855e-04,
    -2.95459980854025e-03,
    -1.60960333262415e-02,
)
"""Of erf(x) / x in x², |x| ≤ 4, highest power first, as in Eigen's generic_fast_erf_float."""
ERF_DENOMINATOR = (
    -1.45660718464996e-05,
    -2.13374055278905e-04,
    -1.68282697438203e-03,
    -7.37332916720468e-03,
    -1.42647390514189e-02,
)
"""What :data:`ERF_NUMERATOR`'s polynomial is divided by."""
ERF_LIMIT = 4.0
"""From here on erf is ±1 in float32."""
LOG2_E = 1.44269504088896341
# ln 2 in two parts: the first has few bits, so that a whole multiple of it is exact.
LN2_HIGH, LN2_LOW = 0.693359375, -2.12194440e-4
# Below the first exp is zero, above the second infinite; both are reached by scaling twice.
_EXP_LOWEST, _EXP_HIGHEST = -104.0, 89.0
# Where tanh changes from its polynomial to 1 - 2 / (exp(2x) + 1).
TANH_SWITCH = 0.625


def _f(value: float) -> tirx.FloatImm:
    return tirx.FloatImm("float32", value)


def _let(name: str, value: object, body: Callable[[tirx.Var], object], dtype: str = "float32") -> object:
    """Name a subexpression, so that the tree stays small."""
    variable = tirx.Var(name, dtype)
    return tirx.Let(variable, value, body(variable))


def _horner(coefficients: tuple[float, ...], x: tirx.Var) -> object:
    total: object = _f(coefficients[0])
    for coefficient in coefficients[1:]:
        total = tirx.op.fma(total, x, _f(coefficient))
    return total


def _power_of_two(n: object) -> object:
    """2**n for an int32 expression in [-126, 127], from the bits of the exponent."""
    return tirx.reinterpret(
        "float32", tirx.shift_left(n + tirx.IntImm("int32", 127), tirx.IntImm("int32", 23))
    )


def exp(x: object) -> object:
    """e**x, by Cody-Waite reduction to [-ln 2 / 2, ln 2 / 2]."""

    def scaled(reduced: tirx.Var, n: tirx.Var) -> object:
        square = _let(
            "s", reduced * reduced, lambda s: tirx.op.fma(_horner(EXP_POLYNOMIAL, reduced), s, reduced)
        )
        half = tirx.shift_right(n, tirx.IntImm("int32", 1))
        return (square + _f(1.0)) * _power_of_two(half) * _power_of_two(n - half)

    def of_finite(y: tirx.Var) -> object:
        def of_multiple(m: tirx.Var) -> object:
            reduced = tirx.op.fma(m, _f(-LN2_LOW), tirx.op.fma(m, _f(-LN2_HIGH), y))
            return _let(
                "r", reduced, lambda r: _let("n", tirx.Cast("int32", m), lambda n: scaled(r, n), "int32")
            )

        return _let("m", tirx.floor(tirx.op.fma(y, _f(LOG2_E), _f(0.5))), of_multiple)

    def checked(value: tirx.Var) -> object:
        # The fence keeps LLVM from taking some of these together, and then branching on the rest.
        clamped = tirx.max(fenced(tirx.min(value, _f(_EXP_HIGHEST))), _f(_EXP_LOWEST))
        return tirx.Select(tirx.isnan(value), value, _let("y", clamped, of_finite))

    return _let("x", x, checked)


def erf(x: object) -> object:
    """The error function, float32, at most 5·10⁻⁷ from the truth, relative; never beyond ±1; NaN for NaN."""
    value, square, quotient = (tirx.Var(name, "float32") for name in ("x", "x2", "q"))
    clamped = tirx.max(tirx.min(value, _f(ERF_LIMIT)), _f(-ERF_LIMIT))
    inner = tirx.Var("c", "float32")
    ratio = inner * _horner(ERF_NUMERATOR, square) / _horner(ERF_DENOMINATOR, square)
    bounded = tirx.Let(quotient, ratio, tirx.max(tirx.min(quotient, _f(1.0)), _f(-1.0)))
    of_clamped = tirx.Let(inner, clamped, tirx.Let(square, inner * inner, bounded))
    return tirx.Let(value, x, tirx.Select(tirx.isnan(value), value, of_clamped))


def sigmoid(x: object) -> object:
    """1 / (1 + e**-x)."""

    # exp is taken of what is not positive, so that it neither overflows nor loses the small results.
    def of(value: tirx.Var) -> object:
        def of_exp(e: tirx.Var) -> object:
            return tirx.Select(value < _f(0.0), e, _f(1.0)) / (_f(1.0) + e)

        return _let("e", exp(_f(0.0) - tirx.abs(value)), of_exp)

    return _let("x", x, of)


def tanh(x: object) -> object:
    """The hyperbolic tangent; its absolute value never exceeds 1."""

    def of(value: tirx.Var) -> object:
        return _let("a", tirx.abs(value), lambda a: of_absolute(value, a))

    def of_absolute(value: tirx.Var, a: tirx.Var) -> object:
        small = _let("z", value * value, lambda z: tirx.op.fma(_horner(TANH_POLYNOMIAL, z) * z, value, value))
        large = _let(
            "t",
            _f(1.0) - _f(2.0) / (exp(a + a) + _f(1.0)),
            lambda t: tirx.Select(value < _f(0.0), _f(0.0) - t, t),
        )
        return tirx.Select(a < _f(TANH_SWITCH), small, large)

    return _let("x", x, of)
