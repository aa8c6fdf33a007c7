// SPDX-License-Identifier: MIT
// PTX ISA, "Warp Level Matrix Instructions": ldmatrix, stmatrix, movmatrix.
//
// Lane 8 m + r gives the address of row r of matrix m, 16 bytes (16 m + r for 16x16 matrices). It reads or
// writes them itself, so that an access is the lane's that asked; then rows and registers are exchanged. What a
// register of lane 4 g + t holds ("Figure 104" to "Figure 108"):
//   kRows: of row g, bytes 4 t to 4 t + 3. The m8n8.b16 layout, and m8n16's of 8-bit elements.
//   kTransposed16: m8n8.trans.b16, 16-bit elements of rows 2 t and 2 t + 1 in column g.
//   kTransposed8: m16n16.trans, bytes of rows 4 t to 4 t + 3, in column g and, in a second register, g + 8.
//   kAccumulators8: stmatrix.m16n8.trans, bytes of rows 2 t and 2 t + 1 in column g, then those in column g
//   + 8.
#pragma once
#include "ptx_memory.hpp"

namespace ksim::ptx {

enum Layout {
  kRows,
  kTransposed16,
  kTransposed8,
  kAccumulators8
};
struct Row {
  uint8_t of[16];
};
template <int kRegisters> struct Fragments {
  uint32_t of[kRegisters];
};
// Where the parts of a lane's register r lie in memory: each part is kBytes wide, in the row of some lane.
template <Layout kLayout> struct Parts {
  static constexpr int kBytes = kLayout == kRows ? 4 : kLayout == kTransposed16 ? 2 : 1;
  static KSIM_INLINE int row(int r, int lane, int part) {
    const int g = lane / 4, t = lane % 4;
    return kLayout == kRows           ? 8 * r + g
           : kLayout == kTransposed16 ? 8 * r + 2 * t + part
           : kLayout == kTransposed8  ? 16 * (r / 2) + 4 * t + part
                                      : 8 * r + 2 * t + part % 2;
  }
  static KSIM_INLINE int byte(int r, int lane, int part) {
    const int g = lane / 4, t = lane % 4;
    return kLayout == kRows           ? 4 * t
           : kLayout == kTransposed16 ? 2 * g
           : kLayout == kTransposed8  ? g + 8 * (r % 2)
                                      : g + 8 * (part / 2);
  }
};

// The ISA leaves these instructions undefined unless all lanes of the warp execute them.
inline void demand_full_warp(const Lanes &lanes) {
  if (lanes.active != ~0u)
    fail(kUndefined, lanes.call->where, "%s: only %d lanes of the warp take part", lanes.call->name,
         __builtin_popcount(lanes.active));
}
// f(lane, register, first byte of the part in it, row, byte in the row)
template <Layout kLayout, int kRegisters, class F> KSIM_INLINE void each_part(F f) {
  using Its = Parts<kLayout>;
  for (int lane = 0; lane < kLanes; lane++)
    for (int r = 0; r < kRegisters; r++)
      for (int part = 0; part < 4 / Its::kBytes; part++)
        f(lane, r, part * Its::kBytes, Its::row(r, lane, part), Its::byte(r, lane, part));
}
template <Layout kLayout, int kRegisters> inline void distribute(Lanes &lanes) {
  demand_full_warp(lanes);
  each_part<kLayout, kRegisters>([&](int lane, int r, int at, int row, int byte) {
    auto *to = reinterpret_cast<uint8_t *>(&lanes.result<Fragments<kRegisters>>(lane).of[r]);
    __builtin_memcpy(to + at, lanes.arg<Row>(row).of + byte, Parts<kLayout>::kBytes);
  });
}
template <Layout kLayout, int kRegisters> inline void collect(Lanes &lanes) {
  demand_full_warp(lanes);
  each_part<kLayout, kRegisters>([&](int lane, int r, int at, int row, int byte) {
    const auto *from = reinterpret_cast<const uint8_t *>(&lanes.arg<Fragments<kRegisters>>(lane).of[r]);
    __builtin_memcpy(lanes.result<Row>(row).of + byte, from + at, Parts<kLayout>::kBytes);
  });
}

// .b8x16.b4x16_p64 and .b6x16_p32: 16 elements of four or six bits and padding, each into the low bits of a
// byte.
template <int kBits> KSIM_INLINE Row unpacked(const Row &packed) {
  unsigned __int128 bits;
  __builtin_memcpy(&bits, packed.of, 16);
  Row row;
  for (int i = 0; i < 16; i++) row.of[i] = uint8_t(bits >> kBits * i) & ((1 << kBits) - 1);
  return row;
}

template <Layout kLayout, int kRegisters, int kBits = 8, class D>
KSIM_INLINE void ldmatrix(D &&d, const unsigned char *from, Where where = here()) {
  const auto results = tied(d);
  static_assert(decltype(tied(d))::count == kRegisters, "asm: ldmatrix has another number of results");
  Row row;
  if (self().lane < 8 * kRegisters) { // the other lanes' addresses do not count
    check_alignment(from, 16, "ldmatrix", where);
    copy(&row, from, 16);
    if constexpr (kBits < 8) row = unpacked<kBits>(row);
  }
  Fragments<kRegisters> out;
  together(distribute<kLayout, kRegisters>, &row, &out, {"ldmatrix", where});
  for (int r = 0; r < kRegisters; r++) *results.of[r] = out.of[r];
}
template <Layout kLayout, int kRegisters, class V>
KSIM_INLINE void stmatrix(unsigned char *to, V v, Where where = here()) {
  const auto operands = vector(v);
  static_assert(decltype(vector(v))::count == kRegisters, "asm: stmatrix has another number of operands");
  Fragments<kRegisters> in;
  for (int r = 0; r < kRegisters; r++) in.of[r] = operands.of[r];
  Row row;
  together(collect<kLayout, kRegisters>, &in, &row, {"stmatrix", where});
  if (self().lane < 8 * kRegisters) {
    check_alignment(to, 16, "stmatrix", where);
    copy(to, &row, 16);
  }
}

// The fragment of a matrix becomes that of its transpose.
inline void transpose(Lanes &lanes) {
  demand_full_warp(lanes);
  const auto element = [&](int row, int column) {
    return lanes.arg<uint32_t>(4 * row + column / 2) >> 16 * (column % 2) & 0xffff;
  };
  for (int lane = 0; lane < kLanes; lane++) {
    const int g = lane / 4, t = lane % 4;
    lanes.result<uint32_t>(lane) = element(2 * t, g) | element(2 * t + 1, g) << 16;
  }
}
KSIM_INLINE void movmatrix(uint32_t &d, uint32_t a, Where where = here()) {
  uint32_t out;
  together(transpose, &a, &out, {"movmatrix", where});
  d = out;
}

} // namespace ksim::ptx
