//! Buckets of objects in memory, and what S3 answers about them. A bucket is there once it is named.

use std::collections::{BTreeMap, BTreeSet};
use std::time::SystemTime;

use chrono::{DateTime, SecondsFormat, Utc};

use super::PAGE_KEYS;
use super::http::{Request, Response};

#[derive(Default)]
pub(super) struct Objects {
    objects: BTreeMap<(String, String), Object>,
    uploads: BTreeMap<String, Upload>,
    /// Counts writes: newer is higher.
    writes: u64,
}

struct Object {
    body: Vec<u8>,
    etag: String,
    modified: SystemTime,
    write: u64,
}

struct Upload {
    at: (String, String),
    /// By number: the tag that was answered, and the bytes.
    parts: BTreeMap<u32, (String, Vec<u8>)>,
}

impl Objects {
    pub(super) fn keys(&self, bucket: &str) -> Vec<String> {
        self.objects.keys().filter(|(known, _)| known == bucket).map(|(_, key)| key.clone()).collect()
    }

    pub(super) fn open_uploads(&self) -> usize {
        self.uploads.len()
    }

    pub(super) fn answer(&mut self, request: &Request, lists_stale: bool) -> Response {
        if request.header("authorization").is_none() {
            return Response::error(403, "AccessDenied");
        }
        let path = request.path.trim_start_matches('/');
        let (bucket, key) = path.split_once('/').unwrap_or((path, ""));
        let at = (bucket.to_owned(), key.to_owned());
        let parameter = |name| request.parameter(name);
        match (request.method.as_str(), key.is_empty()) {
            ("GET", true) if parameter("list-type") == Some("2") => self.list(bucket, request, lists_stale),
            ("POST", true) if parameter("delete").is_some() => self.delete_many(bucket, request),
            (_, true) => Response::error(501, "NotImplemented"),
            ("POST", false) if parameter("uploads").is_some() => self.begin_upload(at),
            ("PUT", false) if parameter("partNumber").is_some() => self.part(request),
            ("POST", false) if parameter("uploadId").is_some() => self.complete_upload(at, request),
            ("DELETE", false) if parameter("uploadId").is_some() => {
                match self.uploads.remove(parameter("uploadId").unwrap_or_default()) {
                    Some(_) => Response::new(204),
                    None => Response::error(404, "NoSuchUpload"),
                }
            }
            ("PUT", false) if request.header("x-amz-copy-source").is_some() => Response::error(501, "NotImplemented"),
            ("PUT", false) => self.put(at, request.body.clone(), request),
            ("GET" | "HEAD", false) => self.get(&at, request),
            ("DELETE", false) => {
                self.objects.remove(&at);
                Response::new(204)
            }
            _ => Response::error(501, "NotImplemented"),
        }
    }

    fn put(&mut self, at: (String, String), body: Vec<u8>, request: &Request) -> Response {
        let known = self.objects.get(&at);
        match (request.header("if-none-match"), request.header("if-match"), known) {
            (None, None, _) | (Some("*"), None, None) => {}
            (Some("*"), None, Some(_)) => return Response::error(412, "PreconditionFailed"),
            (None, Some(_), None) => return Response::error(404, "NoSuchKey"),
            (None, Some(tag), Some(known)) if tag == known.etag => {}
            (None, Some(_), Some(_)) => return Response::error(412, "PreconditionFailed"),
            _ => return Response::error(501, "NotImplemented"),
        }
        self.writes += 1;
        let etag = format!("\"{:08x}-{}\"", crc32c::crc32c(&body), body.len());
        let object = Object { body, etag: etag.clone(), modified: SystemTime::now(), write: self.writes };
        self.objects.insert(at, object);
        Response::new(200).with("ETag", etag)
    }

    fn get(&self, at: &(String, String), request: &Request) -> Response {
        let Some(object) = self.objects.get(at) else { return Response::error(404, "NoSuchKey") };
        if request.header("if-match").is_some_and(|tag| tag != object.etag) {
            return Response::error(412, "PreconditionFailed");
        }
        let modified = DateTime::<Utc>::from(object.modified).to_rfc2822();
        let found = |status| Response::new(status).with("ETag", &object.etag).with("Last-Modified", &modified);
        let size = object.body.len();
        let Some(range) = request.header("range") else { return found(200).body(object.body.clone()) };
        let parsed = range.strip_prefix("bytes=").and_then(|range| range.split_once('-'));
        let number = |text: &str| text.parse::<usize>().ok();
        let range = match parsed {
            Some(("", suffix)) => number(suffix).map(|suffix| size.saturating_sub(suffix)..size),
            Some((start, "")) => number(start).map(|start| start..size),
            Some((start, last)) => number(start).zip(number(last)).map(|(start, last)| start..size.min(last + 1)),
            None => None,
        };
        match range {
            Some(range) if range.start < range.end => {
                let shown = format!("bytes {}-{}/{size}", range.start, range.end - 1);
                found(206).with("Content-Range", shown).body(&object.body[range])
            }
            _ => Response::error(416, "InvalidRange"),
        }
    }

