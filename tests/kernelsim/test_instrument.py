# SPDX-License-Identifier: MIT
"""What the audit's pass over LLVM's assembly makes of accesses: which calls stand before them."""

import pytest

from kernelsim.instrument import MARK, instrument

CASES = {
    "an aligned access keeps the compiler's call": (
        """
  call void @__sanitizer_cov_load4(ptr %0), !dbg !7
  %1 = load float, ptr %0, align 4, !dbg !7
""",
        ["__sanitizer_cov_load4(ptr %0), !dbg !7"],
    ),
    "memcpy(&word, bytes, 4)": (
        """
  call void @__sanitizer_cov_load4(ptr %0), !dbg !7
  %1 = load i32, ptr %0, align 1, !dbg !7
""",
        ["ksim_audit_load(ptr %0, i64 4, i32 1), !dbg !7"],
    ),
    "sizes without a callback": (
        """
  %1 = load i96, ptr %0, align 4
  store <8 x float> <float 1.0, float 2.0>, ptr %0, align 32
""",
        ["ksim_audit_load(ptr %0, i64 12, i32 4)", "ksim_audit_store(ptr %0, i64 32, i32 32)"],
    ),
    "what the compiler left out stays out": ("  store i32 1, ptr %0, align 4", []),
    "a copy from a table": (
        """
  tail call void @llvm.memcpy.p0.p0.i64(ptr noundef align 2 dereferenceable(18) %0, ptr align 4 @t, i64 18, i1 false)
""",
        ["ksim_audit_store(ptr %0, i64 18, i32 2)"],
    ),
    "a copy of unknown size": (
        """
  tail call void @llvm.memmove.p0.p0.i64(ptr align 8 %0, ptr nonnull %1, i64 %4, i1 false), !dbg !7
""",
        ["ksim_audit_store(ptr %0, i64 %4, i32 8), !dbg !7", "ksim_audit_load(ptr %1, i64 %4, i32 1), !dbg !7"],
    ),
    "memset": (
        """
  tail call void @llvm.memset.p0.i64(ptr nonnull align 16 %0, i8 0, i64 64, i1 false)
""",
        ["ksim_audit_store(ptr %0, i64 64, i32 16)"],
    ),
    "a struct that was taken apart": (
        """
  call void @__sanitizer_cov_load8(ptr %0)
  %1 = load double, ptr %0, align 16
  %2 = getelementptr inbounds nuw i8, ptr %0, i64 8
  call void @__sanitizer_cov_load8(ptr %2)
  %3 = load double, ptr %2, align 8
""",
        ["ksim_audit_load(ptr %0, i64 16, i32 16)"],
    ),
    "the same with something between that may write": (
        """
  call void @__sanitizer_cov_load8(ptr %0)
  %1 = load double, ptr %0, align 16
  tail call void @g()
  %2 = getelementptr inbounds i8, ptr %0, i64 8
  call void @__sanitizer_cov_load8(ptr %2)
  %3 = load double, ptr %2, align 8
""",
        ["__sanitizer_cov_load8(ptr %0)", "__sanitizer_cov_load8(ptr %2)"],
    ),
    "neighbours that no alignment joins": (
        """
  call void @__sanitizer_cov_load4(ptr %0)
  %1 = load float, ptr %0, align 4
  %2 = getelementptr i8, ptr %0, i64 4
  call void @__sanitizer_cov_load4(ptr %2)
  %3 = load float, ptr %2, align 4
""",
        ["__sanitizer_cov_load4(ptr %0)", "__sanitizer_cov_load4(ptr %2)"],
    ),
    "volatile neighbours": (
        """
  call void @__sanitizer_cov_store4(ptr %0)
  store volatile float 0.0, ptr %0, align 8
  %2 = getelementptr i8, ptr %0, i64 4
  call void @__sanitizer_cov_store4(ptr %2)
  store volatile float 0.0, ptr %2, align 4
""",
        ["__sanitizer_cov_store4(ptr %0)", "__sanitizer_cov_store4(ptr %2)"],
    ),
    "no kernel has thread_local variables": (
        """
  %1 = tail call align 8 ptr @llvm.threadlocal.address.p0(ptr align 8 @worker)
  call void @__sanitizer_cov_load8(ptr %1)
  %2 = load ptr, ptr %1, align 8
""",
        [],
    ),
    "nor do the guards of the simulator's": (
        """
  call void @__sanitizer_cov_load1(ptr @guard)
  %2 = load i8, ptr @guard, align 1
  br i1 true, label %3, label %5
3:
  %4 = call align 8 ptr @llvm.threadlocal.address.p0(ptr align 8 @name)
  br label %7
5:
  %6 = call align 8 ptr @llvm.threadlocal.address.p0(ptr align 8 @name)
  br label %7
7:
  %8 = phi ptr [ %4, %3 ], [ %6, %5 ]
  call void @__sanitizer_cov_load8(ptr %8)
  %9 = load ptr, ptr %8, align 8
""",
        [],
    ),
}
MODULE = "@guard = internal thread_local global i8 0, align 1\n"


@pytest.mark.parametrize("name", CASES)
def test_calls_before_accesses(name):
    body, expected = CASES[name]
    text = instrument(f"{MODULE}define void @f(ptr %0) #0 {{\n{body}\n}}\nattributes #0 = {{ nounwind }}\n")
    assert [line.split("void @")[1] for line in text.splitlines() if line.startswith("  call void")] == expected
    assert f"@{MARK} = constant" in text


def test_functions_that_are_not_to_be_seen():
    body = "define void @f(ptr %0) #1 {\n  %1 = load i96, ptr %0, align 4\n}\nattributes #1 = { nosanitize_coverage }\n"
    assert "call" not in instrument(body)
