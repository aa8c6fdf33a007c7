// SPDX-License-Identifier: MIT
// What a translated asm statement is made of: registers, constants, vectors of them, addresses.
//
// A register is an unsigned integer as wide as PTX declares it, a predicate a bool. Instructions are functions
// of values of PTX's types, which set() calls with what the bits of registers mean, or of the registers
// themselves.
#pragma once
#include "bfloat16.hpp"
#include "half.hpp"

namespace ksim::ptx {

template <int kBytes> struct Word;
template <> struct Word<1> {
  using type = uint8_t;
};
template <> struct Word<2> {
  using type = uint16_t;
};
template <> struct Word<4> {
  using type = uint32_t;
};
template <> struct Word<8> {
  using type = uint64_t;
};
template <> struct Word<16> {
  using type = unsigned __int128;
};
template <class T> using Raw = typename Word<sizeof(T)>::type;
template <class T> struct Type {
  using type = T;
};
template <bool kFirst, class A, class B> struct Select {
  using type = A;
};
template <class A, class B> struct Select<false, A, B> {
  using type = B;
};

// ---- Values of types that C++ lacks

using Half = ::__half;
using Bfloat = ::__nv_bfloat16;
// .f16x2 and its like; x is the lower half.
template <class T> struct Pair {
  using Element = T;
  T x, y;
};

template <class T> constexpr bool is_pair = false;
template <class T> constexpr bool is_pair<Pair<T>> = true;
template <class T> constexpr bool is_real = __is_floating_point(T) || cuda::One<T>;
template <class T> constexpr bool is_bool = __is_same(T, bool);
template <class T> constexpr bool is_signed_integer = __is_integral(T) && T(-1) < T(0);

// ---- Constants of the instruction's text, which take the type that the instruction wants

struct Imm {
  long long value;
  template <class T> KSIM_INLINE constexpr operator T() const { return T(value); }
};
struct Real {
  double value;
};
template <class T> constexpr bool is_constant = __is_same(T, Imm) || __is_same(T, Real);

// ---- Between registers and values

template <class T, class R> KSIM_INLINE T as(R raw) {
  if constexpr (__is_same(R, Imm)) {
    if constexpr (__is_arithmetic(T))
      return T(raw.value);
    else
      return __builtin_bit_cast(T, Raw<T>(raw.value));
  } else if constexpr (__is_same(R, Real)) {
    if constexpr (__is_floating_point(T))
      return T(raw.value);
    else if constexpr (sizeof(T) == 8)
      return __builtin_bit_cast(T, raw.value);
    else
      return __builtin_bit_cast(T, float(raw.value));
  } else if constexpr (is_bool<T> || is_bool<R>) {
    static_assert(is_bool<T> && is_bool<R>, "asm: a predicate and a register cannot stand for each other");
    return raw;
  } else {
    return __builtin_bit_cast(T, Raw<T>(raw)); // a wider register's upper bits do not count
  }
}
// A value of T in a register, which may be wider: signed integers keep their sign.
template <class R, class T> KSIM_INLINE R raw(T value) {
  if constexpr (is_bool<T> || is_bool<R>) {
    static_assert(is_bool<T> && is_bool<R>, "asm: a predicate and a register cannot stand for each other");
    return value;
  } else if constexpr (__is_integral(T)) {
    return R(value);
  } else {
    return R(__builtin_bit_cast(Raw<T>, value));
  }
}

// The variables of an asm statement's operands.
template <class R, class T> KSIM_INLINE R read(T value) {
  static_assert(sizeof(T) == sizeof(R), "asm: the operand is not of the size that its constraint says");
  return __builtin_bit_cast(R, value);
}
template <class T, class R> KSIM_INLINE void write(T &variable, R raw) {
  static_assert(sizeof(T) == sizeof(R), "asm: the operand is not of the size that its constraint says");
  if constexpr (__is_integral(T))
    variable = T(raw);
  else
    variable = __builtin_bit_cast(T, raw);
}

// d = kFunction(a...), each register taken as what the function wants.
template <class F> struct Signature;
template <class D, class... P> struct Signature<D (*)(P...)> {
  template <auto kFunction, class R, class... A> KSIM_INLINE static void call(R &d, A... a) {
    d = raw<R>(kFunction(as<P>(a)...));
  }
  template <class R, class... A> static constexpr bool fits() {
    return sizeof(D) == sizeof(R) && ((is_constant<A> || sizeof(A) == sizeof(P)) && ...);
  }
};
template <auto kFunction, class R, class... A> KSIM_INLINE void set(R &d, A... a) {
  using Its = Signature<decltype(kFunction)>;
  static_assert(Its::template fits<R, A...>(), "asm: a register is not of the size that the instruction wants");
  Its::template call<kFunction>(d, a...);
}
template <auto kFunction, class R, class... A> KSIM_INLINE void set_wide(R &d, A... a) {
  Signature<decltype(kFunction)>::template call<kFunction>(d, a...);
}

// ---- Vectors {a, b, c, d}

template <class R, int kCount> struct Vec {
  static constexpr int count = kCount;
  R of[kCount];
};
template <class R, int kCount> struct Tie {
  using Register = R;
  static constexpr int count = kCount;
  R *of[kCount];
};
// Constants among them take the width of the registers.
template <class... A> struct WidthOf {
  using type = uint32_t;
};
template <class A, class... Rest> struct WidthOf<A, Rest...> {
  using type = typename Select<is_constant<A>, WidthOf<Rest...>, Type<A>>::type::type;
};
template <class... A> KSIM_INLINE auto vec(A... a) {
  using R = typename WidthOf<A...>::type;
  return Vec<R, sizeof...(A)>{{as<R>(a)...}};
}
template <class R, class... Rest> KSIM_INLINE Tie<R, 1 + sizeof...(Rest)> tie(R &first, Rest &...rest) {
  return {{&first, &rest...}};
}
template <class R> KSIM_INLINE Tie<R, 1> tied(R &one) { return {{&one}}; }
template <class R, int kCount> KSIM_INLINE Tie<R, kCount> tied(Tie<R, kCount> &many) { return many; }
template <class R> KSIM_INLINE Vec<R, 1> vector(R one) { return {{one}}; }
template <class R, int kCount> KSIM_INLINE Vec<R, kCount> vector(Vec<R, kCount> many) { return many; }

// ---- State spaces. Generic addresses are the CPU's; shared ones are offsets in the worker's window.

enum Space {
  kGeneric,
  kShared
};
// The window ends with a dynamic array that CUDA does not have.
KSIM_INLINE uint64_t window_bytes() { return uint64_t(worker->dynamic[kSlots - 1] - worker->window); }
KSIM_INLINE bool in_shared_window(const void *p) {
  return uint64_t(p) - uint64_t(worker->window) < window_bytes();
}

template <Space kSpace, class R, class... Offsets>
KSIM_INLINE unsigned char *at(Where where, R address, Offsets... offsets) {
  const uint64_t sum = (uint64_t(as<R>(address)) + ... + uint64_t(as<long long>(offsets)));
  if constexpr (kSpace == kShared) {
    const uint64_t offset = sizeof(R) == 4 ? uint32_t(sum) : sum;
    if (offset >= window_bytes())
      fail(kMemory, where, "asm: %#llx is not an address of shared memory", (unsigned long long)offset);
    return worker->window + offset;
  } else {
    static_assert(sizeof(R) == 8 || __is_same(R, Imm), "asm: a generic or global address has 64 bits");
    return reinterpret_cast<unsigned char *>(sum);
  }
}
KSIM_INLINE void check_alignment(const void *p, size_t bytes, const char *name, Where where) {
  if (uint64_t(p) & (bytes - 1))
    fail(kMemory, where, "%s: misaligned address %p: %d bytes of alignment are needed", name, p, int(bytes));
}

// ---- Names of modifiers

// clang-format off
enum Name {
  kLo, kHi, kEq, kNe, kLt, kLe, kGt, kGe, kLs, kHs, kEqu, kNeu, kLtu, kLeu, kGtu, kGeu, kNum, kNan,
  kAnd, kOr, kXor, kAdd, kMin, kMax, kInc, kDec, kExch, kSin, kCos, kLg2, kEx2, kRsqrt, kTanh,
  kClamp, kWrap, kF4e, kB4e, kRc8, kEcl, kEcr, kRc16, kUp, kDown, kBfly, kIdx, kAll, kAny, kUni, kCa, kCg,
};
// clang-format on

} // namespace ksim::ptx
