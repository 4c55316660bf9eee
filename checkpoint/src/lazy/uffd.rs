//! userfaultfd(2): events of the kernel, and pages for a process.
//!
//! All unsafe code of lazy restore is here: four ioctls. Each gets a structure that
//! lives for the whole call, and one gets a buffer that is longer than what the kernel
//! reads of it. The kernel writes into that structure only.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::errno::Errno;
use nix::libc;

/// linux/userfaultfd.h.
const UFFDIO: u8 = 0xAA;
const API: u64 = 0xAA;
const EVENT_FORK: u64 = 1 << 1;
const EVENT_REMAP: u64 = 1 << 2;
const EVENT_REMOVE: u64 = 1 << 3;
const EVENT_UNMAP: u64 = 1 << 6;

#[repr(C)]
struct UffdioApi {
    api: u64,
    features: u64,
    ioctls: u64,
}

#[repr(C)]
struct UffdioRange {
    start: u64,
    len: u64,
}

#[repr(C)]
struct UffdioCopy {
    dst: u64,
    src: u64,
    len: u64,
    mode: u64,
    copy: i64,
}

#[repr(C)]
struct UffdioZeropage {
    range: UffdioRange,
    mode: u64,
    zeropage: i64,
}

mod ioctl {
    use super::*;
    nix::ioctl_readwrite!(api, UFFDIO, 0x3F, UffdioApi);
    nix::ioctl_read!(wake, UFFDIO, 0x02, UffdioRange);
    nix::ioctl_readwrite!(copy, UFFDIO, 0x03, UffdioCopy);
    nix::ioctl_readwrite!(zeropage, UFFDIO, 0x04, UffdioZeropage);
}

/// An event of an address space.
#[derive(Debug)]
pub(super) enum Event {
    /// A process waits for the page at this address.
    Fault(u64),
    /// The process has forked. The descriptor is the child's.
    Fork(OwnedFd),
    /// The process has moved memory (mremap).
    Remap { from: u64, to: u64, length: u64 },
    /// The process has dropped the content of memory, or unmapped it.
    Remove { start: u64, end: u64 },
}

/// The bytes of a message (struct uffd_msg).
const MESSAGE: usize = 32;

/// The number of messages that one read returns at most.
const MESSAGES: usize = 16;

/// The descriptor of one address space.
#[derive(Debug)]
pub(super) struct Uffd(OwnedFd);

