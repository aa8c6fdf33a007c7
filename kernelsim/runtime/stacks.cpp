// SPDX-License-Identifier: MIT
// Switching from fibre to fibre: what a function may not destroy is pushed, the stack exchanged, and popped.
#include "running.hpp"

#include <string.h>

namespace ksim {

#if defined(__x86_64__)
constexpr int kSaved = 6; // rbp rbx r12 to r15
__attribute__((naked, noinline)) void switch_stack(void ** /*save*/, void * /*load*/) {
  __asm__("pushq %rbp; pushq %rbx; pushq %r12; pushq %r13; pushq %r14; pushq %r15\n"
          "movq %rsp, (%rdi); movq %rsi, %rsp\n"
          "popq %r15; popq %r14; popq %r13; popq %r12; popq %rbx; popq %rbp\n"
          "popq %rcx; jmpq *%rcx"); // a ret would be predicted to return to where this was called from
}
void *first_frame(unsigned char *top, void (*start)()) {
  void **sp = reinterpret_cast<void **>(top) - 1; // where the return address of start() would lie
  *sp = nullptr;
  *--sp = reinterpret_cast<void *>(start);
  for (int i = 0; i < kSaved; i++) *--sp = nullptr;
  return sp;
}
#elif defined(__aarch64__)
constexpr int kSaved = 20; // x19 to x30, d8 to d15
__attribute__((naked, noinline)) void switch_stack(void ** /*save*/, void * /*load*/) {
  __asm__(
      "sub sp, sp, #160\n"
      "stp x19, x20, [sp]; stp x21, x22, [sp, #16]; stp x23, x24, [sp, #32]; stp x25, x26, [sp, #48]\n"
      "stp x27, x28, [sp, #64]; stp x29, x30, [sp, #80]\n"
      "stp d8, d9, [sp, #96]; stp d10, d11, [sp, #112]; stp d12, d13, [sp, #128]; stp d14, d15, [sp, #144]\n"
      "mov x9, sp; str x9, [x0]; mov sp, x1\n"
      "ldp x19, x20, [sp]; ldp x21, x22, [sp, #16]; ldp x23, x24, [sp, #32]; ldp x25, x26, [sp, #48]\n"
      "ldp x27, x28, [sp, #64]; ldp x29, x30, [sp, #80]\n"
      "ldp d8, d9, [sp, #96]; ldp d10, d11, [sp, #112]; ldp d12, d13, [sp, #128]; ldp d14, d15, [sp, #144]\n"
      "add sp, sp, #160; br x30"); // a ret would be predicted to return to where this was called from
}
void *first_frame(unsigned char *top, void (*start)()) {
  void **sp = reinterpret_cast<void **>(top) - kSaved;
  memset(sp, 0, kSaved * sizeof(void *));
  sp[11] = reinterpret_cast<void *>(start); // x30
  return sp;
}
#else
#error "kernelsim runs on x86-64 and AArch64"
#endif

} // namespace ksim
