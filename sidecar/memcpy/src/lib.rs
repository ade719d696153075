//! `memcpy` and `memmove` of the static program on x86-64, in place of musl's.
//!
//! musl copies with `rep movsq` whatever the length, and what is left of eight bytes byte by byte: that begins slowly, and what an
//! HTTP/2 proxy copies is short: a field's value, a frame, a slot of 300 bytes. It was a seventh of all the processor's
//! time there; figures are in docs/PERFORMANCE.md. On other processors musl has good ones, and
//! so has glibc, with which the tests are built: there this crate replaces nothing.
//!
//! One function does for both names, for it reads before it writes wherever the two ranges could overlap:
//!
//! | length | way |
//! |---|---|
//! | ≤ 256 | all read into registers (the last part overlaps the one before it), then all written |
//! | ≤ 2,047, or overlapping | the ends kept in registers, 64 bytes a turn in between, from the end that is safe |
//! | more | `rep movsq`, its destination aligned |
//!
//! Only what every x86-64 has (SSE2) is used, so nothing is asked of the processor at the start.
//!
//! # Safety of what is here
//! It is written in assembly, as a function which the compiler takes for `memcpy` must be: of a loop that copies it would make a call
//! of `memcpy`. It touches `n` bytes at `from` and at `to` and nothing else: no stack, no register that a caller keeps. The
//! tests, where the C library's is not replaced, compare it with that one for every length to 700 and every kind of overlap, and
//! see that what lies beside the ranges stays.

#![no_std]
#![cfg(target_arch = "x86_64")]
#![expect(unsafe_code, reason = "it is what the compiler makes every copy of, and cannot itself be made of copies")]

use core::arch::naked_asm;

