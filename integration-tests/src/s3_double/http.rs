//! As much HTTP/1.1 as an S3 client speaks: requests with `Content-Length`, answers likewise, connections kept open.

use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

/// A head longer than this is nobody's.
const HEAD_BYTES_MAX: usize = 64 << 10;

/// A request as it arrived.
#[derive(Clone, Debug)]
pub struct Request {
    pub method: String,
    /// Without the query, decoded.
    pub path: String,
    /// Decoded, in order.
    pub query: Vec<(String, String)>,
    headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// In a word, for tables of what was tried.
    pub fn kind(&self) -> &'static str {
        let has = |name| self.parameter(name).is_some();
        match self.method.as_str() {
            "PUT" if has("partNumber") => "part",
            "PUT" if self.header("if-none-match").is_some() => "create",
            "PUT" => "put",
            "POST" if has("uploads") => "begin upload",
            "POST" if has("uploadId") => "complete upload",
            "DELETE" if has("uploadId") => "abort upload",
            "POST" | "DELETE" => "delete",
            "HEAD" => "head",
            _ if has("list-type") => "list",
            _ if self.header("range").is_some() => "get range",
            _ => "get",
        }
    }
}

/// The next request of a connection; none when it ends or talks nonsense.
pub(super) async fn read_request(connection: &mut TcpStream, left_over: &mut Vec<u8>) -> Option<Request> {
    let end = loop {
        if let Some(end) = left_over.windows(4).position(|window| window == b"\r\n\r\n") {
            break end;
        }
        if left_over.len() > HEAD_BYTES_MAX || connection.read_buf(left_over).await.ok()? == 0 {
            return None;
        }
    };
    let head = String::from_utf8(left_over[..end].to_vec()).ok()?;
    let mut lines = head.split("\r\n");
    let mut first = lines.next()?.split(' ');
    let (method, target) = (first.next()?.to_owned(), first.next()?.to_owned());
    let headers = lines.map(|line| {
        let (name, value) = line.split_once(':')?;
        Some((name.to_owned(), value.trim().to_owned()))
    });
    let headers: Vec<_> = headers.collect::<Option<_>>()?;
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    let query = pairs.map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    let query = query.map(|(name, value)| (decoded(name), decoded(value))).collect();
    let mut request = Request { method, path: decoded(path), query, headers, body: Vec::new() };
    let length: usize = request.header("content-length").map_or(Some(0), |length| length.parse().ok())?;
    let body = end + 4;
    while left_over.len() < body + length {
        if connection.read_buf(left_over).await.ok()? == 0 {
            return None;
        }
    }
    request.body = left_over[body..body + length].to_vec();
    left_over.drain(..body + length);
    Some(request)
}

/// Percent signs and pluses as they were meant.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let hex = after.get(..2).and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
        match (first, hex) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            (b'+', _) => {
                bytes.push(b' ');
                rest = after;
            }
            _ => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

pub(super) struct Response {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
}

impl Response {
    pub(super) fn new(status: u16) -> Response {
        Response { status, headers: Vec::new(), body: Vec::new() }
    }

    pub(super) fn with(mut self, name: &'static str, value: impl Into<String>) -> Response {
        self.headers.push((name, value.into()));
        self
    }

    pub(super) fn body(mut self, body: impl Into<Vec<u8>>) -> Response {
        self.body = body.into();
        self
    }

    /// An error in S3's form.
    pub(super) fn error(status: u16, code: &str) -> Response {
        Response::new(status).body(format!("<Error><Code>{code}</Code><Message>of the double</Message></Error>"))
    }

    /// Head and body; to HEAD only the body's length is told.
    pub(super) fn bytes(self, to_head: bool) -> (Vec<u8>, Vec<u8>) {
        let mut head = format!("HTTP/1.1 {} X\r\nContent-Length: {}\r\n", self.status, self.body.len());
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        (head.into_bytes(), if to_head { Vec::new() } else { self.body })
    }
}
