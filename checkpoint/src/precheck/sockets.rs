//! The names of unix sockets, which are the application's and may have links.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::messages::UnixSocket;
use super::paths::{Paths, mount_of};
use super::places::{Files, as_path};
use super::refusal::Refusals;

/// The most links in a path (path_resolution(7)).
const MAX_LINKS: usize = 40;

impl Paths<'_> {
    /// Checks the name of a socket: no link in it leads into proc.
    pub(super) fn socket(&mut self, socket: &UnixSocket, refusals: &mut Refusals) {
        // An abstract name begins with a zero, and any other ends at one (unix(7)).
        let end = socket.name.iter().position(|byte| *byte == 0);
        let name = &socket.name[..end.unwrap_or(socket.name.len())];
        if name.is_empty() {
            return;
        }
        let shown = String::from_utf8_lossy(name).into_owned();
        let path = match (name[0], &socket.name_dir) {
            (b'/', _) => as_path(name).to_owned(),
            (_, Some(dir)) => as_path(dir).join(as_path(name)),
            // CRIU refuses a relative name without a directory.
            _ => return,
        };
        // CRIU refuses an unknown mount.
        let Some(namespace) = self.namespace(mount_of(socket.mnt_id)) else {
            return;
        };
        if self.leads_through_proc(namespace, &path) {
            refusals.file(
                &shown,
                "is a socket whose path leads through proc",
                "no socket can be there",
            );
        }
    }

    /// Follows the links in a path of the container, as far as its files are on the
    /// host, and returns whether one leads into proc.
    fn leads_through_proc(&mut self, namespace: u32, path: &Path) -> bool {
        let mut ahead: Vec<Vec<u8>> = components(path).rev().collect();
        let mut at = Vec::new();
        let mut links = 0;
        while let Some(name) = ahead.pop() {
            if name == b".." {
                let parent = at.iter().rposition(|byte| *byte == b'/');
                at.truncate(parent.unwrap_or(0));
                continue;
            }
            let next = [at.as_slice(), b"/", &name].concat();
            let Some((index, rest)) = self.place(namespace, &next) else {
                return false;
            };
            let root = match &self.mounts.places[index].files {
                Files::Processes => return true,
                Files::Host(root) => root,
                Files::Archive { .. } => {
                    self.archived(index, rest);
                    at = next;
                    continue;
                }
                _ => {
                    at = next;
                    continue;
                }
            };
            match fs::read_link(root.join(as_path(&rest))) {
                Ok(target) if links < MAX_LINKS => {
                    links += 1;
                    if target.is_absolute() {
                        at.clear();
                    }
                    ahead.extend(components(&target).rev());
                }
                Ok(_) => return true,
                Err(_) => at = next,
            }
        }
        false
    }
}

fn components(path: &Path) -> impl DoubleEndedIterator<Item = Vec<u8>> {
    path.components().filter_map(|component| match component {
        std::path::Component::Normal(name) => Some(name.as_bytes().to_owned()),
        std::path::Component::ParentDir => Some(b"..".to_vec()),
        _ => None,
    })
}
