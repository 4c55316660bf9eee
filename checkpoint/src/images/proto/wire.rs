//! Protobuf's wire format, as far as CRIU's images use it, and the macro that declares
//! messages.
//!
//! There is no code generator: the few fields that are read are declared beside their
//! documentation, and all others are skipped. This reader also suits untrusted input.
//! It keeps names that are not UTF-8 (CRIU stores a path as the kernel has it), with
//! replacement characters. It requires required fields, so a list of messages in memory
//! is not much larger than its bytes in the image.

/// The error for bytes that are not a message of the expected type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Malformed;

/// The value of a field, before its type is known.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Value<'a> {
    /// A number in any of the wire's three encodings.
    Number(u64),
    /// A string, bytes, a nested message, or packed numbers.
    Bytes(&'a [u8]),
}

/// An iterator over the fields of a message: number and value.
pub(crate) struct Fields<'a>(pub(crate) &'a [u8]);

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u64, Value<'a>), Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.field().ok_or(Malformed);
        if field.is_err() {
            self.0 = &[];
        }
        Some(field)
    }
}

impl<'a> Fields<'a> {
    fn field(&mut self) -> Option<(u64, Value<'a>)> {
        let key = varint(&mut self.0)?;
        let value = match key & 7 {
            0 => Value::Number(varint(&mut self.0)?),
            1 => Value::Number(u64::from_le_bytes(self.take(8)?.try_into().ok()?)),
            2 => {
                let length = varint(&mut self.0)?;
                Value::Bytes(self.take(usize::try_from(length).ok()?)?)
            }
            5 => Value::Number(u32::from_le_bytes(self.take(4)?.try_into().ok()?).into()),
            _ => return None,
        };
        Some((key >> 3, value))
    }

    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// Appends a number in the wire's encoding.
pub(crate) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends a field of bytes.
pub(crate) fn put_bytes(out: &mut Vec<u8>, number: u64, bytes: &[u8]) {
    put_varint(out, number << 3 | 2);
    put_varint(out, bytes.len() as u64);
    out.extend(bytes);
}

/// A type that a declared field can have. A plain type is a required field; an
/// `Option` and a `Vec` are protobuf's optional and repeated.
pub(crate) trait Field: Default {
    /// Whether a message without it is damaged.
    const REQUIRED: bool = true;
    /// Whether a message may have several of it.
    const REPEATED: bool = false;

    /// Adds a value. [`messages!`] allows several of a repeated field only.
    fn merge(&mut self, value: Value<'_>) -> Result<(), Malformed>;
}

impl Field for u64 {
    fn merge(&mut self, value: Value<'_>) -> Result<(), Malformed> {
        match value {
            Value::Number(number) => *self = number,
            Value::Bytes(_) => return Err(Malformed),
        }
        Ok(())
    }
}

impl Field for u32 {
    fn merge(&mut self, value: Value<'_>) -> Result<(), Malformed> {
        let mut number = 0u64;
        number.merge(value)?;
        // Protobuf truncates a number that is too large for its field.
        *self = number as u32;
        Ok(())
    }
}

impl Field for i32 {
    fn merge(&mut self, value: Value<'_>) -> Result<(), Malformed> {
        let mut number = 0u32;
        number.merge(value)?;
        *self = number.cast_signed();
        Ok(())
    }
}

impl Field for bool {
    fn merge(&mut self, value: Value<'_>) -> Result<(), Malformed> {
        let mut number = 0u64;
        number.merge(value)?;
        *self = number != 0;
        Ok(())
    }
}

impl Field for Vec<u8> {
    fn merge(&mut self, value: Value<'_>) -> Result<(), Malformed> {
        match value {
            Value::Bytes(bytes) => *self = bytes.to_vec(),
            Value::Number(_) => return Err(Malformed),
        }
        Ok(())
    }
}

impl Field for String {
    fn merge(&mut self, value: Value<'_>) -> Result<(), Malformed> {
        match value {
            Value::Bytes(bytes) => *self = String::from_utf8_lossy(bytes).into_owned(),
            Value::Number(_) => return Err(Malformed),
        }
        Ok(())
    }
}

impl<T: Field> Field for Option<T> {
    const REQUIRED: bool = false;

