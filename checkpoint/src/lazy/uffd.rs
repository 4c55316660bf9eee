//! userfaultfd(2): the kernel's requests for pages, and the answers.
//!
//! All that is unsafe about lazy restore is here: four ioctls, each given a
//! structure that lives for the whole call, and one of them a buffer that is
//! longer than what the kernel reads of it. None writes to our memory but into
//! that structure.

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

/// What a process does, or wants.
#[derive(Debug)]
pub(super) enum Event {
    /// It waits for the page at this address.
    Fault(u64),
    /// It has forked; the child's descriptor.
    Fork(OwnedFd),
    /// It has moved memory.
    Remap { from: u64, to: u64, length: u64 },
    /// It gives up the content of memory, or the memory itself.
    Remove { start: u64, end: u64 },
}

/// The bytes of a message (struct uffd_msg).
const MESSAGE: usize = 32;

/// How many messages are read at once.
const MESSAGES: usize = 16;

/// The descriptor of one address space.
#[derive(Debug)]
pub(super) struct Uffd(OwnedFd);

impl Uffd {
    /// Takes over a descriptor.
    pub(super) fn new(fd: OwnedFd) -> io::Result<Self> {
        use nix::fcntl::{FcntlArg, OFlag, fcntl};
        let flags = OFlag::from_bits_retain(fcntl(&fd, FcntlArg::F_GETFL)?);
        fcntl(&fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
        Ok(Self(fd))
    }

    /// Reads what has come in; the process goes on as soon as this has read its
    /// event. Nothing if there is nothing, or nobody is there any more.
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

    /// Gives the process pages. Says how many bytes it took; an error counts
    /// only for the first page.
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

    /// Lets whoever waits for this memory look again.
    pub(super) fn wake(&self, address: u64, length: u64) {
        let mut request = UffdioRange {
            start: address,
            len: length,
        };
        // It fails for impossible addresses only, where nobody can wait.
        // SAFETY: the request lives through the call and holds no pointer.
        let _ = unsafe { ioctl::wake(self.0.as_raw_fd(), &raw mut request) };
    }
}

/// Whether the address space behind a userfaultfd has ended. The kernel tells of no
/// end; it only refuses what is given to an address space that has.
#[must_use]
pub fn is_gone(uffd: BorrowedFd<'_>) -> bool {
    // From the first address that can be mapped (vm.mmap_min_addr) to the end of
    // the smallest address space (arm64 with 39 bits). No mapping is that large and
    // begins there, so that an address space that exists refuses it, too, with
    // another error (mm/userfaultfd.c, `mfill_atomic`).
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
    // The second before Linux 4.13.
    matches!(result, Err(Errno::ESRCH | Errno::ENOSPC))
}

impl AsFd for Uffd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The kernel says how far it came, or what was wrong with the first page.
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
        // SAFETY: reading this message made the descriptor, and nobody else
        // knows of it.
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

/// Whether this machine can do what lazy restore needs.
///
/// # Errors
/// It can't; the reason is for the person who asked for it.
pub fn available() -> io::Result<()> {
    // SAFETY: userfaultfd takes a number and no memory.
    let fd = unsafe { libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC | libc::O_NONBLOCK) };
    let fd = i32::try_from(fd).map_err(io::Error::other)?;
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel just returned this descriptor and nobody else has it.
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
        // They are part of the requests' numbers.
        assert_eq!(size_of::<UffdioApi>(), 24);
        assert_eq!(size_of::<UffdioRange>(), 16);
        assert_eq!(size_of::<UffdioCopy>(), 40);
        assert_eq!(size_of::<UffdioZeropage>(), 32);
    }

    proptest! {
        #[test]
        fn no_message_panics(mut message: [u8; MESSAGE]) {
            // Only the kernel can have made that descriptor.
            prop_assume!(message[0] != 0x13);
            let _ = parse(&message);
            message[0] = 0x14;
            let moved = matches!(parse(&message), Ok(Event::Remap { .. }));
            prop_assert!(moved);
        }
    }
}
