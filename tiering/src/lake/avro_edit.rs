//! Manifests and lists with other texts and numbers in some of their fields, and all else bit for bit as it was: what other
//! engines put there, whatever this version knows of it.
//!
//! An Avro file is `Obj\x01`, a map of metadata, among it the schema as JSON and the codec, 16 bytes of sync marker; then
//! blocks, each the count of its records, the bytes that they take, these, and the marker. The records are walked by their
//! schema: a value of a field with an Iceberg field id is offered to be replaced, and what is not replaced is copied.
//!
//! Always: what does not decode is `corrupt`, and no length asks for memory before its bytes are there.

use std::collections::HashMap;
use std::str::FromStr;

use apache_avro::Codec;
use serde_json::Value;
use thermocline_schemas::{Error, Result};

const MAGIC: &[u8] = b"Obj\x01";
const SYNC_BYTES: usize = 16;
/// Schemas of manifests nest records in lists in unions in records; partition values are flat.
const DEPTH_MAX: usize = 32;

/// A value in a field that has an id.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Leaf<'a> {
    Long(i64),
    Text(&'a str),
    Bytes(&'a [u8]),
}

/// What takes a value's place.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Replacement {
    Long(i64),
    Bytes(Vec<u8>),
}

/// Looks at the values of one record after the other.
pub(super) trait Editor {
    /// A record begins. Its values come by [`Self::look`] first, all of them, then by [`Self::edit`].
    fn begin(&mut self);

