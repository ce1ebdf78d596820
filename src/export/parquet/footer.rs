//! A file's footer: its schema, and where each column of each row group stands. Numbers are those of `parquet.thrift`.

use super::Group;
use super::column::{Chunk, Kind, PLAIN, RLE};
use super::thrift::{self, Struct};

const INT32: i32 = 1;
const INT64: i32 = 2;
const BYTE_ARRAY: i32 = 6;

const REQUIRED: i32 = 0;
const REPEATED: i32 = 2;

/// What older readers go by, beside the logical type.
const UTF8: i32 = 0;
const LIST: i32 = 3;
const TIMESTAMP_MILLIS: i32 = 9;

const ZSTD: i32 = 6;

/// The footer's bytes.
pub fn footer(schema: &[(&str, Kind)], groups: &[Group]) -> Vec<u8> {
    let mut to = Vec::new();
    let leaves: Vec<Leaf<'_>> = schema.iter().map(|(name, kind)| Leaf { name, kind: *kind }).collect();
    thrift::write(&mut to, |file| {
        file.int(1, 1);
        file.structs(2, &elements(schema), |of, element| element.write(of));
        file.long(3, groups.iter().map(|group| group.rows).sum());
        file.structs(4, groups, |of, group| write_group(of, group, &leaves));
        file.bytes(6, concat!("clickline version ", env!("CARGO_PKG_VERSION")).as_bytes());
        // Bounds are in the order of the columns' types.
        file.structs(7, &leaves, |of, _| of.inner(1, |_| {}));
    });
    to
}

struct Leaf<'a> {
    name: &'a str,
    kind: Kind,
}

/// A node of the schema: the whole, a column, or the two within a list.
enum Element<'a> {
    Root(i32),
    Text(&'a str),
    Time(&'a str),
    Int(&'a str),
    Long(&'a str),
    List(&'a str),
    Repeated,
}

fn elements<'a>(schema: &[(&'a str, Kind)]) -> Vec<Element<'a>> {
    let mut elements = vec![Element::Root(i32::try_from(schema.len()).unwrap_or(i32::MAX))];
    for (name, kind) in schema {
        match kind {
            Kind::Text => elements.push(Element::Text(name)),
            Kind::Time => elements.push(Element::Time(name)),
            Kind::Int => elements.push(Element::Int(name)),
            Kind::Long => elements.push(Element::Long(name)),
            Kind::Texts => elements.extend([Element::List(name), Element::Repeated, Element::Text("element")]),
        }
    }
    elements
}

impl Element<'_> {
    fn write(&self, of: &mut Struct<'_>) {
        let leaf = |of: &mut Struct<'_>, name: &str, kind: i32| {
            of.int(1, kind);
            of.int(3, REQUIRED);
            of.bytes(4, name.as_bytes());
        };
        match self {
            Element::Root(columns) => {
                of.bytes(4, b"schema");
                of.int(5, *columns);
            }
            Element::Text(name) => {
                leaf(of, name, BYTE_ARRAY);
                of.int(6, UTF8);
                of.inner(10, |logical| logical.inner(1, |_| {}));
            }
            Element::Time(name) => {
                leaf(of, name, INT64);
                of.int(6, TIMESTAMP_MILLIS);
                of.inner(10, |logical| {
                    logical.inner(8, |time| {
                        time.yes(1); // UTC
                        time.inner(2, |unit| unit.inner(1, |_| {}));
                    });
                });
            }
            Element::Int(name) => leaf(of, name, INT32),
            Element::Long(name) => leaf(of, name, INT64),
            Element::List(name) => {
                of.int(3, REQUIRED);
                of.bytes(4, name.as_bytes());
                of.int(5, 1);
                of.int(6, LIST);
                of.inner(10, |logical| logical.inner(3, |_| {}));
            }
            Element::Repeated => {
                of.int(3, REPEATED);
                of.bytes(4, b"list");
                of.int(5, 1);
            }
        }
    }
}

fn write_group(of: &mut Struct<'_>, group: &Group, leaves: &[Leaf<'_>]) {
    let columns: Vec<_> = leaves.iter().zip(&group.chunks).collect();
    of.structs(1, &columns, |of, (leaf, (at, length, chunk))| {
        of.long(2, *at);
        of.inner(3, |of| write_column(of, leaf, *at, *length, chunk));
    });
    of.long(2, group.chunks.iter().map(|(_, _, chunk)| chunk.uncompressed).sum());
    of.long(3, group.rows);
    of.long(5, group.chunks.first().map_or(0, |(at, _, _)| *at));
    of.long(6, group.chunks.iter().map(|(_, length, _)| length).sum());
}

fn write_column(of: &mut Struct<'_>, leaf: &Leaf<'_>, at: i64, length: i64, chunk: &Chunk) {
    let kind = match leaf.kind {
        Kind::Text | Kind::Texts => BYTE_ARRAY,
        Kind::Int => INT32,
        Kind::Time | Kind::Long => INT64,
    };
    of.int(1, kind);
    of.ints(2, &[PLAIN, RLE]);
    match leaf.kind {
        Kind::Texts => of.texts(3, &[leaf.name, "list", "element"]),
        _ => of.texts(3, &[leaf.name]),
    }
    of.int(4, ZSTD);
    of.long(5, chunk.values);
    of.long(6, chunk.uncompressed);
    of.long(7, length);
    of.long(9, at);
    if let Some((least, most)) = chunk.bounds {
        let bytes = |value: i64| if kind == INT32 { value.to_le_bytes()[..4].to_vec() } else { value.to_le_bytes().to_vec() };
        of.inner(12, |bounds| {
            bounds.long(3, 0);
            bounds.bytes(5, &bytes(most));
            bounds.bytes(6, &bytes(least));
        });
    }
}
