// SPDX-License-Identifier: MIT
// What a .cu file has without including anything: the device language, the runtime API, and the C library.
// cuda_fp16.h and its like stand in rooms of their own: half.hpp, bfloat16.hpp, fp8.hpp, fp4.hpp, wmma.hpp,
// cooperative_groups.hpp, pipeline.hpp; inline assembly in ptx.hpp.
#pragma once
#include <assert.h>
#include <limits.h>
#include <stdint.h>
#include <stdio.h>

#include "atomic.hpp"
#include "host.hpp"
#include "integer.hpp"
#include "math.hpp"
#include "memory.hpp"
#include "types.hpp"
#include "warp.hpp"

// The engine's, in which a kernel that prints without end can be stopped.
#define KSIM_STRING_OF(x) #x
#define KSIM_STRING(x) KSIM_STRING_OF(x)
extern "C" int printf(const char *format, ...) __asm__(KSIM_STRING(__USER_LABEL_PREFIX__) "ksim_printf");
#undef KSIM_STRING
#undef KSIM_STRING_OF
