//! Text, cut between rows.
//!
//! A CSV row ends at a line feed outside quotes; a JSON line at any. Nothing else is looked at: what a part means is
//! the server's to say. A part is at least one row, however long that is.

use bytes::{Bytes, BytesMut};
use serde_json::value::RawValue;

use super::{Failure, Outcome};

/// Some rows of a text.
#[derive(Debug)]
pub struct Part {
    pub body: Bytes,
    pub rows: u64,
    /// Where in the text it ends.
    pub end: usize,
}

/// The header, if there is one, goes in front of each part.
pub fn cut_csv(text: Bytes, has_header: bool, part_bytes: usize) -> impl Iterator<Item = Part> + Send {
    let start = if text.starts_with(b"\xef\xbb\xbf") { 3 } else { 0 };
    let header_end = if has_header { csv_row_end(&text, start) } else { start };
    let header = text.slice(start..header_end);
    let mut at = header_end;
    std::iter::from_fn(move || {
        let from = at;
        let mut rows = 0;
        while at < text.len() && (rows == 0 || at - from < part_bytes) {
            let end = csv_row_end(&text, at);
            rows += u64::from(!is_blank(&text[at..end]));
            at = end;
        }
        if at == from {
            return None;
        }
        let mut body = BytesMut::with_capacity(header.len() + 1 + at - from);
        body.extend_from_slice(&header);
        body.extend_from_slice(&text[from..at]);
        Some(Part { body: body.freeze(), rows, end: at })
    })
}

/// Where the row that starts at `at` ends, its line feed included.
pub fn csv_row_end(text: &[u8], at: usize) -> usize {
    let mut quoted = false;
    for (place, byte) in text[at..].iter().enumerate() {
        match byte {
            b'"' => quoted = !quoted,
            b'\n' if !quoted => return at + place + 1,
            _ => {}
        }
    }
    text.len()
}

pub fn cut_lines(text: Bytes, part_bytes: usize) -> impl Iterator<Item = Part> + Send {
    let mut at = 0;
    std::iter::from_fn(move || {
        let from = at;
        let mut rows = 0;
        while at < text.len() && (rows == 0 || at - from < part_bytes) {
            let end = text[at..].iter().position(|byte| *byte == b'\n').map_or(text.len(), |place| at + place + 1);
            rows += u64::from(!is_blank(&text[at..end]));
            at = end;
        }
        (at > from).then(|| Part { body: text.slice(from..at), rows, end: at })
    })
}

fn is_blank(line: &[u8]) -> bool {
    line.iter().all(u8::is_ascii_whitespace)
}

/// The elements of an array, one a line, spelled as they were.
pub fn json_array_as_lines(text: &[u8]) -> Outcome<Vec<u8>> {
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
    let elements: Vec<&RawValue> = serde_json::from_slice(text).map_err(|error| {
        Failure::new(format!("the file is not an array of JSON objects: {error}"))
            .with_hint("for one object a line, say --input ndjson")
    })?;
    let mut lines = Vec::with_capacity(text.len());
    for element in elements {
        // Line ends can only stand between values: within strings JSON has them escaped.
        lines.extend(element.get().bytes().map(|byte| if matches!(byte, b'\n' | b'\r') { b' ' } else { byte }));
        lines.push(b'\n');
    }
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(parts: impl Iterator<Item = Part>) -> Vec<(String, u64)> {
        parts.map(|part| (String::from_utf8(part.body.to_vec()).unwrap(), part.rows)).collect()
    }

    #[test]
    fn csv_is_cut_between_rows_and_keeps_its_header() {
        let text = Bytes::from_static(b"a,b\n1,\"x\ny\"\n2,\"\"\"\n\"\n3,z");
        let parts = shown(cut_csv(text.clone(), true, 5));
        let expected = [("a,b\n1,\"x\ny\"\n", 1), ("a,b\n2,\"\"\"\n\"\n", 1), ("a,b\n3,z", 1)];
        assert_eq!(parts, expected.map(|(text, rows)| (text.to_owned(), rows)));
        assert_eq!(shown(cut_csv(text, false, 1000)).len(), 1);
        assert!(shown(cut_csv(Bytes::from_static(b"a,b\n"), true, 10)).is_empty());
    }

    #[test]
    fn lines_are_cut_between_lines() {
        let parts = shown(cut_lines(Bytes::from_static(b"{}\n\n{}\n{}"), 4));
        assert_eq!(parts, [("{}\n\n".to_owned(), 1), ("{}\n{}".to_owned(), 2)]);
    }

    #[test]
    fn arrays_become_lines() {
        let lines = json_array_as_lines(b"[\n {\"a\":\n 1.50},\r\n {\"a\": \"x\\ny\"}]").unwrap();
        assert_eq!(String::from_utf8(lines).unwrap(), "{\"a\":  1.50}\n{\"a\": \"x\\ny\"}\n");
        assert!(json_array_as_lines(b"{}").is_err());
    }
}