    fn look(&mut self, field: i64, value: Leaf<'_>) -> Result<()>;

    fn edit(&mut self, field: i64, value: Leaf<'_>) -> Result<Option<Replacement>>;
}

/// The file with what `editor` says.
pub(super) fn edited(file: &[u8], editor: &mut dyn Editor) -> Result<Vec<u8>> {
    let mut input = Input(file);
    if input.take(MAGIC.len())? != MAGIC {
        return Err(broken("no Avro file"));
    }
    let (mut schema, mut codec) = (None, Codec::Null);
    loop {
        let count = input.count()?;
        if count == 0 {
            break;
        }
        for _ in 0..count {
            let (name, value) = (input.bytes()?, input.bytes()?);
            match name {
                b"avro.schema" => schema = Some(Schema::parse(value)?),
                b"avro.codec" => {
                    let name = std::str::from_utf8(value).ok().and_then(|name| Codec::from_str(name).ok());
                    codec = name.ok_or_else(|| broken("a codec that this version does not have"))?;
                }
                _ => {}
            }
        }
    }
    let schema = schema.ok_or_else(|| broken("no schema"))?;
    let sync = input.take(SYNC_BYTES)?;
    let mut output = file[..file.len() - input.0.len()].to_vec();
    while !input.0.is_empty() {
        let count = input.long()?;
        let mut block = input.bytes()?.to_vec();
        if input.take(SYNC_BYTES)? != sync {
            return Err(broken("a block without its end"));
        }
        codec.decompress(&mut block).map_err(|error| broken("a block that does not unpack").with_source(error))?;
        let mut records = Input(&block);
        if usize::try_from(count).is_ok_and(|count| count > block.len()) {
            return Err(broken("more records than bytes"));
        }
        let mut changed = Vec::with_capacity(block.len());
        for _ in 0..count {
            editor.begin();
            let mut again = Input(records.0);
            Walk { schema: &schema, editor, edits: None }.value(&schema.root, None, &mut again, 0)?;
            Walk { schema: &schema, editor, edits: Some(&mut changed) }.value(&schema.root, None, &mut records, 0)?;
        }
        if !records.0.is_empty() {
            return Err(broken("more in a block than its records"));
        }
        codec.compress(&mut changed).map_err(|error| broken("a block that does not pack").with_source(error))?;
        put_long(&mut output, count);
        put_bytes(&mut output, &changed);
        output.extend(sync);
    }
    Ok(output)
}

fn broken(what: &str) -> Error {
    Error::corrupt(format!("an Avro file cannot be read: {what}"))
}

struct Schema {
    root: Value,
    /// Types that are named again by their name.
    named: HashMap<String, Value>,
}

impl Schema {
    fn parse(text: &[u8]) -> Result<Schema> {
        let root: Value = serde_json::from_slice(text).map_err(|error| broken("its schema").with_source(error))?;
        let mut named = HashMap::new();
        name_types(&root, &mut named);
        Ok(Schema { root, named })
    }
}

fn name_types(schema: &Value, named: &mut HashMap<String, Value>) {
    match schema {
        Value::Array(branches) => branches.iter().for_each(|branch| name_types(branch, named)),
        Value::Object(object) => {
            if let Some(name) = object.get("name").and_then(Value::as_str).filter(|_| object.contains_key("type")) {
                named.insert(name.to_owned(), schema.clone());
            }
            let fields = object.get("fields").and_then(Value::as_array).into_iter().flatten();
            fields.filter_map(|field| field.get("type")).for_each(|field| name_types(field, named));
            for inside in ["type", "items", "values"] {
                object.get(inside).into_iter().for_each(|inside| name_types(inside, named));
            }
        }
        _ => {}
    }
}

struct Walk<'w> {
    schema: &'w Schema,
    editor: &'w mut dyn Editor,
    /// Where the record goes, in the second walk.
    edits: Option<&'w mut Vec<u8>>,
}

impl Walk<'_> {
    fn value(&mut self, schema: &Value, field: Option<i64>, input: &mut Input<'_>, depth: usize) -> Result<()> {
        if depth > DEPTH_MAX {
            return Err(broken("a schema that nests too deep"));
        }
        let kind = match schema {
            Value::String(kind) => kind.as_str(),
            Value::Array(branches) => {
                let branch = input.long()?;
                self.put(|output| put_long(output, branch));
                let chosen = usize::try_from(branch).ok().and_then(|branch| branches.get(branch));
                let chosen = chosen.ok_or_else(|| broken("a union without that branch"))?;
                return self.value(chosen, field, input, depth + 1);
            }
            Value::Object(_) => match &schema["type"] {
                Value::String(kind) => kind.as_str(),
                inside => return self.value(inside, field, input, depth + 1),
            },
            _ => return Err(broken("its schema")),
        };
        match kind {
            "null" => {}
            "boolean" => self.copy(input, 1)?,
            "float" => self.copy(input, 4)?,
            "double" => self.copy(input, 8)?,
            "int" | "long" | "enum" => {
                let number = input.long()?;
                self.leaf(field, Leaf::Long(number))?;
            }
            "string" => {
                let text = std::str::from_utf8(input.bytes()?).map_err(|_| broken("a text that is none"))?;
                self.leaf(field, Leaf::Text(text))?;
            }
            "bytes" => {
                let bytes = input.bytes()?;
                self.leaf(field, Leaf::Bytes(bytes))?;
            }
            "fixed" => {
                let size = schema["size"].as_u64().and_then(|size| usize::try_from(size).ok());
                self.copy(input, size.ok_or_else(|| broken("its schema"))?)?;
            }
            "record" => {
                let fields = schema["fields"].as_array().ok_or_else(|| broken("its schema"))?;
                for inside in fields {
                    self.value(&inside["type"], inside["field-id"].as_i64(), input, depth + 1)?;
                }
            }
            "array" | "map" => {
                let inside = if kind == "array" { &schema["items"] } else { &schema["values"] };
                loop {
                    let count = input.count()?;
                    self.put(|output| put_long(output, count));
                    if count == 0 {
                        break;
                    }
                    if usize::try_from(count).is_ok_and(|count| count > input.0.len()) {
                        return Err(broken("more items than bytes"));
                    }
                    for _ in 0..count {
                        if kind == "map" {
                            let name = input.bytes()?;
                            self.put(|output| put_bytes(output, name));
                        }
                        self.value(inside, None, input, depth + 1)?;
                    }
                }
            }
            name => {
                let schema = self.schema;
                let named = schema.named.get(name).ok_or_else(|| broken("a type that its schema does not have"))?;
                self.value(named, field, input, depth + 1)?;
            }
        }
        Ok(())
    }

