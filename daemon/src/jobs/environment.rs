//! The environment of a job: that of a login, and what the caller gives.

use std::collections::BTreeMap;

use cedana_contract::search_path::DEFAULT_SEARCH_PATH;
use nix::unistd::{Uid, User};

use super::error::JobError;
use crate::job::bytes::Bytes;

/// The limit of all names and values together: the kernel's for a program's arguments
/// and environment is usually two MiB.
const MAX_BYTES: usize = 1 << 20;

/// The environment of a user's job.
///
/// # Errors
/// A variable that the kernel can't pass.
pub(super) fn of_job(
    uid: u32,
    given: Vec<(Vec<u8>, Vec<u8>)>,
) -> Result<Vec<(Bytes, Bytes)>, JobError> {
    let mut environment = login(uid);
    let mut bytes = 0;
    for (name, value) in given {
        bytes += name.len() + value.len();
        if name.is_empty() || name.contains(&b'=') || name.contains(&0) || value.contains(&0) {
            return Err(JobError::Invalid(format!(
                "{:?} is not a valid variable: a name is not empty and has no \"=\", and neither name nor value has a NUL byte",
                String::from_utf8_lossy(&name)
            )));
        }
        environment.insert(name, value);
    }
    if bytes > MAX_BYTES {
        return Err(JobError::Invalid(format!(
            "the variables have {bytes} bytes, and {MAX_BYTES} are allowed; pass a file's name instead"
        )));
    }
    Ok(environment
        .into_iter()
        .map(|(name, value)| (Bytes(name), Bytes(value)))
        .collect())
}

fn login(uid: u32) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let user = User::from_uid(Uid::from_raw(uid)).ok().flatten();
    let mut variables = vec![("PATH", DEFAULT_SEARCH_PATH.to_owned())];
    match user {
        Some(user) => variables.extend([
            ("HOME", user.dir.display().to_string()),
            ("SHELL", user.shell.display().to_string()),
            ("USER", user.name.clone()),
            ("LOGNAME", user.name),
        ]),
        None => variables.push(("HOME", "/".to_owned())),
    }
    variables
        .into_iter()
        .map(|(name, value)| (name.as_bytes().to_vec(), value.into_bytes()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn given_variables_win_and_nothing_is_inherited() {
        let given = vec![(b"PATH".to_vec(), b"/x".to_vec()), (b"A".to_vec(), vec![])];
        let environment = of_job(u32::MAX - 7, given).expect("valid");
        let expected = [("A", ""), ("HOME", "/"), ("PATH", "/x")]
            .map(|(name, value)| (Bytes::from(name), Bytes::from(value)));
        assert_eq!(environment, expected);
    }

    #[test]
    fn what_the_kernel_cannot_pass_is_refused() {
        for (name, value) in [
            (&b""[..], &b""[..]),
            (b"A=B", b""),
            (b"A\0", b""),
            (b"A", b"\0"),
        ] {
            assert!(of_job(0, vec![(name.to_vec(), value.to_vec())]).is_err());
        }
        assert!(of_job(0, vec![(b"A".to_vec(), vec![b'x'; MAX_BYTES + 1])]).is_err());
    }
}
