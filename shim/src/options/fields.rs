//! Options messages: their names, their errors, and a reader for messages that the shim
//! crates don't define.

use containerd_shim::protos::protobuf::{
    CodedInputStream, rt::WireType, well_known_types::any::Any,
};

use crate::error::{Error, Result};

pub(super) fn message_name(any: &Any) -> &str {
    any.type_url.rsplit('/').next().unwrap_or_default()
}

pub(super) fn unknown_type(got: &str, known: &[&str]) -> Error {
    Error::InvalidArgument(format!(
        "options of type {got:?} are unknown; send {}",
        known.join(" or ")
    ))
}

pub(super) fn warn_unknown_field(message: &str, number: u32) {
    log::warn!("option number {number} of {message} is unknown and has no effect");
}

/// Handles a field that was not read: a known field has the wrong type, an unknown
/// one is ignored.
pub(super) fn other(message: &'static str, number: u32, known: &[u32]) -> Result<()> {
    if known.contains(&number) {
        return Err(malformed(message)(format!(
            "field {number} has the wrong type"
        )));
    }
    warn_unknown_field(message, number);
    Ok(())
}

pub(super) fn malformed<E: std::fmt::Display>(message: &'static str) -> impl Fn(E) -> Error {
    move |e| Error::InvalidArgument(format!("options {message} are malformed: {e}"))
}

/// The value of a field in a flat protobuf message.
pub(super) enum Value {
    Number(u64),
    Text(String),
    /// A value of a type that no known field has.
    Other,
}

/// The fields of a message whose definition the shim crates don't carry.
pub(super) struct Fields<'a> {
    message: &'static str,
    input: CodedInputStream<'a>,
}

impl<'a> Fields<'a> {
    pub(super) fn of(message: &'static str, bytes: &'a [u8]) -> Self {
        Self {
            message,
            input: CodedInputStream::from_bytes(bytes),
        }
    }
}

impl Iterator for Fields<'_> {
    type Item = Result<(u32, Value)>;

    fn next(&mut self) -> Option<Self::Item> {
        let malformed = malformed(self.message);
        let tag = match self.input.read_raw_tag_or_eof() {
            Ok(Some(tag)) => tag,
            Ok(None) => return None,
            Err(e) => return Some(Err(malformed(e))),
        };
        let number = tag >> 3;
        let value = match WireType::new(tag & 7) {
            Some(WireType::Varint) => self.input.read_uint64().map(Value::Number),
            Some(WireType::LengthDelimited) => self
                .input
                .read_bytes()
                .map(|bytes| String::from_utf8(bytes).map_or(Value::Other, Value::Text)),
            Some(wire_type) => self.input.skip_field(wire_type).map(|()| Value::Other),
            None => {
                let message = self.message;
                return Some(Err(Error::InvalidArgument(format!(
                    "options {message} are malformed: wire type {}",
                    tag & 7
                ))));
            }
        };
        Some(value.map(|value| (number, value)).map_err(malformed))
    }
}
