//! Edits CRIU's images, as a hostile user of a checkpoint would.

use std::fs;
use std::path::Path;

/// A field of a protobuf message: its number, its type on the wire, its bytes.
struct Field {
    number: u64,
    wire: u64,
    bytes: Vec<u8>,
}

/// Replaces all fields of a number, in the first record of an image that has the path.
/// The path leads to the field through nested messages.
#[track_caller]
pub fn edit(image: &Path, path: &[u64], numbers: &[u64]) {
    let fields = numbers.iter().map(|number| (0, varint(*number)));
    replace(image, path, &fields.collect::<Vec<_>>());
}

/// Replaces a text in the same way.
#[track_caller]
pub fn edit_text(image: &Path, path: &[u64], text: &str) {
    let bytes = [varint(text.len() as u64), text.as_bytes().to_vec()].concat();
    replace(image, path, &[(2, bytes)]);
}

/// A number of the first record.
#[track_caller]
pub fn number(image: &Path, path: &[u64]) -> u64 {
    let records = records(image).1;
    let mut message = records[0].clone();
    for number in path {
        let field = fields(&message)
            .into_iter()
            .find(|field| field.number == *number);
        let field = field.unwrap_or_else(|| panic!("{}: no field {path:?}", image.display()));
        message = match field.wire {
            2 => without_length(&field.bytes),
            _ => return take_varint(&mut field.bytes.as_slice()),
        };
    }
    panic!("{}: {path:?} is a message", image.display());
}

#[track_caller]
fn replace(image: &Path, path: &[u64], values: &[(u64, Vec<u8>)]) {
    let (mut out, records) = records(image);
    let mut done = false;
    for record in records {
        let edited = if done {
            None
        } else {
            replaced(&record, path, values)
        };
        done |= edited.is_some();
        let record = edited.unwrap_or(record);
        out.extend((record.len() as u32).to_le_bytes());
        out.extend(record);
    }
    assert!(done, "{}: no message at {path:?}", image.display());
    fs::write(image, out).unwrap_or_else(|error| panic!("{}: {error}", image.display()));
}

/// The message with the field replaced; `None` if a message on the path is missing.
fn replaced(message: &[u8], path: &[u64], values: &[(u64, Vec<u8>)]) -> Option<Vec<u8>> {
    let (number, rest) = path.split_first()?;
    let mut all = fields(message);
    if rest.is_empty() {
        all.retain(|field| field.number != *number);
        all.extend(values.iter().map(|(wire, bytes)| Field {
            number: *number,
            wire: *wire,
            bytes: bytes.clone(),
        }));
    } else {
        let nested = all.iter_mut().find(|field| field.number == *number)?;
        let inner = replaced(&without_length(&nested.bytes), rest, values)?;
        nested.bytes = [varint(inner.len() as u64), inner].concat();
    }
    let encoded = all.into_iter().flat_map(|field| {
        let key = varint(field.number << 3 | field.wire);
        [key, field.bytes].concat()
    });
    Some(encoded.collect())
}

/// The magic numbers and the records of an image.
#[track_caller]
fn records(image: &Path) -> (Vec<u8>, Vec<Vec<u8>>) {
    let bytes = fs::read(image).unwrap_or_else(|error| panic!("{}: {error}", image.display()));
    // Only the inventory begins with one number (CRIU's magic.h).
    let magic = if image.ends_with("inventory.img") {
        4
    } else {
        8
    };
    let (magic, mut rest) = bytes.split_at(magic);
    let mut records = Vec::new();
    while let Some((length, after)) = rest.split_first_chunk::<4>() {
        let (record, after) = after.split_at(u32::from_le_bytes(*length) as usize);
        records.push(record.to_vec());
        rest = after;
    }
    (magic.to_vec(), records)
}

fn fields(mut message: &[u8]) -> Vec<Field> {
    let mut all = Vec::new();
    while !message.is_empty() {
        let key = take_varint(&mut message);
        let start = message;
        match key & 7 {
            0 => drop(take_varint(&mut message)),
            1 => message = &message[8..],
            2 => {
                let length = take_varint(&mut message) as usize;
                message = &message[length..];
            }
            5 => message = &message[4..],
            wire => panic!("wire type {wire}"),
        }
        all.push(Field {
            number: key >> 3,
            wire: key & 7,
            bytes: start[..start.len() - message.len()].to_vec(),
        });
    }
    all
}

fn without_length(mut bytes: &[u8]) -> Vec<u8> {
    take_varint(&mut bytes);
    bytes.to_vec()
}

fn take_varint(bytes: &mut &[u8]) -> u64 {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first().expect("a number");
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            break;
        }
    }
    value
}

fn varint(mut value: u64) -> Vec<u8> {
    let mut out = Vec::new();
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
    out
}