/// C's `memcpy`, which forgives ranges that overlap.
///
/// # Safety
/// `n` bytes can be read at `from` and written at `to`.
#[cfg_attr(target_env = "musl", unsafe(no_mangle))]
#[unsafe(naked)]
pub unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, n: usize) -> *mut u8 {
    // to: rdi, from: rsi, n: rdx, and `to` is what is returned (rax).
    naked_asm!(
        "mov rax, rdi",
        "cmp rdx, 16",
        "jb 22f",
        "cmp rdx, 32",
        "ja 20f",
        // 16 to 32
        "movups xmm0, [rsi]",
        "movups xmm1, [rsi + rdx - 16]",
        "movups [rdi], xmm0",
        "movups [rdi + rdx - 16], xmm1",
        "ret",
        // 0 to 15
        "22:",
        "cmp edx, 8",
        "jae 24f",
        "cmp edx, 4",
        "jae 23f",
        "cmp edx, 1",
        "jb 26f",
        "movzx ecx, byte ptr [rsi]",
        "je 25f",
        "movzx r8d, word ptr [rsi + rdx - 2]",
        "mov [rdi + rdx - 2], r8w",
        "25:",
        "mov [rdi], cl",
        "26:",
        "ret",
        "23:",
        "mov ecx, [rsi]",
        "mov r8d, [rsi + rdx - 4]",
        "mov [rdi], ecx",
        "mov [rdi + rdx - 4], r8d",
        "ret",
        "24:",
        "mov rcx, [rsi]",
        "mov r8, [rsi + rdx - 8]",
        "mov [rdi], rcx",
        "mov [rdi + rdx - 8], r8",
        "ret",
        // 33 to 64
        "20:",
        "cmp rdx, 64",
        "ja 21f",
        "movups xmm0, [rsi]",
        "movups xmm1, [rsi + 16]",
        "movups xmm2, [rsi + rdx - 32]",
        "movups xmm3, [rsi + rdx - 16]",
        "movups [rdi], xmm0",
        "movups [rdi + 16], xmm1",
        "movups [rdi + rdx - 32], xmm2",
        "movups [rdi + rdx - 16], xmm3",
        "ret",
        // 65 to 128, and the last 64 bytes of all that is longer.
        "21:",
        "movups xmm4, [rsi + rdx - 64]",
        "movups xmm5, [rsi + rdx - 48]",
        "movups xmm6, [rsi + rdx - 32]",
        "movups xmm7, [rsi + rdx - 16]",
        "cmp rdx, 128",
        "ja 30f",
        "movups xmm0, [rsi]",
        "movups xmm1, [rsi + 16]",
        "movups xmm2, [rsi + 32]",
        "movups xmm3, [rsi + 48]",
        "movups [rdi], xmm0",
        "movups [rdi + 16], xmm1",
        "movups [rdi + 32], xmm2",
        "movups [rdi + 48], xmm3",
        "movups [rdi + rdx - 64], xmm4",
        "movups [rdi + rdx - 48], xmm5",
        "movups [rdi + rdx - 32], xmm6",
        "movups [rdi + rdx - 16], xmm7",
        "ret",
        // 129 to 256: most of what the `h2` crate moves
        "30:",
        "cmp rdx, 256",
        "ja 31f",
        "movups xmm0, [rsi]",
        "movups xmm1, [rsi + 16]",
        "movups xmm2, [rsi + 32]",
        "movups xmm3, [rsi + 48]",
        "movups xmm8, [rsi + 64]",
        "movups xmm9, [rsi + 80]",
        "movups xmm10, [rsi + 96]",
        "movups xmm11, [rsi + 112]",
        "movups xmm12, [rsi + rdx - 128]",
        "movups xmm13, [rsi + rdx - 112]",
        "movups xmm14, [rsi + rdx - 96]",
        "movups xmm15, [rsi + rdx - 80]",
        "movups [rdi], xmm0",
        "movups [rdi + 16], xmm1",
        "movups [rdi + 32], xmm2",
        "movups [rdi + 48], xmm3",
        "movups [rdi + 64], xmm8",
        "movups [rdi + 80], xmm9",
        "movups [rdi + 96], xmm10",
        "movups [rdi + 112], xmm11",
        "movups [rdi + rdx - 128], xmm12",
        "movups [rdi + rdx - 112], xmm13",
        "movups [rdi + rdx - 96], xmm14",
        "movups [rdi + rdx - 80], xmm15",
        "movups [rdi + rdx - 64], xmm4",
        "movups [rdi + rdx - 48], xmm5",
        "movups [rdi + rdx - 32], xmm6",
        "movups [rdi + rdx - 16], xmm7",
        "ret",
        // Longer. Writing upwards is wrong when `to` is inside what is to be read, that is when to - from < n.
        "31:",
        "mov rcx, rdi",
        "sub rcx, rsi",
        "cmp rcx, rdx",
        "jb 40f",
        "cmp rdx, 2048",
        "jae 50f",
        // Upwards: the first 16 bytes are kept for the end, then blocks at places aligned in `to`.
        "33:",
        "movups xmm8, [rsi]",
        "lea r8, [rdi + rdx - 64]",
        "lea r9, [rdi + 16]",
        "and r9, -16",
        "sub rsi, rdi",
        "32:",
        "movups xmm0, [rsi + r9]",
        "movups xmm1, [rsi + r9 + 16]",
        "movups xmm2, [rsi + r9 + 32]",
        "movups xmm3, [rsi + r9 + 48]",
        "movaps [r9], xmm0",
        "movaps [r9 + 16], xmm1",
        "movaps [r9 + 32], xmm2",
        "movaps [r9 + 48], xmm3",
        "add r9, 64",
        "cmp r9, r8",
        "jb 32b",
        "movups [r8], xmm4",
        "movups [r8 + 16], xmm5",
        "movups [r8 + 32], xmm6",
        "movups [r8 + 48], xmm7",
        "movups [rdi], xmm8",
        "ret",
        // Downwards: the first 64 bytes are kept for the end, and the last 16 are in xmm7.
        "40:",
        "movups xmm8, [rsi]",
        "movups xmm9, [rsi + 16]",
        "movups xmm10, [rsi + 32]",
        "movups xmm11, [rsi + 48]",
        "lea r8, [rdi + 64]",
        "lea r10, [rdi + rdx - 16]",
        "lea r9, [rdi + rdx - 1]",
        "and r9, -16",
        "sub rsi, rdi",
        "41:",
        "movups xmm0, [rsi + r9 - 16]",
        "movups xmm1, [rsi + r9 - 32]",
        "movups xmm2, [rsi + r9 - 48]",
        "movups xmm3, [rsi + r9 - 64]",
        "movaps [r9 - 16], xmm0",
        "movaps [r9 - 32], xmm1",
        "movaps [r9 - 48], xmm2",
        "movaps [r9 - 64], xmm3",
        "sub r9, 64",
        "cmp r9, r8",
        "ja 41b",
        "movups [rdi], xmm8",
        "movups [rdi + 16], xmm9",
        "movups [rdi + 32], xmm10",
        "movups [rdi + 48], xmm11",
        "movups [r10], xmm7",
        "ret",
        // Long. Where `from` is inside what is to be written, that is from - to < n, the first 16 bytes must not be written before
        // the rest is read.
        "50:",
        "neg rcx",
        "cmp rcx, rdx",
        "jb 33b",
        "movups xmm0, [rsi]",
        "lea r8, [rdi + rdx - 16]",
        "movups [rdi], xmm0",
        "lea rcx, [rdi + 16]",
        "and rcx, -16",
        "sub rcx, rdi",
        "add rsi, rcx",
        "add rdi, rcx",
        "sub rdx, rcx",
        "mov rcx, rdx",
        "shr rcx, 3",
        "rep movsq",
        "movups [r8], xmm7",
        "ret",
    )
}