    fn leaf(&mut self, field: Option<i64>, value: Leaf<'_>) -> Result<()> {
        let Some(output) = &mut self.edits else {
            return field.map_or(Ok(()), |field| self.editor.look(field, value));
        };
        let edit = match field {
            Some(field) => self.editor.edit(field, value)?,
            None => None,
        };
        match (value, edit) {
            (Leaf::Long(_), Some(Replacement::Long(number))) | (Leaf::Long(number), None) => put_long(output, number),
            (Leaf::Text(_) | Leaf::Bytes(_), Some(Replacement::Bytes(bytes))) => put_bytes(output, &bytes),
            (Leaf::Text(text), None) => put_bytes(output, text.as_bytes()),
            (Leaf::Bytes(bytes), None) => put_bytes(output, bytes),
            _ => return Err(broken("a field of another type than its id says")),
        }
        Ok(())
    }

    fn copy(&mut self, input: &mut Input<'_>, length: usize) -> Result<()> {
        let bytes = input.take(length)?;
        self.put(|output| output.extend(bytes));
        Ok(())
    }

    fn put(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        if let Some(output) = &mut self.edits {
            write(output);
        }
    }
}

/// What is not read yet.
struct Input<'i>(&'i [u8]);

impl<'i> Input<'i> {
    fn take(&mut self, length: usize) -> Result<&'i [u8]> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or_else(|| broken("it ends too early"))?;
        self.0 = rest;
        Ok(taken)
    }

    fn long(&mut self) -> Result<i64> {
        let mut number = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?[0];
            number |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok((number >> 1) as i64 ^ -((number & 1) as i64));
            }
        }
        Err(broken("a number that does not end"))
    }

    fn bytes(&mut self) -> Result<&'i [u8]> {
        let length = usize::try_from(self.long()?).map_err(|_| broken("a negative length"))?;
        self.take(length)
    }

    /// Of the next items of an array or map. A negative one is followed by how many bytes they take.
    fn count(&mut self) -> Result<i64> {
        let count = self.long()?;
        if count < 0 {
            self.long()?;
        }
        count.checked_abs().ok_or_else(|| broken("a count"))
    }
}

