# SPDX-License-Identifier: MIT
"""The PTX instructions that kernelsim knows, in the notation of NVIDIA's "PTX ISA", and what computes them.

A line of TABLE is `syntax operands : C++ : needs`, under the name of the ISA's section. In the syntax, {.x} may be
left out, .<name:a|b> is one of those, and .=name the same again; the modifiers may stand in any order, as ptxas takes
them, but for types. Of the operands d, p, d|p and p|q are results, p and q predicates, [a:space] is an address, -h a
hint that changes nothing, and {, x} may be left out. The C++ is a template of ksim::ptx, in which {name} stands for
what was written in its place. `d = f` is a function of values, `d ~ f` one whose registers may be wider than its types,
`f` alone is given the registers. Needs: 80 is sm_80 and later; 120a is sm_120a and what has all of its features, as
sm_120f and sm_121a have.
"""

TABLE = r"""
# Integer Arithmetic Instructions
<f:add|sub>.<t:INT> d, a, b                             : d = {f}<{t}>
add.<t:u16x2|s16x2> d, a, b                             : d = add<{t}> : 90
<f:add|sub>.sat.s32 d, a, b                             : d = {f}_sat
mul.<half:lo|hi>.<t:INT> d, a, b                        : d = mul_half<{t}, {half}>
mul.wide.<t:u16|s16|u32|s32> d, a, b                    : d = mul_wide<{t}>
mad.<half:lo|hi>.<t:INT> d, a, b, c                     : d = mad_half<{t}, {half}>
mad.hi.sat.s32 d, a, b, c                               : d = mad_hi_sat
mad.wide.<t:u16|s16|u32|s32> d, a, b, c                 : d = mad_wide<{t}>
mul24.<half:lo|hi>.<t:INT32> d, a, b                    : d = mul24<{t}, {half}>
mad24.<half:lo|hi>.<t:INT32> d, a, b, c                 : d = mad24<{t}, {half}>
sad.<t:INT> d, a, b, c                                  : d = sad<{t}>
<f:div|rem>.<t:INT> d, a, b                             : {f}_integer<{t}>
<f:abs|neg>.<t:s16|s32|s64> d, a                        : d = {f}<{t}>
<f:min|max>.<t:INT> d, a, b                             : d = {f}<{t}>
<f:min|max>{.relu}.<t:s32|s16x2> d, a, b                : d = {f}<{t}, false, false, false, {relu}> : 90
<f:min|max>.<t:u16x2> d, a, b                           : d = {f}<{t}> : 90
<f:popc|clz|brev>.<t:b32|b64> d, a                      : d = {f}<{t}>
bfind{.shiftamt}.<t:u32|s32|u64|s64> d, a               : d = bfind<{t}, {shiftamt}>
bfe.<t:u32|s32|u64|s64> d, a, b, c                      : d = bfe<{t}>
bfi.<t:b32|b64> d, a, b, c, e                           : d = bfi<{t}>
bmsk.<mode:clamp|wrap>.b32 d, a, b                      : d = bmsk<{mode}>
dp4a.<a:INT32>.<b:INT32> d, a, b, c                     : d = dp4a<{a}, {b}>
dp2a.<half:lo|hi>.<a:INT32>.<b:INT32> d, a, b, c        : d = dp2a<{a}, {b}, {half}>

# Floating Point Instructions, Half Precision Floating Point Instructions
<f:add|sub|mul>{.<rnd:RND>}{.ftz}{.sat}.<t:f32> d, a, b : d = {f}<{t}, {rnd}, {ftz}, {sat}>
<f:fma|mad>.<rnd:RND>{.ftz}{.sat}.<t:f32> d, a, b, c    : d = fma<{t}, {rnd}, {ftz}, {sat}>
<f:add|sub|mul>{.<rnd:RND>}{.ftz}.<t:f32x2> d, a, b     : d = {f}<{t}, {rnd}, {ftz}> : 100
fma.<rnd:RND>{.ftz}.<t:f32x2> d, a, b, c                : d = fma<{t}, {rnd}, {ftz}> : 100
<f:add|sub>{.<rnd:RND>}{.sat}.f32.<t:f16|bf16> d, a, c    : d = {f}_mixed<{t}, {rnd}, {sat}> : 100
fma.<rnd:RND>{.sat}.f32.<t:f16|bf16> d, a, b, c         : d = fma_mixed<{t}, {rnd}, {sat}> : 100
<f:add|sub|mul>{.rn}.<t:f64> d, a, b                    : d = {f}<{t}>
<f:fma|mad>.rn.<t:f64> d, a, b, c                       : d = fma<{t}>
<f:add|sub|mul>{.rn}{.ftz}{.sat}.<t:f16|f16x2> d, a, b  : d = {f}<{t}, {rn}, {ftz}, {sat}>
<f:add|sub|mul>{.rn}.<t:bf16|bf16x2> d, a, b            : d = {f}<{t}> : 90
fma.rn{.ftz}{.sat}.<t:f16|f16x2> d, a, b, c             : d = fma<{t}, {rn}, {ftz}, {sat}>
fma.rn{.ftz}.relu.<t:f16|f16x2> d, a, b, c              : d = fma<{t}, {rn}, {ftz}, false, true> : 80
fma.rn{.relu}.<t:bf16|bf16x2> d, a, b, c                : d = fma<{t}, {rn}, false, false, {relu}> : 80
<f:abs|neg>{.ftz}.<t:f32|f64|f16|f16x2> d, a            : d = {f}<{t}, {ftz}>
<f:abs|neg>.<t:bf16|bf16x2> d, a                        : d = {f}<{t}> : 80
<f:min|max>{.ftz}.<t:f32|f64> d, a, b                   : d = {f}<{t}, {ftz}>
<f:min|max>{.ftz}.NaN.<t:f32> d, a, b                   : d = {f}<{t}, {ftz}, true> : 80
<f:min|max>{.ftz}{.NaN}.<t:f16|f16x2> d, a, b           : d = {f}<{t}, {ftz}, {NaN}> : 80
<f:min|max>{.NaN}.<t:bf16|bf16x2> d, a, b               : d = {f}<{t}, false, {NaN}> : 80
<f:min|max>{.ftz}{.NaN}.xorsign.abs.<t:f32|HALF> d, a, b : d = {f}<{t}, {ftz}, {NaN}, true> : 86
<f:min|max>{.ftz}{.NaN}.<t:f32> d, a, b, c              : d = {f}3<{ftz}, {NaN}> : 100
div.approx{.ftz}.f32 d, a, b                            : d = div_approx<{ftz}>
div.full{.ftz}.<t:f32> d, a, b                          : d = div<{t}, {rn}, {ftz}>
div.<rnd:RND>{.ftz}.<t:f32> d, a, b                     : d = div<{t}, {rnd}, {ftz}>
div.rn.<t:f64> d, a, b                                  : d = div<{t}>
<f:rcp|sqrt>.approx{.ftz}.<t:f32> d, a                  : d = {f}<{t}, {rn}, {ftz}>
<f:rcp|sqrt>.<rnd:RND>{.ftz}.<t:f32> d, a               : d = {f}<{t}, {rnd}, {ftz}>
<f:rcp|sqrt>.rn.<t:f64> d, a                            : d = {f}<{t}>
<op:rsqrt>.approx{.ftz}.<t:f32|f64> d, a                : d = approx<{t}, {op}, {ftz}>
<op:sin|cos|lg2|ex2>.approx{.ftz}.<t:f32> d, a          : d = approx<{t}, {op}, {ftz}>
<op:ex2>.approx.<t:f16|f16x2> d, a                      : d = approx<{t}, {op}> : 75
<op:ex2>.approx.ftz.<t:bf16|bf16x2> d, a                : d = approx<{t}, {op}> : 90
<op:tanh>.approx.<t:f32|f16|f16x2> d, a                 : d = approx<{t}, {op}> : 75
<op:tanh>.approx.<t:bf16|bf16x2> d, a                   : d = approx<{t}, {op}> : 90
copysign.<t:f32|f64> d, a, b                            : d = copysign<{t}>

# Comparison and Selection Instructions, Logic and Shift Instructions
setp.<cmp:CMP>{.ftz}.<t:ANY|f16> p|q, a, b              : setp<{t}, {cmp}, {ftz}>
setp.<cmp:CMP>.<bool:BOOL>{.ftz}.<t:ANY|f16> p|q, a, b, c : setp<{t}, {cmp}, {ftz}, {bool}>
setp.<cmp:CMP>{.ftz}.<t:f16x2> p|q, a, b                : setp_both<{t}, {cmp}, {ftz}>
setp.<cmp:CMP>.<t:bf16> p|q, a, b                       : setp<{t}, {cmp}> : 90
setp.<cmp:CMP>.<t:bf16x2> p|q, a, b                     : setp_both<{t}, {cmp}> : 90
set.<cmp:CMP>{.ftz}.<d:u32|s32|f32>.<t:ANY> d, a, b     : d = set_if<{d}, {t}, {cmp}, {ftz}>
set.<cmp:CMP>{.ftz}.<d:f16|u16|s16|u32|s32>.<t:f16> d, a, b : d = set_if<{d}, {t}, {cmp}, {ftz}>
set.<cmp:CMP>.<d:bf16|u16|s16|u32|s32>.<t:bf16> d, a, b : d = set_if<{d}, {t}, {cmp}> : 90
set.<cmp:CMP>{.ftz}.<d:f16x2|u32|s32>.<t:f16x2> d, a, b : d = set_both<{d}, {t}, {cmp}, {ftz}>
set.<cmp:CMP>.<d:bf16x2|u32|s32>.<t:bf16x2> d, a, b     : d = set_both<{d}, {t}, {cmp}> : 90
selp.<t:ANY> d, a, b, c                                 : d = selp<{t}>
slct.<t:ANY>.s32 d, a, b, c                             : d = slct<{t}, int32_t>
slct{.ftz}.<t:ANY>.f32 d, a, b, c                       : d = slct<{t}, float>
<f:and|or|xor>.<t:pred|b16|b32|b64> d, a, b             : d = {f}_<{t}>
not.<t:pred|b16|b32|b64> d, a                           : d = not_<{t}>
cnot.<t:b16|b32|b64> d, a                               : d = cnot<{t}>
lop3.b32 d, a, b, c, lut                                : d = lop3
lop3.<bool:or|and>.b32 d|p, a, b, c, lut, q             : lop3_and_test<{bool}> : 70
shl.<t:b16|b32|b64> d, a, n                             : d = shl<{t}>
shr.<t:b16|b32|b64|INT> d, a, n                         : d = shr<{t}>
<f:shf>.<dir:l|r>.<mode:clamp|wrap>.b32 d, a, b, n      : d = shf_{dir}<{mode}>
prmt.b32 d, a, b, c                                     : d = prmt
prmt.b32.<mode:f4e|b4e|rc8|ecl|ecr|rc16> d, a, b, c     : d = prmt_mode<{mode}>

# Data Movement and Conversion Instructions: mov, cvt
mov.<t:pred|b128|ANY> d, a                              : mov<{t}>
cvt{.sat}.<d:INT8>.<a:INT8> d, a                        : d ~ resize<{d}, {a}, {sat}>
cvt.<rnd:RNDI>{.ftz}{.sat}.<d:INT8>.<a:f16|f32|f64> d, a : d ~ to_integer<{d}, {a}, {rnd}, {ftz}>
cvt.<rnd:RNDI>{.ftz}{.sat}.<d:INT8>.<a:bf16> d, a       : d ~ to_integer<{d}, {a}, {rnd}, {ftz}> : 90
cvt.<rnd:RND>{.ftz}{.sat}.<d:f16|f32|f64>.<a:INT8> d, a : d ~ from_integer<{d}, {a}, {rnd}, {sat}>
cvt.<rnd:RND>.<d:bf16>.<a:INT8> d, a                    : d ~ from_integer<{d}, {a}, {rnd}> : 90
cvt{.<rnd:RND>}{.ftz}{.sat}.<d:f16|f32|f64>.<a:f16|f32|f64> d, a : d ~ resize_float<{d}, {a}, {rnd}, {ftz}, {sat}>
cvt.<rnd:RNDI>{.ftz}{.sat}.<d:f16|f32|f64>.<a:f16|f32|f64> d, a : d ~ round_float<{d}, {a}, {rnd}, {ftz}, {sat}>
cvt.<d:f32>.<a:bf16> d, a                               : d ~ resize_float<{d}, {a}> : 80
cvt{.<rnd:RND>}{.ftz}{.sat}.<d:f16|f32|f64>.<a:bf16> d, a : d ~ resize_float<{d}, {a}, {rnd}, {ftz}, {sat}> : 90
cvt.<rnd:RND>.<d:bf16>.<a:f16|f64> d, a                 : d ~ resize_float<{d}, {a}, {rnd}> : 90
cvt.<rnd:rm|rp>.<d:bf16>.<a:f32> d, a                   : d ~ resize_float<{d}, {a}, {rnd}> : 80
cvt.<rnd:rn|rz>{.relu}{.satfinite}.<fmt:f16|bf16>.f32 d, a : d = encode_one<{fmt}, {rnd}, {satfinite}, {relu}> : 80
cvt.<rnd:rn|rz>{.relu}{.satfinite}.<fmt:f16x2|bf16x2>.f32 d, a, b :\
 d = encode_two<{fmt}, {rnd}, {satfinite}, {relu}> : 80
cvt.rna{.satfinite}.tf32.f32 d, a                       : d = encode_tf32<{rna}, {satfinite}> : 80
cvt.<rnd:rn|rz>{.relu}.tf32.f32 d, a                    : d = encode_tf32<{rnd}, false, {relu}> : 90
cvt.<rnd:rn|rz>{.relu}.satfinite.tf32.f32 d, a          : d = encode_tf32<{rnd}, true, {relu}> : 100
cvt.rn{.relu}.satfinite.<fmt:e4m3x2|e5m2x2>.f32 d, a, b : d = encode_two<{fmt}, {rn}, true, {relu}> : 89
cvt.rn{.relu}.satfinite.<fmt:e4m3x2|e5m2x2>.f16x2 d, a  : d = encode_pair<{fmt}, {relu}> : 89
cvt.rn{.relu}.f16x2.<fmt:e4m3x2|e5m2x2> d, a            : d = decode_pair<{fmt}, {relu}> : 89
cvt.rn{.relu}.satfinite.<fmt:e3m2x2|e2m3x2|e2m1x2>.f32 d, a, b : d = encode_two<{fmt}, {rn}, true, {relu}> : BLACKWELL
cvt.rn{.relu}.f16x2.<fmt:e3m2x2|e2m3x2|e2m1x2> d, a     : d = decode_pair<{fmt}, {relu}> : BLACKWELL
cvt.<rnd:rz|rp>{.satfinite}.ue8m0x2.f32 d, a, b         : d = encode_scales<{rnd}, {satfinite}> : BLACKWELL
cvt.<rnd:rz|rp>{.satfinite}.ue8m0x2.bf16x2 d, a         : d = encode_bf16_scales<{rnd}, {satfinite}> : BLACKWELL
cvt.rn.bf16x2.ue8m0x2 d, a                              : d = decode_scales : BLACKWELL
cvt.pack.sat.<d:u16|s16>.s32 d, a, b                    : d = pack_words<{d}> : 72
cvt.pack.sat.<d:u8|s8>.s32.b32 d, a, b, c               : d = pack_bytes<{d}> : 72

# Data Movement and Conversion Instructions: memory; Parallel Synchronization Instructions: atom, red
ld{.weak}{.<space:SPACE>}{.HINTS}{.<vec:v2|v4>}.<t:MEMORY> d, [a:{space}]{, -policy} : ld<{t}, {vec}>
ld{.weak}{.<space:SPACE>}{.HINTS}.<vec:v8>.<t:b32|u32|s32|f32> d, [a:{space}]{, -policy} : ld<{t}, {vec}> : 100
ld.SYNC{.HINTS}{.<vec:v2|v4>}.<t:MEMORY> d, [a:{space}]{, -policy} : ld_ordered<{t}, {vec}> : 70
st{.weak}{.<space:SPACE>}{.HINTS}{.<vec:v2|v4>}.<t:MEMORY> [a:{space}], b{, -policy} : st<{t}, {vec}>
st{.weak}{.<space:SPACE>}{.HINTS}.<vec:v8>.<t:b32|u32|s32|f32> [a:{space}], b{, -policy} : st<{t}, {vec}> : 100
st.SYNC{.HINTS}{.<vec:v2|v4>}.<t:MEMORY> [a:{space}], b{, -policy} : st_ordered<{t}, {vec}> : 70
prefetch{.<space:global|local>}.<level:L1|L2> [a:{space}] : nothing
prefetch.global.<level:L2::evict_last|L2::evict_normal> [a:global] : nothing : 80
prefetch{.const|.param}.tensormap [a:global]            : nothing : 90
cp.async.bulk.prefetch.L2.global{.L2::cache_hint} [a:global], size{, -policy} : nothing : 90
prefetchu.L1 [a:global]                                 : nothing
applypriority{.global}.L2::evict_normal [a:global], size : nothing : 80
discard{.global}.L2 [a:global], size                    : discard : 80
createpolicy.fractional.L2_PRIORITY{.L2_PRIORITY}.b64 d{, -fraction} : policy : 80
createpolicy.range{.global}.L2_PRIORITY{.L2_PRIORITY}.b64 d, -a, -primary, -total : policy : 80
createpolicy.cvt.L2.b64 d, -property                    : policy : 80
cvta.<space:SPACE>.u64 d, a                             : to_generic<{space}>
cvta.to.<space:SPACE>.u64 d, a                          : from_generic<{space}>
isspacep.<space:SPACE> p, a                             : is_in_space<{space}>
atom{.SYNC}.<op:and|or|xor|exch>{.L2::cache_hint}.<t:b32|b64> d, [a:{space}], b{, -policy} : atom<{t}, {op}>
atom{.SYNC}.<op:add>{.L2::cache_hint}.<t:u32|s32|u64|f32|f64> d, [a:{space}], b{, -policy} : atom<{t}, {op}>
atom{.SYNC}.<op:min|max>{.L2::cache_hint}.<t:u32|s32|u64|s64> d, [a:{space}], b{, -policy} : atom<{t}, {op}>
atom{.SYNC}.<op:inc|dec>{.L2::cache_hint}.<t:u32> d, [a:{space}], b{, -policy} : atom<{t}, {op}>
atom{.SYNC}.<op:add>.noftz{.L2::cache_hint}.<t:f16|f16x2> d, [a:{space}], b{, -policy} : atom<{t}, {op}>
atom{.SYNC}.<op:add>.noftz{.L2::cache_hint}.<t:bf16|bf16x2> d, [a:{space}], b{, -policy} : atom<{t}, {op}> : 90
atom{.SYNC}.cas.<t:b16|b32|b64> d, [a:{space}], b, c    : atom_cas<{t}>
red{.SYNC}.<op:and|or|xor>{.L2::cache_hint}.<t:b32|b64> [a:{space}], b{, -policy} : red<{t}, {op}>
red{.SYNC}.<op:add>{.L2::cache_hint}.<t:u32|s32|u64|f32|f64> [a:{space}], b{, -policy} : red<{t}, {op}>
red{.SYNC}.<op:min|max>{.L2::cache_hint}.<t:u32|s32|u64|s64> [a:{space}], b{, -policy} : red<{t}, {op}>
red{.SYNC}.<op:inc|dec>{.L2::cache_hint}.<t:u32> [a:{space}], b{, -policy} : red<{t}, {op}>
red{.SYNC}.<op:add>.noftz{.L2::cache_hint}.<t:f16|f16x2> [a:{space}], b{, -policy} : red<{t}, {op}>
red{.SYNC}.<op:add>.noftz{.L2::cache_hint}.<t:bf16|bf16x2> [a:{space}], b{, -policy} : red<{t}, {op}> : 90
red{.SYNC}.<op:add>{.L2::cache_hint}.<vec:v2|v4>.<t:f32> [a:{space}], b{, -policy} : red_vector<{t}, {op}, {vec}> : 90
red{.SYNC}.<op:add|min|max>.noftz{.L2::cache_hint}.<vec:v2|v4|v8>.<t:f16|bf16> [a:{space}], b{, -policy} :\
 red_vector<{t}, {op}, {vec}> : 90
red{.SYNC}.<op:add|min|max>.noftz{.L2::cache_hint}.<vec:v2|v4>.<t:f16x2|bf16x2> [a:{space}], b{, -policy} :\
 red_vector<{t}, {op}, {vec}> : 90

# Data Movement and Conversion Instructions: Asynchronous Copy
cp.async.<cop:ca|cg>.<s:shared|shared::cta>.global{.L2::64B|.L2::128B|.L2::256B} [d:shared], [a:global], size{, b} :\
 cp_async<{cop}> : 80
cp.async.<cop:ca|cg>.<s:shared|shared::cta>.global.L2::cache_hint{.L2::64B|.L2::128B|.L2::256B}\
 [d:shared], [a:global], size, -policy : cp_async<{cop}> : 80
cp.async.<cop:ca|cg>.<s:shared|shared::cta>.global.L2::cache_hint{.L2::64B|.L2::128B|.L2::256B}\
 [d:shared], [a:global], size, b, -policy : cp_async<{cop}> : 80
cp.async.commit_group                                   : cp_async_commit_group : 80
cp.async.wait_group n                                   : cp_async_wait_group : 80
cp.async.wait_all                                       : cp_async_wait_all : 80
cp.async.mbarrier.arrive{.noinc}{.<space:SHARED>}.b64 [a:{space}] : cp_async_mbarrier_arrive<{noinc}> : 80
cp.async.bulk.<s:shared::cluster|shared::cta>.global.mbarrier::complete_tx::bytes{.L2::cache_hint}\
 [d:shared], [a:global], size, [m:shared]{, -policy} : cp_async_bulk_load : 90
cp.async.bulk.global.shared::cta.bulk_group{.L2::cache_hint} [d:global], [a:shared], size{, -policy} :\
 cp_async_bulk_store : 90
cp.async.bulk.commit_group                              : cp_async_bulk_commit_group : 90
cp.async.bulk.wait_group{.read} n                       : cp_async_bulk_wait_group : 90

# Parallel Synchronization and Communication Instructions, Miscellaneous Instructions
shfl.sync.<mode:up|down|bfly|idx>.b32 d|p, a, b, c, m   : shfl<{mode}>
vote.sync.<mode:all|any|uni>.pred p, a, m               : vote<{mode}>
vote.sync.ballot.b32 d, a, m                            : ballot
match.any.sync.<t:b32|b64> d, a, m                      : match_any<{t}> : 70
match.all.sync.<t:b32|b64> d|p, a, m                    : match_all<{t}> : 70
activemask.b32 d                                        : activemask
redux.sync.<op:add|min|max>.<t:u32|s32> d, a, m         : redux<{t}, {op}> : 80
redux.sync.<op:and|or|xor>.<t:b32> d, a, m              : redux<{t}, {op}> : 80
redux.sync.<op:min|max>{.abs}{.NaN}.f32 d, a, m         : redux<float, {op}, {abs}, {NaN}> : 100a
elect.sync d|p, m                                       : elect : 90
bar.warp.sync m                                         : bar_warp
bar{.cta}.sync a{, b}                                   : bar_sync
bar{.cta}.arrive a, b                                   : bar_arrive
barrier{.cta}.sync{.aligned} a{, b}                     : bar_sync
barrier{.cta}.arrive{.aligned} a, b                     : bar_arrive
barrier.cluster.arrive{.<sem:release|relaxed>}{.aligned} : nothing : 90
barrier.cluster.wait{.acquire}{.aligned}                : barrier_cluster_wait : 90
mbarrier.init{.SYNC}.b64 [a:{space}], n                 : mbarrier_init : 80
mbarrier.inval{.SYNC}.b64 [a:{space}]                   : mbarrier_inval : 80
mbarrier.arrive{.SYNC}.b64 d, [a:{space}]{, n}          : mbarrier_arrive : 80
mbarrier.arrive.expect_tx{.SYNC}.b64 d, [a:{space}], n  : mbarrier_arrive_expect_tx : 90
mbarrier.expect_tx{.SYNC}.b64 [a:{space}], n            : mbarrier_expect_tx : 90
mbarrier.complete_tx{.SYNC}.b64 [a:{space}], n          : mbarrier_complete_tx : 90
mbarrier.test_wait{.parity}{.SYNC}.b64 p, [a:{space}], s : mbarrier_wait<{parity}> : 80
mbarrier.try_wait{.parity}{.SYNC}.b64 p, [a:{space}], s{, -hint} : mbarrier_wait<{parity}> : 90
mapa{.shared::cluster}.<t:u32|u64> d, a, -rank          : mov<{t}> : 90
membar.<level:cta|gl|sys>                               : fence
fence{.<sem:sc|acq_rel>}.SCOPE                          : fence : 70
fence.<sem:acquire|release>.SCOPE                       : fence : 90
fence.proxy.<kind:alias|async>{.<s:global|shared::cta|shared::cluster>} : fence : 70
fence.mbarrier_init.release.cluster                     : fence : 90
griddepcontrol.<action:launch_dependents|wait>          : nothing : 90
setmaxnreg.<action:inc|dec>.sync.aligned.u32 n          : nothing : 90a 100a 110a 120a
nanosleep.u32 n                                         : nothing : 70
pmevent n                                               : nothing
trap                                                    : trap
brkpt                                                   : trap

# Warp Level Matrix Instructions
ldmatrix.sync.aligned.m8n8.<n:x1|x2|x4>{.<space:SHARED>}.b16 d, [a:{space}] : ldmatrix<{rows}, {n}> : 75
ldmatrix.sync.aligned.m8n8.<n:x1|x2|x4>.trans{.<space:SHARED>}.b16 d, [a:{space}] : ldmatrix<{trans16}, {n}> : 75
ldmatrix.sync.aligned.m16n16.<n:x1|x2>.trans{.<space:SHARED>}.b8 d, [a:{space}] :\
 ldmatrix<{trans8}, 2 * {n}> : BLACKWELL
ldmatrix.sync.aligned.m16n16.<n:x1|x2>.trans{.<space:SHARED>}.b8x16.<bits:b4x16_p64|b6x16_p32> d, [a:{space}] :\
 ldmatrix<{trans8}, 2 * {n}, {bits}> : BLACKWELL
ldmatrix.sync.aligned.m8n16.<n:x1|x2|x4>{.<space:SHARED>}.b8x16.<bits:b4x16_p64|b6x16_p32> d, [a:{space}] :\
 ldmatrix<{rows}, {n}, {bits}> : BLACKWELL
stmatrix.sync.aligned.m8n8.<n:x1|x2|x4>{.<space:SHARED>}.b16 [a:{space}], b : stmatrix<{rows}, {n}> : 90
stmatrix.sync.aligned.m8n8.<n:x1|x2|x4>.trans{.<space:SHARED>}.b16 [a:{space}], b : stmatrix<{trans16}, {n}> : 90
stmatrix.sync.aligned.m16n8.<n:x1|x2|x4>.trans{.<space:SHARED>}.b8 [a:{space}], b :\
 stmatrix<{accumulators}, {n}> : BLACKWELL
movmatrix.sync.aligned.m8n8.trans.b16 d, a              : movmatrix : 75
mma.sync.aligned.m16n8<k:k8>.row.col.<d:f16|f32>.<a:f16>.f16.=d d, a, b, c : mma<16, {k}, {d}, {a}, {a}, {d}> : 75
mma.sync.aligned.m16n8<k:k16>.row.col.<d:f16|f32>.<a:f16>.f16.=d d, a, b, c : mma<16, {k}, {d}, {a}, {a}, {d}> : 80
mma.sync.aligned.m16n8<k:k8|k16>.row.col.<d:f32>.<a:bf16>.bf16.f32 d, a, b, c : mma<16, {k}, {d}, {a}, {a}, {d}> : 80
mma.sync.aligned.m16n8<k:k4|k8>.row.col.<d:f32>.<a:tf32>.tf32.f32 d, a, b, c : mma<16, {k}, {d}, {a}, {a}, {d}> : 80
mma.sync.aligned.m16n8<k:k16|k32>.row.col.<d:f16|f32>.<a:FP8>.<b:FP8>.=d d, a, b, c :\
 mma<16, {k}, {d}, {a}, {b}, {d}> : 89
mma.sync.aligned.m16n8<k:k32>.row.col.kind::f8f6f4.<d:f16|f32>.<a:FP864>.<b:FP864>.=d d, a, b, c :\
 mma<16, {k}, {d}, {a}, {b}, {d}> : 120a
mma.sync.aligned.m8n8<k:k16>.row.col{.satfinite}.<d:s32>.<a:u8|s8>.<b:u8|s8>.s32 d, a, b, c :\
 mma<8, {k}, {d}, {a}, {b}, {d}, {satfinite}> : 75
mma.sync.aligned.m16n8<k:k16|k32>.row.col{.satfinite}.<d:s32>.<a:u8|s8>.<b:u8|s8>.s32 d, a, b, c :\
 mma<16, {k}, {d}, {a}, {b}, {d}, {satfinite}> : 80
mma.sync.aligned.m8n8<k:k32>.row.col{.satfinite}.<d:s32>.<a:u4|s4>.<b:u4|s4>.s32 d, a, b, c :\
 mma<8, {k}, {d}, {a}, {b}, {d}, {satfinite}> : 75
mma.sync.aligned.m16n8<k:k32|k64>.row.col{.satfinite}.<d:s32>.<a:u4|s4>.<b:u4|s4>.s32 d, a, b, c :\
 mma<16, {k}, {d}, {a}, {b}, {d}, {satfinite}> : 80
mma.sync.aligned.m16n8<k:k32>.row.col.kind::mxf8f6f4.block_scale{.scale_vec::1X}.f32.<a:FP864>.<b:FP864>\
.f32.<s:ue8m0> d, a, b, c, sa, ia, sb, ib : mma_scaled<{k}, 1, {a}, {b}, {s}> : 120a
mma.sync.aligned.m16n8<k:k64>.row.col.kind::mxf4.block_scale{.scale_vec::2X}.f32.<a:e2m1>.<b:e2m1>\
.f32.<s:ue8m0> d, a, b, c, sa, ia, sb, ib : mma_scaled<{k}, 2, {packed}, {packed}, {s}> : 120a
mma.sync.aligned.m16n8<k:k64>.row.col.kind::mxf4nvf4.block_scale.scale_vec::<x:2X|4X>.f32.<a:e2m1>.<b:e2m1>\
.f32.<s:ue8m0> d, a, b, c, sa, ia, sb, ib : mma_scaled<{k}, {x}, {packed}, {packed}, {s}> : 120a
mma.sync.aligned.m16n8<k:k64>.row.col.kind::mxf4nvf4.block_scale.scale_vec::<x:4X>.f32.<a:e2m1>.<b:e2m1>\
.f32.<s:ue4m3> d, a, b, c, sa, ia, sb, ib : mma_scaled<{k}, {x}, {packed}, {packed}, {s}> : 120a
"""

