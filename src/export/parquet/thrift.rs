//! Thrift's compact protocol, as far as Parquet's headers and footer need it; writing only.
//!
//! A struct is its fields in ascending order and a zero. The caller names each field by its number in `parquet.thrift`.

const TRUE: u8 = 1;
const I32: u8 = 5;
const I64: u8 = 6;
const BINARY: u8 = 8;
const LIST: u8 = 9;
const STRUCT: u8 = 12;

/// One struct that is being written.
#[derive(Debug)]
pub struct Struct<'a> {
    to: &'a mut Vec<u8>,
    last: i16,
}

/// Writes a struct.
pub fn write(to: &mut Vec<u8>, fields: impl FnOnce(&mut Struct<'_>)) {
    let mut one = Struct { to, last: 0 };
    fields(&mut one);
    to.push(0);
}

impl Struct<'_> {
    fn head(&mut self, id: i16, kind: u8) {
        debug_assert!(id > self.last && id - self.last < 16, "fields ascend, without large gaps");
        let delta = u8::try_from(id - self.last).unwrap_or_default();
        self.to.push(delta << 4 | kind);
        self.last = id;
    }

    /// `true`; a `false` would be another type, and is not needed.
    pub fn yes(&mut self, id: i16) {
        self.head(id, TRUE);
    }

    /// An `i32`, also an enumeration's value.
    pub fn int(&mut self, id: i16, value: i32) {
        self.head(id, I32);
        varint(self.to, zigzag(i64::from(value)));
    }

    /// An `i64`.
    pub fn long(&mut self, id: i16, value: i64) {
        self.head(id, I64);
        varint(self.to, zigzag(value));
    }

    /// A text or bytes.
    pub fn bytes(&mut self, id: i16, value: &[u8]) {
        self.head(id, BINARY);
        binary(self.to, value);
    }

    /// A struct within.
    pub fn inner(&mut self, id: i16, fields: impl FnOnce(&mut Struct<'_>)) {
        self.head(id, STRUCT);
        write(self.to, fields);
    }

    /// A list of structs.
    pub fn structs<T>(&mut self, id: i16, of: &[T], each: impl Fn(&mut Struct<'_>, &T)) {
        self.list(id, STRUCT, of.len());
        for one in of {
            write(self.to, |fields| each(fields, one));
        }
    }

    /// A list of `i32`.
    pub fn ints(&mut self, id: i16, of: &[i32]) {
        self.list(id, I32, of.len());
        for one in of {
            varint(self.to, zigzag(i64::from(*one)));
        }
    }

    /// A list of texts.
    pub fn texts(&mut self, id: i16, of: &[&str]) {
        self.list(id, BINARY, of.len());
        for one in of {
            binary(self.to, one.as_bytes());
        }
    }

    fn list(&mut self, id: i16, kind: u8, length: usize) {
        self.head(id, LIST);
        match u8::try_from(length) {
            Ok(short @ 0..15) => self.to.push(short << 4 | kind),
            _ => {
                self.to.push(0xf0 | kind);
                varint(self.to, length as u64);
            }
        }
    }
}

fn binary(to: &mut Vec<u8>, value: &[u8]) {
    varint(to, value.len() as u64);
    to.extend_from_slice(value);
}

fn zigzag(value: i64) -> u64 {
    (value.cast_unsigned() << 1) ^ (value >> 63).cast_unsigned()
}

/// Seven bits a byte, the lowest first.
pub fn varint(to: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        to.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    to.push(value as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structs_are_written_as_the_specification_says() {
        let mut to = Vec::new();
        write(&mut to, |of| {
            of.int(1, -1);
            of.long(3, 150);
            of.bytes(4, b"ab");
            of.ints(5, &[1, 2]);
            of.inner(7, |inner| inner.yes(1));
        });
        assert_eq!(to, [0x15, 1, 0x26, 0xac, 2, 0x18, 2, b'a', b'b', 0x19, 0x25, 2, 4, 0x2c, 0x11, 0, 0]);
        let mut long = Vec::new();
        write(&mut long, |of| of.texts(1, &["x"; 15]));
        assert_eq!(long[..4], [0x19, 0xf8, 15, 1]);
    }
}
