"""Elementary functions of vectors of numbers: text for LLVM.

float32: `tanh` is a rational function of degree 13 over 6, `exp` 2^n times a polynomial. float64:
`exp` is 2^n times a rational function, `tanh` one of small numbers and exponentials of others.
`logistic` is 1 / (1 + exp(-x)): small gates keep all their digits. NaN stays NaN.

References: Cody and Waite, 1980, chapters 6 and 13.
"""

import struct
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np


class Kind(NamedTuple):
    """A type of numbers, and what `exp` of it is made of."""

    name: str
    suffix: str  # in the names of LLVM's functions of vectors
    bytes: int
    whole: str  # the integers of that size
    mantissa: int  # bits
    round: float  # adding it leaves a whole number in the last bits
    high: float  # log 2 is high + low, of which high times a small whole number is exact
    low: float
    largest: float  # of arguments: from there on exp is infinite
    least: float  # and below this, zero, as where denormal numbers are


FLOAT = Kind(
    "float", "f32", 4, "i32", 23, 1.5 * 2**23, 0.693359375, -2.12194440e-4, 88.72283, -87.33654
)
DOUBLE = Kind(
    "double", "f64", 8, "i64", 52, 1.5 * 2**52,
    6.93145751953125e-1, 1.42860682030941723212e-6, 709.782712893384, -708.396418532264,
)  # fmt: skip
# float32, lowest power first: tanh(x) = x p(x^2) / q(x^2) within the bound ...
TANH_BOUND = 7.90531110763549805
TANH_OVER = (
    4.89352455891786e-03, 6.37261928875436e-04, 1.48572235717979e-05, 5.12229709037114e-08,
    -8.60467152213735e-11, 2.00018790482477e-13, -2.76076847742355e-16,
)  # fmt: skip
TANH_UNDER = (
    4.89352518554385e-03,
    2.26843463243900e-03,
    1.18534705686654e-04,
    1.19825839466702e-06,
)
# ... and exp(r) = 1 + r + r^2 p(r) for |r| <= log(2) / 2.
EXP = (0.5, 1.6666665459e-1, 4.1665795894e-2, 8.3334519073e-3, 1.3981999507e-3, 1.9875691500e-4)
# float64: exp(r) = 1 + 2 r p(r^2) / (q(r^2) - r p(r^2)) ...
EXP_OVER = (9.99999999999999999910e-1, 3.02994407707441961300e-2, 1.26177193074810590878e-4)
EXP_UNDER = (
    2.0, 2.27265548208155028766e-1, 2.52448340349684104192e-3, 3.00198505138664455042e-6,
)  # fmt: skip
# ... and tanh(x) = x + x^3 p(x^2) / q(x^2) for |x| < 0.625, else 1 - 2 / (exp(2 x) + 1).
SMALL = 0.625
SMALL_OVER = (-1.61468768441708447952e3, -9.92877231001918586564e1, -9.64399179425052238628e-1)
SMALL_UNDER = (
    4.84406305325125486048e3, 2.23548839060100448583e3, 1.12811678491632931402e2, 1.0,
)  # fmt: skip


def define(head: str, lines: Iterable[str]) -> str:
    """A function."""
    return "\n".join([f"define {head} {{", *lines, "}"])


def constant(number, lanes: int, kind: Kind) -> str:
    """A vector of one number, or of one flag."""
    if isinstance(number, bool | np.bool_):
        return "<" + ", ".join([f"i1 {'true' if number else 'false'}"] * lanes) + ">"
    value = float(np.float32(number)) if kind is FLOAT else float(number)
    bits = struct.pack(">d", value).hex()
    return "<" + ", ".join([f"{kind.name} 0x{bits}"] * lanes) + ">"


def functions(lanes: int, kind: Kind) -> Iterator[str]:
    """`@seqlab.tanh`, `exp` and `logistic` of one width, and declarations of LLVM's own."""
    text = _Vectors(lanes, kind)
    for name, count in (("fma", 3), ("maximum", 2), ("minimum", 2), ("fabs", 1), ("sqrt", 1)):
        args = ", ".join([text.vector] * count)
        yield f"declare {text.vector} @llvm.{name}.{text.suffix}({args})"
    yield text.function("exp", text.exp())
    yield text.function("tanh", text.tanh_of_floats() if kind is FLOAT else text.tanh_of_doubles())
    yield text.function(
        "logistic",
        [
            f"%m = fneg {text.vector} %x",
            text.call("%e", "@seqlab.exp", "%m"),
            f"%d = fadd {text.vector} %e, {text.number(1.0)}",
            f"%y = fdiv {text.vector} {text.number(1.0)}, %d",
        ],
    )


