//! CRIU's remote procedure calls, as far as a dump and a restore need them
//! (images/rpc.proto of CRIU).
//!
//! `criu swrk FD` reads one request from a socket, answers it, and exits. Between the two
//! it sends a notification at each step if the request asks for it, and waits for the
//! answer. So the caller decides after a dump whether CRIU ends the processes or resumes
//! them: CRIU resumes them if the answer is no, or if the caller has exited.

use crate::images::proto::wire::{Message, messages, put_bytes, put_varint};

/// The longest message. CRIU's answers have a few hundred bytes.
pub const MAX_MESSAGE: usize = 64 << 10;

/// A request. Booleans that are false are sent, too, because a configuration file could
/// have set them before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Dump a process and its children.
    Dump(Dump),
    /// Restore a checkpoint.
    Restore(Restore),
    /// The answer to a notification.
    Notified {
        /// Whether CRIU goes on.
        success: bool,
    },
}

/// Options of both.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Common {
    /// The caller's descriptor of the directory of images.
    pub images: i32,
    /// The caller's descriptor of the working directory.
    pub work: i32,
    /// The log's name in the working directory.
    pub log: String,
    /// Keep TCP connections.
    pub tcp_established: bool,
    /// Keep locks of files.
    pub file_locks: bool,
    /// The session's leader, or its terminal, is outside.
    pub shell_job: bool,
    /// Keep unlinked files by a link of another name.
    pub link_remap: bool,
}

/// Options of a dump.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Dump {
    /// Options of both.
    pub common: Common,
    /// The process.
    pub pid: i32,
    /// It runs on.
    pub leave_running: bool,
    /// The largest unlinked file that is copied, in bytes.
    pub ghost_limit: u32,
    /// Seconds for stopping all processes.
    pub timeout: u32,
    /// Resources that are left out: `tty[RDEV:DEV]`.
    pub external: Vec<String>,
}

/// Options of a restore.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Restore {
    /// Options of both.
    pub common: Common,
    /// Close TCP connections.
    pub tcp_close: bool,
    /// Leave memory to a page source.
    pub lazy_pages: bool,
    /// Leave the processes stopped.
    pub leave_stopped: bool,
    /// Descriptors of CRIU's process in place of those that were left out, by their keys.
    pub inherit: Vec<(String, i32)>,
}

/// The types of requests and answers (`criu_req_type`).
const DUMP: u64 = 1;
const RESTORE: u64 = 2;
const NOTIFY: u64 = 6;

/// `criu_cg_mode.IGNORE`: processes stay in the cgroups of CRIU, which are the caller's.
const IGNORE_CGROUPS: u64 = 0;

impl Request {
    /// The message's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut message = Vec::new();
        match self {
            Self::Dump(dump) => {
                number(&mut message, 1, DUMP);
                put_bytes(&mut message, 2, &dump.options());
            }
            Self::Restore(restore) => {
                number(&mut message, 1, RESTORE);
                put_bytes(&mut message, 2, &restore.options());
            }
            Self::Notified { success } => {
                number(&mut message, 1, NOTIFY);
                number(&mut message, 3, (*success).into());
            }
        }
        message
    }
}

impl Common {
    fn put(&self, out: &mut Vec<u8>) {
        number(out, 1, self.images.cast_unsigned().into());
        number(out, 17, self.work.cast_unsigned().into());
        // CRIU's level for debugging: the causes of failures are found in all lines.
        number(out, 9, 4);
        put_bytes(out, 10, self.log.as_bytes());
        number(out, 5, self.tcp_established.into());
        number(out, 7, self.shell_job.into());
        number(out, 8, self.file_locks.into());
        number(out, 18, self.link_remap.into());
        number(out, 34, IGNORE_CGROUPS);
    }
}

impl Dump {
    fn options(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.common.put(&mut out);
        number(&mut out, 2, self.pid.cast_unsigned().into());
        number(&mut out, 3, self.leave_running.into());
        // The notification after the dump.
        number(&mut out, 12, 1);
        number(&mut out, 35, self.ghost_limit.into());
        for external in &self.external {
            put_bytes(&mut out, 37, external.as_bytes());
        }
        number(&mut out, 45, self.timeout.into());
        out
    }
}