    fn list(&self, bucket: &str, request: &Request, stale: bool) -> Response {
        let prefix = request.parameter("prefix").unwrap_or_default();
        let delimiter = request.parameter("delimiter").unwrap_or_default();
        let after = request.parameter("continuation-token").or(request.parameter("start-after")).unwrap_or_default();
        let of_bucket = self.objects.iter().filter(|((known, _), _)| known == bucket);
        let mut found: Vec<_> = of_bucket.filter(|((_, key), _)| key.starts_with(prefix)).collect();
        if stale && let Some(newest) = found.iter().map(|(_, object)| object.write).max() {
            found.retain(|(_, object)| object.write != newest);
        }
        let (mut contents, mut prefixes, mut last) = (String::new(), BTreeSet::new(), None);
        let mut left = found.into_iter().filter(|((_, key), _)| key.as_str() > after).peekable();
        for ((_, key), object) in left.by_ref().take(PAGE_KEYS) {
            last = Some(key);
            let inside = key[prefix.len()..].split_once(delimiter).filter(|_| !delimiter.is_empty());
            if let Some((directory, _)) = inside {
                prefixes.insert(format!("{prefix}{directory}{delimiter}"));
                continue;
            }
            let modified = DateTime::<Utc>::from(object.modified).to_rfc3339_opts(SecondsFormat::Millis, true);
            contents.push_str(&format!(
                "<Contents><Key>{key}</Key><LastModified>{modified}</LastModified><ETag>{}</ETag><Size>{}</Size></Contents>",
                object.etag,
                object.body.len()
            ));
        }
        let more = match (left.peek(), last) {
            (Some(_), Some(last)) => format!("<NextContinuationToken>{last}</NextContinuationToken>"),
            _ => String::new(),
        };
        let prefixes: String = prefixes
            .iter()
            .map(|prefix| format!("<CommonPrefixes><Prefix>{prefix}</Prefix></CommonPrefixes>"))
            .collect();
        Response::new(200).body(format!("<ListBucketResult>{contents}{prefixes}{more}</ListBucketResult>"))
    }

    fn delete_many(&mut self, bucket: &str, request: &Request) -> Response {
        let body = String::from_utf8_lossy(&request.body);
        let mut deleted = String::new();
        for key in between(&body, "<Key>", "</Key>") {
            self.objects.remove(&(bucket.to_owned(), key.to_owned()));
            deleted.push_str(&format!("<Deleted><Key>{key}</Key></Deleted>"));
        }
        Response::new(200).body(format!("<DeleteResult>{deleted}</DeleteResult>"))
    }

    fn begin_upload(&mut self, at: (String, String)) -> Response {
        self.writes += 1;
        let id = format!("upload-{}", self.writes);
        self.uploads.insert(id.clone(), Upload { at, parts: BTreeMap::new() });
        let body = format!("<InitiateMultipartUploadResult><UploadId>{id}</UploadId></InitiateMultipartUploadResult>");
        Response::new(200).body(body)
    }

    fn part(&mut self, request: &Request) -> Response {
        let number = request.parameter("partNumber").and_then(|number| number.parse().ok());
        let upload = self.uploads.get_mut(request.parameter("uploadId").unwrap_or_default());
        let (Some(upload), Some(number)) = (upload, number) else { return Response::error(404, "NoSuchUpload") };
        let etag = format!("\"{:08x}\"", crc32c::crc32c(&request.body));
        upload.parts.insert(number, (etag.clone(), request.body.clone()));
        Response::new(200).with("ETag", etag)
    }

    /// The parts that are named, in their order; each must be there under its tag.
    fn complete_upload(&mut self, at: (String, String), request: &Request) -> Response {
        let id = request.parameter("uploadId").unwrap_or_default();
        let Some(upload) = self.uploads.get(id).filter(|upload| upload.at == at) else {
            return Response::error(404, "NoSuchUpload");
        };
        let named = String::from_utf8_lossy(&request.body).replace("&quot;", "\"");
        let numbers = between(&named, "<PartNumber>", "</PartNumber>");
        let mut body = Vec::new();
        for (number, tag) in numbers.into_iter().zip(between(&named, "<ETag>", "</ETag>")) {
            let part = number.parse().ok().and_then(|number: u32| upload.parts.get(&number));
            let Some((_, bytes)) = part.filter(|(known, _)| known == tag) else {
                return Response::error(400, "InvalidPart");
            };
            body.extend_from_slice(bytes);
        }
        let answer = self.put(at, body, request);
        self.uploads.remove(id);
        answer.body("<CompleteMultipartUploadResult><ETag>\"done\"</ETag></CompleteMultipartUploadResult>")
    }
}

/// What stands between each pair of marks.
fn between<'a>(text: &'a str, open: &str, close: &str) -> Vec<&'a str> {
    text.split(open).skip(1).filter_map(|rest| rest.split_once(close)).map(|(inside, _)| inside).collect()
}