fn put_long(output: &mut Vec<u8>, number: i64) {
    let mut rest = (number << 1 ^ number >> 63) as u64;
    while rest >= 0x80 {
        output.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    output.push(rest as u8);
}

fn put_bytes(output: &mut Vec<u8>, bytes: &[u8]) {
    put_long(output, bytes.len() as i64);
    output.extend(bytes);
}

#[cfg(test)]
mod tests {
    use apache_avro::types::Value as Avro;
    use apache_avro::{Reader, Schema as AvroSchema, Writer};

    use super::super::data_files::parse;
    use super::*;

    const SCHEMA: &str = r#"{"type":"record","name":"entry","fields":[
        {"name":"status","type":"int","field-id":0},
        {"name":"file","field-id":2,"type":{"type":"record","name":"r2","fields":[
            {"name":"path","type":"string","field-id":100},
            {"name":"bytes","type":"long","field-id":104},
            {"name":"ratio","type":"double","field-id":7},
            {"name":"of","type":["null","string"],"default":null,"field-id":143},
            {"name":"id","type":{"type":"fixed","name":"f4","size":4},"field-id":8},
            {"name":"again","type":["null","f4"],"field-id":9},
            {"name":"tags","type":{"type":"map","values":"long"},"field-id":10},
            {"name":"bounds","type":["null",{"type":"array","items":{"type":"record","name":"kv","fields":[
                {"name":"key","type":"int","field-id":126},{"name":"value","type":"bytes","field-id":127}]}}],"field-id":125}
        ]}}]}"#;

    struct Longer {
        seen: Option<String>,
    }

    impl Editor for Longer {
        fn begin(&mut self) {
            self.seen = None;
        }

        fn look(&mut self, field: i64, value: Leaf<'_>) -> Result<()> {
            if let (143, Leaf::Text(text)) = (field, value) {
                self.seen = Some(text.to_owned());
            }
            Ok(())
        }

        fn edit(&mut self, field: i64, value: Leaf<'_>) -> Result<Option<Replacement>> {
            Ok(match (field, value) {
                // A later field of the record is known by now.
                (100, Leaf::Text(text)) => {
                    let of = self.seen.as_deref().unwrap_or("none");
                    Some(Replacement::Bytes(format!("{text}, of {of}").into_bytes()))
                }
                (104, Leaf::Long(number)) => Some(Replacement::Long(number * 1000 - 5)),
                (127, Leaf::Bytes(bytes)) if !bytes.is_empty() => Some(Replacement::Bytes(vec![9; 300])),
                _ => None,
            })
        }
    }

    struct Nothing;

    impl Editor for Nothing {
        fn begin(&mut self) {}

        fn look(&mut self, _field: i64, _value: Leaf<'_>) -> Result<()> {
            Ok(())
        }

        fn edit(&mut self, _field: i64, _value: Leaf<'_>) -> Result<Option<Replacement>> {
            Ok(None)
        }
    }

    fn record(path: &str, bytes: i64, of: Option<&str>, bound: &[u8]) -> Avro {
        let optional = |value: Option<Avro>| match value {
            Some(value) => Avro::Union(1, Box::new(value)),
            None => Avro::Union(0, Box::new(Avro::Null)),
        };
        let field = |name: &str, value| (name.to_owned(), value);
        let bound = Avro::Record(vec![field("key", Avro::Int(1)), field("value", Avro::Bytes(bound.to_vec()))]);
        Avro::Record(vec![
            field("status", Avro::Int(-1)),
            field(
                "file",
                Avro::Record(vec![
                    field("path", Avro::String(path.to_owned())),
                    field("bytes", Avro::Long(bytes)),
                    field("ratio", Avro::Double(0.1)),
                    field("of", optional(of.map(|of| Avro::String(of.to_owned())))),
                    field("id", Avro::Fixed(4, vec![1, 2, 3, 4])),
                    field("again", optional(Some(Avro::Fixed(4, vec![4, 3, 2, 1])))),
                    field("tags", Avro::Map([("a".to_owned(), Avro::Long(i64::MIN))].into())),
                    field("bounds", optional(Some(Avro::Array(vec![bound])))),
                ]),
            ),
        ])
    }

    fn file(codec: Codec, records: &[Avro]) -> Vec<u8> {
        // Before the decoder takes its own bound for the whole process.
        parse("", || Ok(())).unwrap();
        let schema = AvroSchema::parse_str(SCHEMA).unwrap();
        let mut writer = Writer::with_codec(&schema, Vec::new(), codec);
        writer.add_user_metadata("format-version".to_owned(), "2").unwrap();
        for record in records {
            writer.append(record.clone()).unwrap();
        }
        writer.into_inner().unwrap()
    }

    #[test]
    fn fields_are_replaced_and_all_else_stays() {
        let records = [record("a", i64::MAX / 2000, Some("x"), b"low"), record("b", 0, None, b"")];
        for codec in [Codec::Null, Codec::Deflate(Default::default())] {
            let written = file(codec, &records);
            assert_eq!(edited(&written, &mut Nothing).unwrap().len(), written.len(), "nothing is edited");
            let changed = edited(&written, &mut Longer { seen: None }).unwrap();
            let expected = [
                record("a, of x", i64::MAX / 2000 * 1000 - 5, Some("x"), &[9; 300]),
                record("b, of none", -5, None, b""),
            ];
            let reader = Reader::new(&changed[..]).unwrap();
            assert_eq!(reader.user_metadata()["format-version"], b"2");
            assert_eq!(reader.map(Result::unwrap).collect::<Vec<_>>(), expected);
        }
        let empty = file(Codec::Null, &[]);
        assert_eq!(edited(&empty, &mut Longer { seen: None }).unwrap(), empty);
    }

    #[test]
    fn what_is_cut_or_flipped_is_an_error_or_read() {
        let written = file(Codec::Null, &[record("a", 7, Some("x"), b"low")]);
        for cut in 0..written.len() {
            let _ = edited(&written[..cut], &mut Nothing).is_err();
        }
        for bit in 0..written.len() * 8 {
            let mut flipped = written.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            // No panic, and no memory for a length that is not there.
            let _ = edited(&flipped, &mut Longer { seen: None });
        }
        let mut endless = written[..written.len() - 1].to_vec();
        endless.extend([0xff; 32]);
        assert!(edited(&endless, &mut Nothing).is_err());
    }
}