class _Vectors:
    """Lines of functions of a vector %x; the result is %y."""

    def __init__(self, lanes, kind):
        self.lanes, self.kind = lanes, kind
        self.vector, self.whole = f"<{lanes} x {kind.name}>", f"<{lanes} x {kind.whole}>"
        self.suffix = f"v{lanes}{kind.suffix}"

    def number(self, value) -> str:
        return constant(float(value), self.lanes, self.kind)

    def function(self, name, lines) -> str:
        head = f"internal {self.vector} @seqlab.{name}.{self.suffix}({self.vector} %x) alwaysinline"
        return define(head, [*lines, f"ret {self.vector} %y"])

    def call(self, name, function, *args) -> str:
        args = ", ".join(f"{self.vector} {arg}" for arg in args)
        return f"{name} = call {self.vector} {function}.{self.suffix}({args})"

    def fma(self, name, a, b, c) -> str:
        return self.call(name, "@llvm.fma", a, b, c)

    def polynomial(self, prefix, x, coefficients) -> tuple[list[str], str]:
        """Horner's scheme: (lines, name of the result)."""
        total, lines = self.number(coefficients[-1]), []
        for k, c in enumerate(coefficients[-2::-1]):
            lines.append(self.fma(f"%{prefix}{k}", total, x, self.number(c)))
            total = f"%{prefix}{k}"
        return lines, total

    def choose(self, name, test, yes, no) -> str:
        vector = self.vector
        return f"{name} = select <{self.lanes} x i1> {test}, {vector} {yes}, {vector} {no}"

    def clamp(self, name, x, low, high) -> list[str]:
        """Within bounds; NaN stays NaN."""
        low, high = self.number(low), self.number(high)
        return [
            f"{name}h = fcmp ogt {self.vector} {x}, {high}",
            self.choose(f"{name}m", f"{name}h", high, x),
            f"{name}l = fcmp olt {self.vector} {name}m, {low}",
            self.choose(name, f"{name}l", low, f"{name}m"),
        ]

    def exp(self) -> list[str]:
        """Of x = n log 2 + r, for n of which 2^n is a normal number; mended beyond."""
        kind, vector, whole = self.kind, self.vector, self.whole
        lines = self.clamp("%c", "%x", kind.least, kind.largest)
        lines += [self.fma("%t", "%c", self.number(1 / np.log(2)), self.number(kind.round))]
        lines += [f"%n = fsub {vector} %t, {self.number(kind.round)}"]
        lines += [self.fma("%r1", "%n", self.number(-kind.high), "%c")]
        lines += [self.fma("%r", "%n", self.number(-kind.low), "%r1")]
        lines += [f"%rr = fmul {vector} %r, %r"]
        if kind is FLOAT:
            terms, p = self.polynomial("p", "%r", EXP)
            lines += [*terms, self.fma("%s", p, "%rr", "%r")]
        else:
            over, p = self.polynomial("p", "%rr", EXP_OVER)
            under, q = self.polynomial("q", "%rr", EXP_UNDER)
            lines += [*over, *under, f"%rp = fmul {vector} %r, {p}", f"%b = fsub {vector} {q}, %rp"]
            lines += [f"%v = fdiv {vector} %rp, %b", f"%s = fadd {vector} %v, %v"]
        lines += [f"%e1 = fadd {vector} %s, {self.number(1.0)}"]
        shift = "<" + ", ".join([f"{kind.whole} {kind.mantissa}"] * self.lanes) + ">"
        lines += [f"%ti = bitcast {vector} %t to {whole}", f"%n2 = shl {whole} %ti, {shift}"]
        lines += [f"%ei = bitcast {vector} %e1 to {whole}", f"%wi = add {whole} %ei, %n2"]
        lines += [f"%w = bitcast {whole} %wi to {vector}"]
        lines += [f"%isbig = fcmp ogt {vector} %x, {self.number(kind.largest)}"]
        lines += [self.choose("%w1", "%isbig", self.number(np.inf), "%w")]
        lines += [f"%issmall = fcmp olt {vector} %x, {self.number(kind.least)}"]
        lines += [self.choose("%w2", "%issmall", self.number(0.0), "%w1")]
        return [
            *lines,
            f"%isnan = fcmp uno {vector} %x, %x",
            self.choose("%y", "%isnan", "%x", "%w2"),
        ]

    def tanh_of_floats(self) -> list[str]:
        lines = [*self.clamp("%c", "%x", -TANH_BOUND, TANH_BOUND)]
        lines += [f"%z = fmul {self.vector} %c, %c"]
        over, p = self.polynomial("p", "%z", TANH_OVER)
        under, q = self.polynomial("q", "%z", TANH_UNDER)
        lines += [*over, *under, f"%o = fmul {self.vector} %c, {p}"]
        return [*lines, f"%y = fdiv {self.vector} %o, {q}"]

    def tanh_of_doubles(self) -> list[str]:
        vector = self.vector
        lines = [f"%z = fmul {vector} %x, %x"]
        over, p = self.polynomial("p", "%z", SMALL_OVER)
        under, q = self.polynomial("q", "%z", SMALL_UNDER)
        lines += [*over, *under, f"%f = fdiv {vector} {p}, {q}", f"%xz = fmul {vector} %x, %z"]
        lines += [self.fma("%inner", "%xz", "%f", "%x")]
        lines += [f"%x2 = fadd {vector} %x, %x", self.call("%e", "@seqlab.exp", "%x2")]
        lines += [f"%d = fadd {vector} %e, {self.number(1.0)}"]
        lines += [f"%g = fdiv {vector} {self.number(-2.0)}, %d"]
        lines += [f"%outer = fadd {vector} %g, {self.number(1.0)}"]
        lines += [self.call("%size", "@llvm.fabs", "%x")]
        lines += [f"%near = fcmp olt {vector} %size, {self.number(SMALL)}"]
        return [*lines, self.choose("%y", "%near", "%inner", "%outer")]
