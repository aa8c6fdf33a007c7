// SPDX-License-Identifier: MIT
// Small floating-point formats to and from f32, bit for bit.
//
//   float x = ksim::decode<ksim::E4m3>(code);
//   uint32_t code = ksim::encode<ksim::E4m3, ksim::kNearestEven, ksim::kSaturate>(x);
//
// A code is the low bits of a word; the bits above are 0, and are ignored by decode(). Everything is computed
// on integers, so it does not depend on the modes of the CPU's floating-point unit. Needs no header and no
// more than C++17, as OpenCL C++ has it.
#pragma once

namespace ksim {

#define KSIM_PURE inline constexpr __attribute__((always_inline, nodebug))

using Bits = __UINT32_TYPE__;

enum Rounding {
  kNearestEven, // PTX .rn
  kNearestAway, // .rna: ties away from zero
  kTowardZero,  // .rz
  kUp,          // .rp: towards +infinity
  kDown,        // .rm
};
enum Overflow {
  kToInfinity, // as IEEE 754 has it; NaN where the format has no infinity
  kSaturate,   // PTX .satfinite: infinity too becomes the greatest finite value; NaN stays NaN
};
enum Specials {
  kIeee,    // the greatest exponent is infinity and NaN
  kNanOnly, // all bits set is NaN, there is no infinity
  kFinite,  // neither; NaN becomes the greatest finite value, positive, as PTX has it
};

template <int kExponentBits, int kMantissaBits, Specials kSpecialCodes> struct Format {
  static constexpr int kExponent = kExponentBits, kMantissa = kMantissaBits;
  static constexpr Specials kSpecial = kSpecialCodes;
  static constexpr int kBias = (1 << (kExponent - 1)) - 1;
  static constexpr Bits kMagnitude = (1u << (kExponent + kMantissa)) - 1; // all bits but the sign
  static constexpr Bits kSign = kMagnitude + 1;
  static constexpr Bits kInfinity = ((1u << kExponent) - 1) << kMantissa; // of kIeee
  static constexpr Bits kGreatest = kSpecial == kIeee      ? kInfinity - 1
                                    : kSpecial == kNanOnly ? kMagnitude - 1
                                                           : kMagnitude;
  // CUDA's canonical NaN has all bits set but the sign; other NaNs are read, never written.
  static constexpr Bits kNan = kSpecial == kFinite ? kGreatest : kMagnitude;
};
using F16 = Format<5, 10, kIeee>;
using Bf16 = Format<8, 7, kIeee>;
using Tf32 = Format<8, 10, kIeee>; // 19 bits; the upper ones of a 32-bit register, see tf32()
using E5m2 = Format<5, 2, kIeee>;
using E4m3 = Format<4, 3, kNanOnly>;
using E3m2 = Format<3, 2, kFinite>;
using E2m3 = Format<2, 3, kFinite>;
using E2m1 = Format<2, 1, kFinite>;

KSIM_PURE Bits bits_of(float x) { return __builtin_bit_cast(Bits, x); }
KSIM_PURE float float_of(Bits bits) { return __builtin_bit_cast(float, bits); }

template <class F> KSIM_PURE float decode(Bits code) {
  const Bits magnitude = code & F::kMagnitude;
  const Bits sign = (code & F::kSign) << (31 - F::kExponent - F::kMantissa);
  const Bits bits = magnitude << (23 - F::kMantissa);
  if constexpr (F::kExponent == 8) {
    return float_of(sign | bits); // f32's own exponent; infinity and NaN too
  } else {
    constexpr Bits rebias = Bits(127 - F::kBias) << 23, one = 1u << 23;
    // A subnormal m * 2^(1 - bias - mantissa bits) is a normal number with that exponent less its leading one.
    const float subnormal = float_of(bits + rebias + one) - float_of(rebias + one);
    const bool special = F::kSpecial == kIeee      ? magnitude >= F::kInfinity
                         : F::kSpecial == kNanOnly ? magnitude == F::kNan
                                                   : false;
    const Bits normal = special ? (F::kSpecial == kIeee ? bits | 0x7f800000 : 0x7fffffff) : bits + rebias;
    return float_of(sign | (magnitude >> F::kMantissa ? normal : bits_of(subnormal)));
  }
}

template <class F, Rounding kRounding = kNearestEven, Overflow kOverflow = kToInfinity>
KSIM_PURE Bits encode(float x) {
  const Bits bits = bits_of(x), magnitude = bits & 0x7fffffff;
  const bool negative = bits >> 31;
  const Bits sign = negative ? F::kSign : 0;
  if (magnitude > 0x7f800000) return F::kNan;
  // x = significand * 2^(exponent - 150). What is below the format's last place is shifted out and rounded.
  constexpr int smallest = 127 + 1 - F::kBias; // f32's exponent field of the format's least normal number
  const int field = int(magnitude >> 23), exponent = field ? field : 1;
  const Bits significand = (magnitude & 0x7fffff) | (field ? 0x800000 : 0);
  const int below = exponent < smallest ? smallest - exponent : 0;
  const int wanted = 23 - F::kMantissa + below, shift = wanted < 31 ? wanted : 31;
  const Bits kept = significand >> shift, rest = significand - (kept << shift), tie = 1u << (shift - 1);
  const bool away = kRounding == kNearestEven   ? rest > tie || (rest == tie && (kept & 1))
                    : kRounding == kNearestAway ? rest >= tie
                    : kRounding == kUp          ? rest && !negative
                    : kRounding == kDown        ? rest && negative
                                                : false;
  // A normal number's leading one adds 1 to the exponent field; so does a mantissa that rounds up to 2.
  const Bits above = exponent > smallest ? Bits(exponent - smallest) : 0;
  const Bits code = (above << F::kMantissa) + kept + away;
  if (code <= F::kGreatest) return sign | code;
  const bool finite = magnitude < 0x7f800000;
  const bool stays_finite = kRounding == kTowardZero || (kRounding == kUp && negative) ||
                            (kRounding == kDown && !negative);
  if (F::kSpecial == kFinite || kOverflow == kSaturate || (finite && stays_finite)) return sign | F::kGreatest;
  return sign | (F::kSpecial == kIeee ? F::kInfinity : F::kNan);
}

// tf32 lies in a 32-bit register, its lower 13 bits zero.
template <Rounding kRounding = kNearestAway, Overflow kOverflow = kToInfinity> KSIM_PURE Bits tf32(float x) {
  const Bits code = encode<Tf32, kRounding, kOverflow>(x);
  return code == Tf32::kNan ? 0x7fffffff : code << 13;
}

// E8m0, the scale of OCP's MX formats: code - 127 is the exponent of a power of two; 255 is NaN; there is no
// zero and no sign.
KSIM_PURE float decode_e8m0(Bits code) {
  code &= 0xff;
  return float_of(code == 255 ? 0x7fffffff : code == 0 ? 0x00400000 : code << 23);
}
// The sign of x is dropped. kUp and kTowardZero are PTX's .rp and .rz; kNearestAway is cuda_fp8.h's nearest.
template <Rounding kRounding, Overflow kOverflow = kSaturate> KSIM_PURE Bits encode_e8m0(float x) {
  static_assert(kRounding == kUp || kRounding == kTowardZero || kRounding == kNearestAway,
                "not a rounding of E8m0");
  const Bits magnitude = bits_of(x) & 0x7fffffff;
  if (magnitude > 0x7f800000) return 255;
  const Bits exponent = magnitude >> 23, mantissa = magnitude & 0x7fffff;
  // Between 2^-127, the least code, and 2^-126 f32 is subnormal.
  const bool away = !exponent                   ? magnitude > (kRounding == kUp ? 0x400000u : 0x5fffffu)
                    : magnitude == 0x7f800000   ? false
                    : kRounding == kUp          ? mantissa != 0
                    : kRounding == kNearestAway ? mantissa >= 0x400000
                                                : false;
  const Bits code = exponent + (away && kRounding != kTowardZero);
  return code == 255 && kOverflow == kSaturate ? 254 : code;
}

// The unsigned E4m3 scale of nvfp4 is E4m3 without its sign bit.
KSIM_PURE float decode_ue4m3(Bits code) { return decode<E4m3>(code & 0x7f); }

#ifndef __OPENCL_CPP_VERSION__
// f64 to f32 so that rounding the result once more, to a format with 22 bits or less, rounds as if at once:
// towards zero, the last bit set where something was cut off.
KSIM_PURE float round_to_odd(double x) {
  const float nearest = float(x);
  if (nearest != nearest || double(nearest) == x) return nearest;
  const Bits bits = bits_of(nearest);
  const bool beyond = x < 0 ? double(nearest) < x : double(nearest) > x; // rounded away from zero
  return float_of((beyond ? bits - 1 : bits) | 1);
}
#endif

// Bits that a register holds, as the types of a language may use them.
KSIM_PURE float f16_to_f32(Bits code) {
#if (defined(__F16C__) || defined(__aarch64__)) && !defined(__OPENCL_CPP_VERSION__) // in hardware
  return float(__builtin_bit_cast(_Float16, (unsigned short)code));
#else
  return decode<F16>(code);
#endif
}
KSIM_PURE unsigned short f32_to_f16(float x) { return (unsigned short)encode<F16>(x); }
KSIM_PURE float bf16_to_f32(Bits code) { return decode<Bf16>(code); }
KSIM_PURE unsigned short f32_to_bf16(float x) { return (unsigned short)encode<Bf16>(x); }

} // namespace ksim
