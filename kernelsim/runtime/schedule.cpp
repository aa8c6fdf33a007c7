// SPDX-License-Identifier: MIT
// Which fibre goes on: schedules, what lanes do together, barriers, and what it means when none can.
#include "running.hpp"

#include <stdio.h>

namespace ksim {

void (*on_converged)(Running &, int warp) = nullptr;

KSIM_CONSTANT thread_local Worker *worker = nullptr;

void start() {
  Running &w = running();
  w.launch->entry(w.launch->args);
  Fibre &me = *w.current;
  me.state = kReturned;
  w.live--;
  Warp &warp = w.warps[me.warp];
  warp.live &= ~(1u << me.lane);
  if (warp.waiting) w.settle(warp); // those that wait may have waited for this lane alone
  w.next(me);
  __builtin_trap();
}

static int lowest(uint32_t set) { return __builtin_ctz(set); }

int Running::pick(uint32_t lanes) {
  if (launch->schedule == kForward) return lowest(lanes);
  if (launch->schedule == kReverse) return 31 - __builtin_clz(lanes);
  const int turn = int(shuffle(random) & 31);
  return (lowest(lanes >> turn | (turn ? lanes << (32 - turn) : 0)) + turn) & 31;
}

// A warp in which a fibre can go on, when none of the warp of `me` can; null: the threadgroup has ended.
Warp *Running::runnable_warp(const Fibre &me) {
  const int step = launch->schedule == kReverse ? warp_count - 1 : 1;
  const int from = launch->schedule == kRandom ? int(shuffle(random) % uint32_t(warp_count)) : me.warp;
  for (;;) {
    int at = from;
    for (int tried = 0; tried < warp_count; tried++, at = (at + step) % warp_count)
      if (warps[at].runnable) return &warps[at];
    if (!live || !unblock()) return nullptr;
  }
}

// The fibre `me` waits or has returned: another goes on, or the threadgroup has ended.
void Running::next(Fibre &me) {
  Warp *warp = me.of;
  if (!warp->runnable && !(warp = runnable_warp(me))) return switch_stack(&me.sp, main_sp);
  const int lane = pick(warp->runnable);
  warp->runnable &= ~(1u << lane);
  Fibre &chosen = warp->fibres[lane];
  chosen.state = kRunnable;
  if (&chosen == &me) return;
  current = &chosen;
  switch_stack(&me.sp, chosen.sp);
}

// ---- What lanes do together

static bool same_place(const Call &a, const Call &b) {
  return a.name == b.name && a.where.line == b.where.line && a.where.file == b.where.file;
}

// Where the lanes are named by a mask, CUDA wants one operation of all, with one mask, but not at one place.
static bool alike(const Worker &w, const Fibre &a, const Fibre &b) {
  const Call &one = *a.call, &other = *b.call;
  if (a.together != b.together || one.participants != other.participants) return false;
  if (one.participants == kMasked && one.mask != other.mask) return false;
  return one.participants == kMasked && w.launch->cuda ? one.name == other.name : same_place(one, other);
}

// The lanes of the warp that wait for what `me` waits for.
static uint32_t those_like(const Worker &w, const Warp &warp, const Fibre &me) {
  uint32_t lanes = 0;
  const Fibre *of_warp = w.fibres + me.warp * kLanes;
  for (uint32_t set = warp.waiting; set; set &= set - 1)
    if (alike(w, of_warp[lowest(set)], me)) lanes |= 1u << lowest(set);
  return lanes;
}

static uint32_t wanted(const Warp &warp, const Fibre &me) {
  return me.call->participants == kMasked ? me.call->mask & warp.live : warp.live;
}

// Lanes that `one` names in its mask have returned, as they may. Fails if one of them had come to the same
// place with another mask: they disagree.
void Running::demand_one_mask(Fibre &one, uint32_t returned) {
  for (; returned; returned &= returned - 1) {
    const int i = one.warp * kLanes + lowest(returned);
    const Fibre &other = fibres[i];
    if (i >= threads || other.line != one.line || other.mask == one.mask) continue;
    current = &one;
    fail(kDivergence, one.call->where,
         "%s: lane %d comes with mask %08x, lane %d, which it names, came with %08x", one.call->name, one.lane,
         one.mask, other.lane, other.mask);
  }
}

void Running::complete(Warp &warp, uint32_t set) {
  Fibre *of_warp = fibres + (&warp - warps) * kLanes;
  Fibre &one = of_warp[lowest(set)];
  if (one.call->participants == kMasked && one.mask & ~warp.live) demand_one_mask(one, one.mask & ~warp.live);
  warp.lanes.active = set;
  warp.lanes.call = one.call;
  one.together(warp.lanes);
  if (on_converged && set == warp.live) on_converged(*this, int(&warp - warps));
  warp.waiting &= ~set;
  warp.runnable |= set;
  if (!warp.waiting) return;
  warp.first = &of_warp[lowest(warp.waiting)];
  warp.joined = those_like(*this, warp, *warp.first);
}

// Completes an operation of the warp for which everybody is there.
bool Running::settle(Warp &warp) {
  for (uint32_t set = warp.waiting; set; set &= set - 1) {
    const Fibre &me = fibres[(&warp - warps) * kLanes + lowest(set)];
    const uint32_t lanes = wanted(warp, me);
    if (!lanes || (lanes & ~those_like(*this, warp, me))) continue;
    complete(warp, lanes);
    return true;
  }
  return false;
}

void together(Together fn, const void *in, void *out, const Call &call) {
  Running &w = running();
  Fibre &me = *w.current;
  Warp &warp = *me.of;
  const uint32_t bit = 1u << me.lane;
  if (call.participants == kMasked && !(call.mask & bit))
    fail(kDivergence, call.where, "%s: lane %d is not in its own mask %08x", call.name, me.lane, call.mask);
  w.last = call.where;
  if (call.participants == kMasked) me.mask = call.mask, me.line = call.where.line;
  me.call = &call;
  me.together = fn;
  me.state = kTogether;
  warp.lanes.in[me.lane] = in;
  warp.lanes.out[me.lane] = out;
  uint32_t here = bit;
  if (!warp.waiting) {
    warp.first = &me;
    warp.joined = warp.waiting = bit;
  } else {
    warp.waiting |= bit;
    here = alike(w, *warp.first, me) ? warp.joined |= bit : those_like(w, warp, me);
  }
  const uint32_t lanes = wanted(warp, me);
  if ((lanes & ~here) == 0) {
    w.complete(warp, lanes);
    if (w.launch->schedule == kForward) {
      warp.runnable &= ~bit;
      me.state = kRunnable;
      return;
    }
  }
  w.next(me);
}

// ---- Barriers

void Running::release(int id) {
  for (int i = 0; i < warp_count; i++) {
    uint32_t released = 0;
    for (uint32_t set = warps[i].live & ~warps[i].runnable & ~warps[i].waiting; set; set &= set - 1) {
      const int lane = lowest(set);
      Fibre &f = fibres[i * kLanes + lane];
      if (f.state != kAtBarrier || f.barrier != id) continue;
      f.state = kRunnable;
      released |= 1u << lane;
    }
    warps[i].runnable |= released;
    if (on_converged && released && released == warps[i].live) on_converged(*this, i);
  }
  at_barrier[id] = arrived[id] = counted[id] = 0;
}

// All that live wait at a barrier. Fails unless it is one barrier, and nobody has returned before it.
void Running::demand_every_thread() {
  const Fibre *first = nullptr;
  for (int i = 0; i < threads; i++) {
    Fibre &f = fibres[i];
    if (f.state == kReturned) continue;
    if (!first) first = &f;
    if (same_place(*first->call, *f.call)) continue;
    current = &f;
    fail(kDivergence, f.call->where, "divergent %s: other threads wait at %s in line %d", f.call->name,
         first->call->name, first->call->where.line);
  }
  if (live == threads) return;
  for (int i = 0; i < threads; i++)
    if (fibres[i].state == kReturned) current = &fibres[i];
  fail(kDivergence, first->call->where, "divergent %s: %d of %d threads have returned before it",
       first->call->name, threads - live, threads);
}

// Every fibre waits. True when one can go on.
bool Running::unblock() {
  for (int id = 0; id < kBarriers; id++) {
    if (!at_barrier[id] || counted[id] || at_barrier[id] + arrived[id] < live) continue;
    if (launch->convergence == kEvery) demand_every_thread();
    release(id);
    return true;
  }
  for (int i = 0; i < warp_count; i++)
    if (warps[i].waiting && settle(warps[i])) return true;
  // Divergence. Of the groups that wait in a warp the one at the lowest line goes on first, as the branch does
  // that ends before the place where the lanes come together.
  for (int i = 0; i < warp_count; i++) {
    Warp &warp = warps[i];
    const Fibre *first = nullptr;
    for (uint32_t set = warp.waiting; set; set &= set - 1) {
      const Fibre &f = fibres[i * kLanes + lowest(set)];
      if (f.call->participants != kConverged &&
          (launch->convergence != kHardware || f.call->participants == kMasked))
        continue;
      if (!first || f.call->where.line < first->call->where.line) first = &f;
    }
    if (!first) continue;
    bool barrier_first = false;
    for (uint32_t set = warp.live & ~warp.waiting; set && launch->convergence == kHardware; set &= set - 1) {
      const Fibre &f = fibres[i * kLanes + lowest(set)];
      barrier_first |= f.state == kAtBarrier && f.call->where.line < first->call->where.line;
    }
    if (barrier_first) continue;
    complete(warp, those_like(*this, warp, *first));
    return true;
  }
  if (launch->convergence == kHardware)
    for (int id = 0; id < kBarriers; id++)
      if (at_barrier[id]) {
        release(id);
        return true;
      }
  diverged();
  return false;
}

// No fibre can go on: fails with one that waits for what does not come, and another that waits elsewhere.
void Running::diverged() {
  Fibre *one = nullptr, *other = nullptr;
  int waiting = 0, same = 0;
  for (int i = 0; i < threads; i++) {
    if (fibres[i].state == kReturned) continue;
    waiting++;
    const bool masked = fibres[i].state == kTogether && fibres[i].call->participants == kMasked;
    if (!one || (masked && one->call->participants != kMasked)) one = &fibres[i];
  }
  for (int i = 0; i < threads; i++) {
    if (fibres[i].state == kReturned) continue;
    if (same_place(*fibres[i].call, *one->call))
      same++;
    else if (!other || (fibres[i].warp == one->warp && other->warp != one->warp))
      other = &fibres[i];
  }
  current = one;
  char mask[32] = "", elsewhere[160] = "";
  if (one->state == kTogether && one->call->participants == kMasked)
    snprintf(mask, sizeof mask, " with mask %08x", one->call->mask);
  if (other)
    snprintf(elsewhere, sizeof elsewhere, ", others at %s in line %d", other->call->name,
             other->call->where.line);
  fail(kDivergence, one->call->where, "divergent %s%s: %d of %d threads wait here%s (%s %d)", one->call->name,
       mask, same, waiting, elsewhere, launch->cuda ? "warp" : "simdgroup", one->warp);
}

void arrive(const Call &call, int id, int expected) {
  Running &w = running();
  if (id < 0 || id >= kBarriers) fail(kArgument, call.where, "%s: there is no barrier %d", call.name, id);
  w.arrived[id]++;
  if (expected && w.at_barrier[id] + w.arrived[id] >= expected) w.release(id);
}

void barrier(const Call &call, int id, int expected) {
  Running &w = running();
  Fibre &me = *w.current;
  if (id < 0 || id >= kBarriers) fail(kArgument, call.where, "%s: there is no barrier %d", call.name, id);
  w.last = call.where;
  me.call = &call;
  me.state = kAtBarrier;
  me.barrier = id;
  w.counted[id] = expected;
  w.at_barrier[id]++;
  if (expected && w.at_barrier[id] + w.arrived[id] >= expected) w.release(id);
  w.next(me);
}

} // namespace ksim