    fn merge(&mut self, value: Value<'_>) -> Result<(), Malformed> {
        self.get_or_insert_with(T::default).merge(value)
    }
}

impl Field for Vec<u32> {
    const REQUIRED: bool = false;
    const REPEATED: bool = true;

    fn merge(&mut self, value: Value<'_>) -> Result<(), Malformed> {
        repeated(value, |number| self.push(number as u32))
    }
}

impl Field for Vec<String> {
    const REQUIRED: bool = false;
    const REPEATED: bool = true;

    fn merge(&mut self, value: Value<'_>) -> Result<(), Malformed> {
        let mut text = String::new();
        text.merge(value)?;
        self.push(text);
        Ok(())
    }
}

/// Nested messages that are decoded later, as those that nest without a bound.
impl Field for Vec<Vec<u8>> {
    const REQUIRED: bool = false;
    const REPEATED: bool = true;

    fn merge(&mut self, value: Value<'_>) -> Result<(), Malformed> {
        let mut bytes = Vec::new();
        bytes.merge(value)?;
        self.push(bytes);
        Ok(())
    }
}

impl Field for Vec<u64> {
    const REQUIRED: bool = false;
    const REPEATED: bool = true;

    fn merge(&mut self, value: Value<'_>) -> Result<(), Malformed> {
        repeated(value, |number| self.push(number))
    }
}

/// Reads a value of a repeated number, which may be single or packed.
fn repeated(value: Value<'_>, mut push: impl FnMut(u64)) -> Result<(), Malformed> {
    match value {
        Value::Number(number) => push(number),
        Value::Bytes(mut packed) => {
            while !packed.is_empty() {
                push(varint(&mut packed).ok_or(Malformed)?);
            }
        }
    }
    Ok(())
}

/// A message that was declared with [`messages!`].
pub(crate) trait Message: Default {
    /// Decodes a message. Undeclared fields are skipped.
    fn decode(bytes: &[u8]) -> Result<Self, Malformed>;
}

impl<M: Message> Field for M {
    fn merge(&mut self, value: Value<'_>) -> Result<(), Malformed> {
        match value {
            Value::Bytes(bytes) => *self = M::decode(bytes)?,
            Value::Number(_) => return Err(Malformed),
        }
        Ok(())
    }
}

impl<M: Message> Field for Vec<M> {
    const REQUIRED: bool = false;
    const REPEATED: bool = true;