/// C's `memmove`.
///
/// # Safety
/// As [`memcpy`].
#[cfg_attr(target_env = "musl", unsafe(no_mangle))]
#[unsafe(naked)]
pub unsafe extern "C" fn memmove(to: *mut u8, from: *const u8, n: usize) -> *mut u8 {
    naked_asm!("jmp {memcpy}", memcpy = sym memcpy)
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::vec::Vec;

    use proptest::prelude::*;

    /// `n` bytes from `from` to `to`, both offsets into one buffer of `len` numbered bytes: what our function makes of it, and what must be.
    fn both(len: usize, to: usize, from: usize, n: usize) -> (Vec<u8>, Vec<u8>) {
        let before: Vec<u8> = (0..len).map(|at| (at % 251) as u8 ^ (at / 251) as u8).collect();
        let mut seen = before.clone();
        assert!(to + n <= len && from + n <= len);
        let start = seen.as_mut_ptr();
        // SAFETY: both ranges are inside the buffer, as asserted.
        let returned = unsafe { super::memmove(start.add(to), start.add(from), n) };
        assert_eq!(returned as usize, start as usize + to, "it returns where it wrote");
        let mut must = before.clone();
        // By the C library's own: here it is not replaced.
        must[to..to + n].copy_from_slice(&before[from..from + n]);
        (seen, must)
    }

    #[test]
    fn every_length_at_every_alignment_is_copied_and_nothing_else_is_touched() {
        for n in (0..700).chain([2046, 2047, 2048, 2049, 4095, 4096, 10_000]) {
            for skew in 0..17 {
                let (seen, must) = both(2 * n + 200, 64 + skew, n + 120, n);
                assert!(seen == must, "{n} bytes, {skew} from where it was");
                let (seen, must) = both(2 * n + 200, n + 120, 64 + skew, n);
                assert!(seen == must, "{n} bytes downwards, {skew} from where it was");
            }
        }
    }

    #[test]
    fn ranges_may_overlap_by_any_number_of_bytes() {
        for n in (0..420_usize).chain([2047, 2048, 3000]) {
            for apart in (0..=n.min(140)).chain([n.saturating_sub(1)]) {
                let (seen, must) = both(2 * n + 64, 32 + apart, 32, n);
                assert!(seen == must, "{n} bytes {apart} upwards");
                let (seen, must) = both(2 * n + 64, 16 + apart % 16, 16 + apart % 16 + apart, n);
                assert!(seen == must, "{n} bytes {apart} downwards");
            }
        }
    }

    proptest! {
        #[test]
        fn any_two_ranges(to in 0..5000_usize, from in 0..5000_usize, n in 0..5000_usize) {
            let (seen, must) = both(10_000, to, from, n);
            prop_assert!(seen == must);
        }
    }
}