impl Restore {
    fn options(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.common.put(&mut out);
        // Notifications: CRIU fails when its caller is gone, before the processes run.
        number(&mut out, 12, 1);
        // The restored process is a child of CRIU's parent.
        number(&mut out, 26, 1);
        for (key, fd) in &self.inherit {
            let mut inherit = Vec::new();
            put_bytes(&mut inherit, 1, key.as_bytes());
            number(&mut inherit, 2, fd.cast_unsigned().into());
            put_bytes(&mut out, 27, &inherit);
        }
        number(&mut out, 48, self.lazy_pages.into());
        number(&mut out, 52, self.tcp_close.into());
        number(&mut out, 69, self.leave_stopped.into());
        out
    }
}

fn number(out: &mut Vec<u8>, field: u64, value: u64) {
    put_varint(out, field << 3);
    put_varint(out, value);
}

/// A message of CRIU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// A step, for which CRIU waits.
    Notify {
        /// The step's name: `post-dump`.
        step: String,
    },
    /// The end.
    Done {
        /// Whether the request succeeded.
        success: bool,
        /// The restored process, as CRIU sees it.
        pid: Option<i32>,
    },
}

messages! {
    /// `criu_resp`.
    Response {
        1 kind: u32,
        2 success: bool,
        4 restore: Option<Restored>,
        5 notify: Option<Notified>,
    }
    /// `criu_restore_resp`.
    Restored {
        1 pid: i32,
    }
    /// `criu_notify`.
    Notified {
        1 script: Option<String>,
    }
}

impl Answer {
    /// Parses a message; `None` if CRIU sends no such message.
    #[must_use]
    pub fn decode(message: &[u8]) -> Option<Self> {
        let response = Response::decode(message).ok()?;
        Some(match response.notify {
            Some(notify) if u64::from(response.kind) == NOTIFY => Self::Notify {
                step: notify.script.unwrap_or_default(),
            },
            _ => Self::Done {
                success: response.success,
                pid: response.restore.map(|restored| restored.pid),
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::images::proto::wire::{Fields, Value};
    use proptest::prelude::*;

    #[test]
    fn answers_are_read() {
        let notify = [8, 6, 16, 1, 42, 11, 10, 9].iter().copied();
        let notify: Vec<u8> = notify.chain(*b"post-dump").collect();
        let step = "post-dump".to_owned();
        assert_eq!(Answer::decode(&notify), Some(Answer::Notify { step }));
        assert_eq!(
            Answer::decode(&[8, 2, 16, 1, 34, 2, 8, 77]),
            Some(Answer::Done {
                success: true,
                pid: Some(77)
            })
        );
        assert_eq!(
            Answer::decode(&[8, 1, 16, 0]),
            Some(Answer::Done {
                success: false,
                pid: None
            })
        );
        assert_eq!(Answer::decode(b"no message"), None);
    }

    #[test]
    fn requests_have_criu_s_fields() {
        let dump = Dump {
            pid: 300,
            external: vec!["tty[8800:2]".to_owned()],
            ..Dump::default()
        };
        let message = Request::Dump(dump).encode();
        let fields: Vec<_> = Fields(&message).flatten().collect();
        assert!(matches!(fields[0], (1, Value::Number(1))));
        let (2, Value::Bytes(options)) = fields[1] else {
            panic!("{fields:?}");
        };
        let find = |wanted| {
            let mut fields = Fields(options).flatten();
            fields.find_map(|(field, value)| (field == wanted).then_some(value))
        };
        assert!(matches!(find(2), Some(Value::Number(300))));
        assert!(matches!(find(12), Some(Value::Number(1))));
        assert!(matches!(find(37), Some(Value::Bytes(b"tty[8800:2]"))));
    }

    proptest! {
        #[test]
        fn no_message_panics(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let _ = Answer::decode(&bytes);
        }
    }
}
