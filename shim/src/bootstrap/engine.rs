//! Detects the task API version of the calling containerd.
//!
//! containerd 1.7 refuses a shim that answers `start` with version 3. If the answer
//! is 2, containerd 2 starts a shim per container instead of per pod. Neither tells
//! its version (both set `MAX_SHIM_VERSION=2`), and running `containerd --version`
//! would cost each container some 50 ms.
//!
//! But a Go module's major version is part of its import path, and every Go binary
//! has the paths of its main package and modules in the ELF section `.go.buildinfo`
//! (Go, debug/buildinfo). The shim reads that section, of containerd itself or of
//! k3s, which embeds containerd.

use std::{fs::File, io, os::unix::fs::FileExt, path::Path};

/// The version that containerd 1.7 and all later ones accept.
pub(super) const TASK_API_V2: i32 = 2;
/// The version that containerd 2.0 introduced.
pub(super) const TASK_API_V3: i32 = 3;

const VERSION_2_MODULE: &[u8] = b"github.com/containerd/containerd/v2";

/// The newest task API that the containerd at `binary` accepts, or [`TASK_API_V2`] if
/// that is unknown.
pub(super) fn task_api(binary: &Path) -> i32 {
    match File::open(binary).and_then(|file| build_info(&file)) {
        Ok(info) if contains(&info, VERSION_2_MODULE) => TASK_API_V3,
        _ => TASK_API_V2,
    }
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack
        .windows(needle.len())
        .any(|window| window == needle)
}

/// The most that is read of a build info; containerd's has some 10 KiB.
const BUILD_INFO_LIMIT: u64 = 1 << 20;
/// The largest section table or string table that is read; containerd's are far
/// smaller.
const TABLE_LIMIT: usize = 1 << 20;

/// The contents of `.go.buildinfo` in a 64-bit little-endian ELF file (System V
/// ABI, chapter 4; both supported architectures use this format).
fn build_info(file: &File) -> io::Result<Vec<u8>> {
    let header = read_at(file, 0, 64)?;
    if !header.starts_with(b"\x7fELF\x02\x01") {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let (entry_size, count) = (number(&header, 0x3a, 2)?, number(&header, 0x3c, 2)?);
    let names_index = number(&header, 0x3e, 2)?;
    let table_size = usize::try_from(entry_size * count).unwrap_or(usize::MAX);
    let table = read_at(file, number(&header, 0x28, 8)?, table_size)?;
    let section = |index: u64| -> io::Result<(u64, u64, u64)> {
        let start = usize::try_from(index * entry_size).unwrap_or(usize::MAX);
        let entry = table.get(start..).unwrap_or_default();
        Ok((
            number(entry, 0, 4)?,
            number(entry, 0x18, 8)?,
            number(entry, 0x20, 8)?,
        ))
    };
    let (_, names_offset, names_size) = section(names_index)?;
    let names_size = usize::try_from(names_size).unwrap_or(usize::MAX);
    let names = read_at(file, names_offset, names_size)?;
    for index in 0..count {
        let (name, offset, size) = section(index)?;
        let name = usize::try_from(name).unwrap_or(usize::MAX);
        if names
            .get(name..)
            .is_some_and(|n| n.starts_with(b".go.buildinfo\0"))
        {
            let size = usize::try_from(size.min(BUILD_INFO_LIMIT)).unwrap_or(TABLE_LIMIT);
            return read_at(file, offset, size);
        }
    }
    Err(io::ErrorKind::NotFound.into())
}

fn read_at(file: &File, offset: u64, size: usize) -> io::Result<Vec<u8>> {
    if size > TABLE_LIMIT {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut bytes = vec![0; size];
    file.read_exact_at(&mut bytes, offset)?;
    Ok(bytes)
}

/// A little-endian number of `size` bytes, at most 8.
fn number(bytes: &[u8], at: usize, size: usize) -> io::Result<u64> {
    let field = bytes
        .get(at..at + size)
        .ok_or(io::ErrorKind::UnexpectedEof)?;
    Ok(field
        .iter()
        .rev()
        .fold(0, |n, byte| n << 8 | u64::from(*byte)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    /// An ELF file with nothing but a `.go.buildinfo`.
    fn elf(info: &[u8]) -> tempfile::NamedTempFile {
        let names = b"\0.go.buildinfo\0";
        let (names_at, info_at) = (64, 64 + names.len());
        let table_at = info_at + info.len();
        let mut bytes = b"\x7fELF\x02\x01".to_vec();
        bytes.resize(64, 0);
        bytes[0x28..0x30].copy_from_slice(&(table_at as u64).to_le_bytes());
        bytes[0x3a..0x40].copy_from_slice(&[64, 0, 2, 0, 0, 0]);
        bytes.extend_from_slice(names);
        bytes.extend_from_slice(info);
        for (name, at, size) in [(0u32, names_at, names.len()), (1, info_at, info.len())] {
            let mut section = vec![0; 64];
            section[..4].copy_from_slice(&name.to_le_bytes());
            section[0x18..0x20].copy_from_slice(&(at as u64).to_le_bytes());
            section[0x20..0x28].copy_from_slice(&(size as u64).to_le_bytes());
            bytes.extend_from_slice(&section);
        }
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&bytes).unwrap();
        file
    }

    #[test]
    fn the_module_path_tells_the_major_version() {
        let v1 = elf(b"path\tgithub.com/containerd/containerd/cmd/containerd\n");
        assert_eq!(task_api(v1.path()), TASK_API_V2);
        let v2 = elf(b"path\tgithub.com/containerd/containerd/v2/cmd/containerd\n");
        assert_eq!(task_api(v2.path()), TASK_API_V3);
        let k3s = elf(b"path\tk3s\ndep\tgithub.com/containerd/containerd/v2\tv2.1.4\n");
        assert_eq!(task_api(k3s.path()), TASK_API_V3);
    }

    #[test]
    fn a_file_that_is_no_go_binary_gets_version_2() {
        assert_eq!(task_api(Path::new("/nonexistent")), TASK_API_V2);
        assert_eq!(task_api(Path::new("/proc/self/exe")), TASK_API_V2);
        assert_eq!(task_api(Path::new("/dev/null")), TASK_API_V2);
    }

    proptest::proptest! {
        #[test]
        fn no_file_panics(tail: Vec<u8>) {
            let mut file = tempfile::NamedTempFile::new().unwrap();
            file.write_all(b"\x7fELF\x02\x01").unwrap();
            file.write_all(&tail).unwrap();
            let _ = task_api(file.path());
        }
    }
}
