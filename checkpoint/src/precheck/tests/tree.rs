//! Writes CRIU's images, any field of them.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use crate::images::proto::wire::{put_bytes, put_varint};

/// A protobuf message, field by field.
#[derive(Debug, Clone, Default)]
pub(super) struct Message(Vec<(u64, Value)>);

#[derive(Debug, Clone)]
pub(super) enum Value {
    Number(u64),
    Bytes(Vec<u8>),
    Message(Message),
}

impl From<u64> for Value {
    fn from(number: u64) -> Self {
        Self::Number(number)
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Bytes(text.as_bytes().to_owned())
    }
}

impl From<&[u8]> for Value {
    fn from(bytes: &[u8]) -> Self {
        Self::Bytes(bytes.to_owned())
    }
}

impl From<Message> for Value {
    fn from(message: Message) -> Self {
        Self::Message(message)
    }
}

impl Message {
    /// Adds a field.
    pub(super) fn with(mut self, number: u64, value: impl Into<Value>) -> Self {
        self.0.push((number, value.into()));
        self
    }

    /// Adds a field several times.
    pub(super) fn with_all<V: Into<Value>>(
        self,
        number: u64,
        values: impl IntoIterator<Item = V>,
    ) -> Self {
        let add = |message: Self, value| message.with(number, value);
        values.into_iter().fold(self, add)
    }

    /// Replaces all fields of a number, in a nested message if the path is longer.
    pub(super) fn set<V: Into<Value>>(
        &mut self,
        path: &[u64],
        values: impl IntoIterator<Item = V>,
    ) {
        let (number, rest) = path.split_first().expect("a path");
        if rest.is_empty() {
            self.0.retain(|(field, _)| field != number);
            let values = values.into_iter().map(|value| (*number, value.into()));
            self.0.extend(values);
            return;
        }
        let nested = self.0.iter_mut().find_map(|(field, value)| match value {
            Value::Message(message) if field == number => Some(message),
            _ => None,
        });
        nested.expect("a nested message").set(rest, values);
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for (number, value) in &self.0 {
            match value {
                Value::Number(value) => {
                    put_varint(&mut out, number << 3);
                    put_varint(&mut out, *value);
                }
                Value::Bytes(bytes) => put_bytes(&mut out, *number, bytes),
                Value::Message(message) => put_bytes(&mut out, *number, &message.encode()),
            }
        }
        out
    }
}

/// A directory of images.
#[derive(Debug, Clone, Default)]
pub(super) struct Tree {
    pub(super) images: BTreeMap<String, Vec<Message>>,
    /// Files that are no images.
    pub(super) others: BTreeMap<String, Vec<u8>>,
}

impl Tree {
    /// A record of an image.
    pub(super) fn record(&mut self, image: &str, index: usize) -> &mut Message {
        let records = self.images.get_mut(image).expect("an image");
        records.get_mut(index).expect("a record")
    }

    /// Adds a record to an image.
    pub(super) fn add(&mut self, image: &str, record: Message) {
        self.images
            .entry(image.to_owned())
            .or_default()
            .push(record);
    }

    pub(super) fn write(&self, dir: &Path) {
        for (name, records) in &self.images {
            let mut image = match name.as_str() {
                "inventory.img" => 0x5831_3116_u32.to_le_bytes().to_vec(),
                _ => [0x5456_4319_u32, 0].map(u32::to_le_bytes).concat(),
            };
            for record in records {
                let record = record.encode();
                image.extend(u32::try_from(record.len()).expect("small").to_le_bytes());
                image.extend(record);
            }
            fs::write(dir.join(name), image).expect("write");
        }
        for (name, content) in &self.others {
            fs::write(dir.join(name), content).expect("write");
        }
    }
}
