// SPDX-License-Identifier: MIT
// The Metal Shading Language's standard library on a CPU. It is included before the source, rewritten to C++;
// macros.hpp is what the source's own #include <metal_stdlib> sees.
#pragma once
#include "atomic.hpp"
#include "builtins.hpp"
#include "limits.hpp"
#include "matrix.hpp"
#include "pack.hpp"
#include "simdgroup_matrix.hpp"
#ifndef KSIM_CHECK
#include "bind.hpp"
#endif
