// SPDX-License-Identifier: MIT
// What a kernel's parameter takes, told to the launcher, which checks its arguments by it.
#pragma once

namespace ksim {

enum Kind : int {
  kEnd, // of a list
  kFloat,
  kInt,
  kUint,
  kBool,
  kBfloat,
  kStruct, // whatever it is: structs, and bytes
};
struct Description { // mirrored in arguments.py
  Kind kind;
  int bytes, components; // of a scalar or struct, and how many of them make one element
  int pointer;           // to an array of elements; else one element
};

} // namespace ksim
