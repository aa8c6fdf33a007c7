// SPDX-License-Identifier: MIT
// The PTX instructions that asm statements of a .cu file may use; kernelsim/ptx.py writes the calls.
#pragma once
#include "ptx_cvt.hpp"
#include "ptx_mbarrier.hpp"
#include "ptx_mma.hpp"
#include "ptx_warp.hpp"
