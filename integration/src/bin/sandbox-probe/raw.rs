//! System calls as they are, past every library that might refuse or change them first.

use nix::errno::Errno;
use nix::libc;

/// Makes a system call of this machine's own kind; arguments that are not given are 0.
#[allow(unsafe_code, reason = "the filter is to be met itself, not a library's idea of it")]
pub(crate) fn call<const N: usize>(number: libc::c_long, arguments: [usize; N]) -> Result<usize, Errno> {
    let mut all = [0_usize; 6];
    all[..N].copy_from_slice(&arguments);
    // SAFETY: callers pass numbers, null, and addresses of what they own and keep until the call is over. A
    // call that is not refused, as it must be, finds nothing behind null and answers EFAULT.
    let answer = unsafe { libc::syscall(number, all[0], all[1], all[2], all[3], all[4], all[5]) };
    Errno::result(answer).map(|number| number as usize)
}

/// `getpid` by the door of 32-bit programs, which has numbers of its own; `none` where there is no such door.
#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code, reason = "no library goes through this door")]
pub(crate) fn compatible() -> String {
    let mut number: i64 = 20;
    // SAFETY: the call takes no arguments and changes nothing but the registers named here.
    unsafe {
        std::arch::asm!("int 0x80", inout("rax") number, out("r8") _, out("r9") _, out("r10") _, out("r11") _);
    }
    number.to_string()
}

/// See above.
#[cfg(not(target_arch = "x86_64"))]
pub(crate) fn compatible() -> String {
    "none".to_owned()
}

/// `getpid` with the number that 32-bit programs on 64-bit machines use for it.
pub(crate) fn x32() -> Result<usize, Errno> {
    call(libc::SYS_getpid | 0x4000_0000, [])
}