_SPACE = "const|global|local|param|param::entry|param::func|shared|shared::cta|shared::cluster"
SETS = {  # names of alternatives
    "INT8": "u8|s8|u16|s16|u32|s32|u64|s64",
    "INT32": "u32|s32",
    "INT": "u16|s16|u32|s32|u64|s64",
    "ANY": "b16|b32|b64|u16|u32|u64|s16|s32|s64|f32|f64",
    "MEMORY": "b8|b16|b32|b64|b128|u8|u16|u32|u64|s8|s16|s32|s64|f32|f64",
    "RNDI": "rni|rzi|rmi|rpi",
    "RND": "rn|rz|rm|rp",
    "HALF": "f16|f16x2|bf16|bf16x2",
    "SPACE": _SPACE,
    "SHARED": "shared|shared::cta|shared::cluster",
    "SCOPE": "cta|cluster|gpu|sys",
    "CMP": "eq|ne|lt|le|gt|ge|lo|ls|hi|hs|equ|neu|ltu|leu|gtu|geu|num|nan",
    "BOOL": "and|or|xor",
    "FP864": "e4m3|e5m2|e3m2|e2m3|e2m1",
    "FP8": "e4m3|e5m2",
    "L2_PRIORITY": "L2::evict_last|L2::evict_normal|L2::evict_first|L2::evict_unchanged",
}
LISTS = {  # of which several may be given; the state space among them is a value
    "HINTS": "ca|cg|cs|lu|cv|wb|wt|nc|unified|L1::evict_normal|L1::evict_unchanged|L1::evict_first|L1::evict_last"
    "|L1::no_allocate|L2::evict_normal|L2::evict_first|L2::evict_last|L2::cache_hint|L2::64B|L2::128B|L2::256B",
    "SYNC": f"volatile|mmio|relaxed|acquire|release|acq_rel|cta|cluster|gpu|sys|{_SPACE}",
}