impl Uffd {
    /// Takes ownership of a descriptor.
    pub(super) fn new(fd: OwnedFd) -> io::Result<Self> {
        use nix::fcntl::{FcntlArg, OFlag, fcntl};
        let flags = OFlag::from_bits_retain(fcntl(&fd, FcntlArg::F_GETFL)?);
        fcntl(&fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
        Ok(Self(fd))
    }

    /// Reads the pending events. The kernel lets a process continue when its event has
    /// been read. Empty if there is none, or if the address space has ended.
    pub(super) fn read(&self) -> io::Result<Vec<Event>> {
        let mut buffer = [0; MESSAGE * MESSAGES];
        let length = match nix::unistd::read(&self.0, &mut buffer) {
            Ok(length) => length,
            Err(Errno::EAGAIN | Errno::EINTR) => return Ok(Vec::new()),
            Err(error) => return Err(error.into()),
        };
        let (messages, _) = buffer[..length].as_chunks::<MESSAGE>();
        messages.iter().map(parse).collect()
    }

    /// Gives the process pages. Returns the number of bytes that the kernel copied; an
    /// error concerns the first page.
    pub(super) fn copy(&self, address: u64, bytes: &[u8]) -> Result<u64, Errno> {
        let mut request = UffdioCopy {
            dst: address,
            src: bytes.as_ptr() as u64,
            len: bytes.len() as u64,
            mode: 0,
            copy: 0,
        };
        // SAFETY: the request lives through the call, and the kernel reads no
        // more than `len` bytes from `src`, which are those of `bytes`.
        let result = unsafe { ioctl::copy(self.0.as_raw_fd(), &raw mut request) };
        done(result, request.copy)
    }

    /// Gives the process a page of zeros.
    pub(super) fn zero(&self, address: u64, length: u64) -> Result<u64, Errno> {
        let mut request = UffdioZeropage {
            range: UffdioRange {
                start: address,
                len: length,
            },
            mode: 0,
            zeropage: 0,
        };
        // SAFETY: the request lives through the call and holds no pointer.
        let result = unsafe { ioctl::zeropage(self.0.as_raw_fd(), &raw mut request) };
        done(result, request.zeropage)
    }

    /// Wakes the threads that wait for this memory. They fault again.
    pub(super) fn wake(&self, address: u64, length: u64) {
        let mut request = UffdioRange {
            start: address,
            len: length,
        };
        // It fails for impossible addresses only, which no thread can wait for.
        // SAFETY: the request lives through the call and holds no pointer.
        let _ = unsafe { ioctl::wake(self.0.as_raw_fd(), &raw mut request) };
    }
}

/// Whether the address space behind a userfaultfd has ended. The kernel reports no
/// end; it refuses pages for an address space that has ended.
#[must_use]
pub fn is_gone(uffd: BorrowedFd<'_>) -> bool {
    // From the first address that can be mapped (vm.mmap_min_addr) to the end of the
    // smallest address space (arm64 with 39 bits). No mapping begins there and is that
    // large, so an address space that exists refuses the range with another error
    // (mm/userfaultfd.c, `mfill_atomic`).
    let range = UffdioRange {
        start: 64 << 10,
        len: (1 << 38) - (64 << 10),
    };
    let mut request = UffdioZeropage {
        range,
        mode: 0,
        zeropage: 0,
    };
    // SAFETY: the request lives through the call and holds no pointer.
    let result = unsafe { ioctl::zeropage(uffd.as_raw_fd(), &raw mut request) };
    // ENOSPC is the error before Linux 4.13.
    matches!(result, Err(Errno::ESRCH | Errno::ENOSPC))
}

impl AsFd for Uffd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The kernel returns the bytes that it copied, or the error of the first page.
fn done(result: nix::Result<libc::c_int>, count: i64) -> Result<u64, Errno> {
    match (result, u64::try_from(count)) {
        (Ok(_), Ok(count)) => Ok(count),
        (Err(_), Ok(count)) if count > 0 => Ok(count),
        (Err(error), _) => Err(error),
        (Ok(_), Err(_)) => Err(Errno::EIO),
    }
}

fn parse(message: &[u8; MESSAGE]) -> io::Result<Event> {
    let word = |at: usize| {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&message[8 + 8 * at..16 + 8 * at]);
        u64::from_ne_bytes(bytes)
    };
    let number = i32::from_ne_bytes([message[8], message[9], message[10], message[11]]);
    Ok(match message[0] {
        0x12 => Event::Fault(word(1)),
        // SAFETY: reading this message created the descriptor, and nothing else owns
        // it.
        0x13 => Event::Fork(unsafe { OwnedFd::from_raw_fd(number) }),
        0x14 => Event::Remap {
            from: word(0),
            to: word(1),
            length: word(2),
        },
        0x15 | 0x16 => Event::Remove {
            start: word(0),
            end: word(1),
        },
        other => {
            return Err(io::Error::other(format!(
                "userfaultfd: unknown event {other:#x}"
            )));
        }
    })
}

/// Checks that this machine supports lazy restore.
///
/// # Errors
/// It does not; the error is the reason, for the user.
pub fn available() -> io::Result<()> {
    // SAFETY: userfaultfd takes a number and no memory.
    let fd = unsafe { libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC | libc::O_NONBLOCK) };
    let fd = i32::try_from(fd).map_err(io::Error::other)?;
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel just returned this descriptor, and nothing else owns it.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    let mut request = UffdioApi {
        api: API,
        features: EVENT_FORK | EVENT_REMAP | EVENT_REMOVE | EVENT_UNMAP,
        ioctls: 0,
    };
    // SAFETY: the request lives through the call and holds no pointer.
    unsafe { ioctl::api(fd.as_raw_fd(), &raw mut request) }?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sizes_are_the_kernels() {
        // The sizes are part of the requests' numbers.
        assert_eq!(size_of::<UffdioApi>(), 24);
        assert_eq!(size_of::<UffdioRange>(), 16);
        assert_eq!(size_of::<UffdioCopy>(), 40);
        assert_eq!(size_of::<UffdioZeropage>(), 32);
    }

    proptest! {
        #[test]
        fn no_message_panics(mut message: [u8; MESSAGE]) {
            // Only the kernel can have created that descriptor.
            prop_assume!(message[0] != 0x13);
            let _ = parse(&message);
            message[0] = 0x14;
            let moved = matches!(parse(&message), Ok(Event::Remap { .. }));
            prop_assert!(moved);
        }
    }
}