    fn merge(&mut self, value: Value<'_>) -> Result<(), Malformed> {
        match value {
            Value::Bytes(bytes) => self.push(M::decode(bytes)?),
            Value::Number(_) => return Err(Malformed),
        }
        Ok(())
    }
}

/// Declares messages: a name, then field numbers, names and types.
macro_rules! messages {
    ($($(#[$meta:meta])* $name:ident {
        $($(#[$field_meta:meta])* $number:literal $field:ident: $type:ty,)*
    })*) => {$(
        $(#[$meta])*
        #[derive(Debug, Default)]
        pub(crate) struct $name {
            $($(#[$field_meta])* pub(crate) $field: $type,)*
        }

        impl $crate::images::proto::wire::Message for $name {
            fn decode(bytes: &[u8]) -> Result<Self, $crate::images::proto::wire::Malformed> {
                use $crate::images::proto::wire::{Field, Fields, Malformed};
                const REQUIRED: u64 = 0 $(| ((<$type as Field>::REQUIRED as u64) << $number))*;
                let mut message = Self::default();
                let mut seen = 0u64;
                for field in Fields(bytes) {
                    let (number, value) = field?;
                    let again = number < 64 && seen & (1 << number) != 0;
                    match number {
                        // CRIU's reader merges such messages, so the two readers would
                        // disagree.
                        $($number if again && !<$type as Field>::REPEATED => return Err(Malformed),)*
                        $($number => Field::merge(&mut message.$field, value)?,)*
                        _ => continue,
                    }
                    seen |= 1 << number;
                }
                if seen | REQUIRED == seen {
                    Ok(message)
                } else {
                    Err(Malformed)
                }
            }
        }
    )*};
}
pub(crate) use messages;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    messages! {
        Inner {
            1 number: u32,
        }
        Outer {
            1 number: u64,
            2 name: String,
            3 flag: Option<bool>,
            4 inner: Option<Inner>,
            5 many: Vec<Inner>,
            6 numbers: Vec<u32>,
            7 signed: Option<i32>,
        }
    }

    #[test]
    fn every_kind_of_field() {
        let bytes = [
            &[0x08, 0xac, 0x02][..],               // 1: 300
            &[0x12, 3, b'a', 0xff, b'b'],          // 2: a name that is not UTF-8
            &[0x18, 1],                            // 3: true
            &[0x22, 2, 0x08, 7],                   // 4: a message
            &[0x2a, 2, 0x08, 1, 0x2a, 2, 0x08, 2], // 5: two of them
            &[0x30, 1, 0x32, 2, 2, 3],             // 6: one alone and two packed
            &[0x38, 0xff, 0xff, 0xff, 0xff, 0x0f], // 7: -1
            &[0x41, 0, 0, 0, 0, 0, 0, 0, 0],       // 8: unknown, eight bytes
            &[0x4d, 0, 0, 0, 0],                   // 9: unknown, four bytes
        ]
        .concat();
        let outer = Outer::decode(&bytes).expect("decode");
        assert_eq!(outer.number, 300);
        assert_eq!(outer.name, "a\u{fffd}b");
        assert_eq!(outer.flag, Some(true));
        assert_eq!(outer.inner.map(|inner| inner.number), Some(7));
        assert_eq!(outer.many.iter().map(|m| m.number).sum::<u32>(), 3);
        assert_eq!(outer.numbers, [1, 2, 3]);
        assert_eq!(outer.signed, Some(-1));
    }

    #[test]
    fn malformed_messages() {
        for (bytes, why) in [
            (&[0x08, 1][..], "a required field is missing"),
            (&[0x08, 1, 0x12, 9, b'a'], "a length beyond the end"),
            (&[0x08, 1, 0x12], "no length"),
            (&[0x08], "no value"),
            (&[0x08, 1, 0x12, 0, 0x08, 1], "a field that is there twice"),
            (&[0x08, 1, 0x10, 1], "a number in place of a string"),
            (&[0x0a, 1, 1], "bytes in place of a number"),
            (&[0x0b], "a group, which proto2 dropped"),
            (
                &[0x08, 1, 0x12, 0, 0x2a, 0],
                "an empty message that needs a field",
            ),
            (
                &[
                    0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1,
                ],
                "a number of more than 64 bits",
            ),
        ] {
            assert!(Outer::decode(bytes).is_err(), "{why}");
        }
        assert!(Outer::decode(&[0x08, 1, 0x12, 0]).is_ok());
    }

    proptest! {
        #[test]
        fn a_written_field_is_read(number in 1..1000u64, value: u64, bytes: Vec<u8>) {
            let mut out = Vec::new();
            put_varint(&mut out, number << 3);
            put_varint(&mut out, value);
            put_bytes(&mut out, number, &bytes);
            let fields: Vec<_> = Fields(&out).map(Result::unwrap).collect();
            prop_assert!(matches!(fields[0], (n, Value::Number(v)) if (n, v) == (number, value)));
            prop_assert!(matches!(fields[1], (n, Value::Bytes(b)) if n == number && b == bytes));
        }

        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Outer::decode(&bytes);
            let _ = Fields(&bytes).count();
        }
    }
}
