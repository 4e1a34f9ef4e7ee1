//! Buckets as S3 keeps them, as a function from a request to an answer.
//!
//! Whoever calls holds the lock, so every condition is checked and acted on in one step.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use md5::{Digest as _, Md5};

use super::fault::S3Op;
use super::http::{HttpRequest, HttpResponse};
use super::xml::{escape, texts};

/// Bytes of every part of an upload but its last, at least.
const PART_BYTES_MIN: usize = 5 << 20;

/// Parts of an upload, at most.
const PARTS_MAX: usize = 10_000;

/// Names in one request to delete many, at most.
const DELETE_MAX: usize = 1000;

/// Entries of one page of a list, at most.
const PAGE_MAX: usize = 1000;

/// Everything that is stored.
#[derive(Debug)]
pub(super) struct Buckets {
    pub(super) buckets: BTreeMap<String, BTreeMap<String, Object>>,
    pub(super) uploads: BTreeMap<String, Upload>,
    /// Entries of a page of a list.
    pub(super) page: usize,
    named: u64,
}

/// An object.
#[derive(Debug, Clone)]
pub(super) struct Object {
    pub(super) data: Bytes,
    etag: String,
    written: DateTime<Utc>,
}

/// An upload that was begun and not yet ended.
#[derive(Debug)]
pub(super) struct Upload {
    pub(super) bucket: String,
    pub(super) key: String,
    pub(super) parts: BTreeMap<usize, Bytes>,
}

/// What is refused: status and code.
type Refusal = (u16, &'static str);

const NO_KEY: Refusal = (404, "NoSuchKey");
const NO_UPLOAD: Refusal = (404, "NoSuchUpload");
const PRECONDITION: Refusal = (412, "PreconditionFailed");

impl Buckets {
    pub(super) fn new(names: &[&str]) -> Self {
        let empty = |name: &&str| ((*name).to_owned(), BTreeMap::new());
        Buckets {
            buckets: names.iter().map(empty).collect(),
            uploads: BTreeMap::new(),
            page: PAGE_MAX,
            named: 0,
        }
    }

    /// Carries out `op`.
    pub(super) fn answer(
        &mut self,
        op: S3Op,
        bucket: &str,
        key: &str,
        request: &HttpRequest,
    ) -> HttpResponse {
        if !self.buckets.contains_key(bucket) {
            return refuse((404, "NoSuchBucket"));
        }
        let answered = match op {
            S3Op::Get | S3Op::Head => self.get(op, bucket, key, request),
            S3Op::List => self.list(bucket, request),
            S3Op::Put => self.put(bucket, key, request),
            S3Op::Copy => self.copy(bucket, key, request),
            S3Op::Delete => self.delete(bucket, key, request),
            S3Op::BulkDelete => self.bulk_delete(bucket, request),
            S3Op::CreateMultipart => Ok(self.create_multipart(bucket, key)),
            S3Op::PutPart => self.put_part(key, request),
            S3Op::CompleteMultipart => self.complete_multipart(bucket, key, request),
            S3Op::AbortMultipart => self.abort_multipart(key, request),
            S3Op::Other => Err((501, "NotImplemented")),
        };
        answered.unwrap_or_else(refuse)
    }

    fn object(&self, bucket: &str, key: &str) -> Option<&Object> {
        self.buckets.get(bucket)?.get(key)
    }

    fn store(&mut self, bucket: &str, key: &str, data: Bytes, etag: String) {
        let written = Utc::now();
        let object = Object {
            data,
            etag,
            written,
        };
        let objects = self.buckets.get_mut(bucket);
        let objects = objects.expect("whoever asks has looked for the bucket");
        objects.insert(key.to_owned(), object);
    }

    /// Whether the conditions of a request that writes are met.
    fn check(&self, bucket: &str, key: &str, request: &HttpRequest) -> Result<(), Refusal> {
        let found = self.object(bucket, key);
        if request.header("if-none-match") == Some("*") && found.is_some() {
            return Err(PRECONDITION);
        }
        match (request.header("if-match"), found) {
            (Some(_), None) => Err(NO_KEY),
            (Some(tag), Some(object)) if !is_tag(tag, object) => Err(PRECONDITION),
            _ => Ok(()),
        }
    }

    fn put(
        &mut self,
        bucket: &str,
        key: &str,
        request: &HttpRequest,
    ) -> Result<HttpResponse, Refusal> {
        self.check(bucket, key, request)?;
        let etag = self.keep(bucket, key, request.body.clone());
        Ok(HttpResponse::new(200).with("ETag", etag))
    }

    /// Stores an object whatever is there; its tag.
    pub(super) fn keep(&mut self, bucket: &str, key: &str, data: Bytes) -> String {
        let etag = quoted(&hex(&Md5::digest(&data)));
        self.store(bucket, key, data, etag.clone());
        etag
    }

    fn copy(
        &mut self,
        bucket: &str,
        key: &str,
        request: &HttpRequest,
    ) -> Result<HttpResponse, Refusal> {
        let source = request.header("x-amz-copy-source").unwrap_or_default();
        let source = super::http::decode(source);
        let (from, name) = source
            .trim_start_matches('/')
            .split_once('/')
            .ok_or((400, "InvalidArgument"))?;
        let found = self.object(from, name).ok_or(NO_KEY)?.clone();
        self.check(bucket, key, request)?;
        let answer = format!(
            "<CopyObjectResult><ETag>{}</ETag><LastModified>{}</LastModified></CopyObjectResult>",
            escape(&found.etag),
            iso(Utc::now())
        );
        self.store(bucket, key, found.data, found.etag);
        Ok(xml(answer))
    }

    fn get(
        &self,
        op: S3Op,
        bucket: &str,
        key: &str,
        request: &HttpRequest,
    ) -> Result<HttpResponse, Refusal> {
        let object = self.object(bucket, key).ok_or(NO_KEY)?;
        if request
            .header("if-match")
            .is_some_and(|tag| !is_tag(tag, object))
        {
            return Err(PRECONDITION);
        }
        let described = |status| {
            let written = object.written.format("%a, %d %b %Y %H:%M:%S GMT");
            HttpResponse::new(status)
                .with("ETag", object.etag.clone())
                .with("Last-Modified", written.to_string())
                .with("Accept-Ranges", "bytes")
        };
        let unchanged = request.header("if-none-match");
        if unchanged.is_some_and(|tag| is_tag(tag, object)) {
            return Ok(described(304));
        }
        let size = object.data.len();
        if op == S3Op::Head {
            return Ok(described(200).with("Content-Length", size.to_string()));
        }
        let kind = "application/octet-stream";
        let Some(range) = request.header("range") else {
            return Ok(described(200).with_body(kind, object.data.clone()));
        };
        let (start, end) = parse_range(range, size).ok_or((416, "InvalidRange"))?;
        let told = format!("bytes {start}-{}/{size}", end - 1);
        let part = object.data.slice(start..end);
        Ok(described(206)
            .with("Content-Range", told)
            .with_body(kind, part))
    }

    fn delete(
        &mut self,
        bucket: &str,
        key: &str,
        request: &HttpRequest,
    ) -> Result<HttpResponse, Refusal> {
        if self.object(bucket, key).is_some() {
            self.check(bucket, key, request)?;
        }
        self.remove(bucket, key);
        Ok(HttpResponse::new(204))
    }

    fn remove(&mut self, bucket: &str, key: &str) {
        if let Some(objects) = self.buckets.get_mut(bucket) {
            objects.remove(key);
        }
    }

    fn bulk_delete(
        &mut self,
        bucket: &str,
        request: &HttpRequest,
    ) -> Result<HttpResponse, Refusal> {
        let keys = texts(&String::from_utf8_lossy(&request.body), "Key");
        if keys.is_empty() || keys.len() > DELETE_MAX {
            return Err((400, "MalformedXML"));
        }
        let mut deleted = String::new();
        for key in &keys {
            self.remove(bucket, key);
            deleted.push_str(&format!("<Deleted><Key>{}</Key></Deleted>", escape(key)));
        }
        Ok(xml(format!("<DeleteResult>{deleted}</DeleteResult>")))
    }

    fn list(&self, bucket: &str, request: &HttpRequest) -> Result<HttpResponse, Refusal> {
        if request.query("list-type") != Some("2") {
            return Err((501, "NotImplemented"));
        }
        let prefix = request.query("prefix").unwrap_or_default();
        let delimiter = request.query("delimiter").filter(|text| !text.is_empty());
        let asked = request.query("max-keys").and_then(|keys| keys.parse().ok());
        let page = asked.unwrap_or(PAGE_MAX).min(self.page);
        let after = match request.query("continuation-token") {
            Some(token) => unhex(token).ok_or((400, "InvalidArgument"))?,
            None => request.query("start-after").unwrap_or_default().to_owned(),
        };
        let (mut entries, mut folders) = (String::new(), String::new());
        let (mut count, mut last) = (0, after);
        let mut next = None;
        let objects = &self.buckets[bucket];
        while let Some((key, object)) = objects
            .range::<str, _>((Bound::Excluded(last.as_str()), Bound::Unbounded))
            .find(|(key, _)| key.starts_with(prefix))
        {
            if count == page {
                next = Some(hex(last.as_bytes()));
                break;
            }
            count += 1;
            let cut = delimiter.and_then(|delimiter| {
                let at = key[prefix.len()..].find(delimiter)?;
                Some(&key[..prefix.len() + at + delimiter.len()])
            });
            match cut {
                Some(folder) => {
                    let folder = format!(
                        "<CommonPrefixes><Prefix>{}</Prefix></CommonPrefixes>",
                        escape(folder)
                    );
                    folders.push_str(&folder);
                }
                None => entries.push_str(&entry(key, object)),
            }
            // Behind everything that begins like the folder.
            last = cut.map_or_else(|| key.clone(), |folder| format!("{folder}\u{10ffff}"));
        }
        let token =
            next.map(|token| format!("<NextContinuationToken>{token}</NextContinuationToken>"));
        Ok(xml(format!(
            "<ListBucketResult><Name>{bucket}</Name><Prefix>{}</Prefix><KeyCount>{count}</KeyCount>\
             <MaxKeys>{page}</MaxKeys><IsTruncated>{}</IsTruncated>{}{entries}{folders}\
             </ListBucketResult>",
            escape(prefix),
            token.is_some(),
            token.unwrap_or_default(),
        )))
    }

    fn create_multipart(&mut self, bucket: &str, key: &str) -> HttpResponse {
        self.named += 1;
        let id = format!("upload-{}", self.named);
        let upload = Upload {
            bucket: bucket.to_owned(),
            key: key.to_owned(),
            parts: BTreeMap::new(),
        };
        self.uploads.insert(id.clone(), upload);
        xml(format!(
            "<InitiateMultipartUploadResult><Bucket>{bucket}</Bucket><Key>{}</Key>\
             <UploadId>{id}</UploadId></InitiateMultipartUploadResult>",
            escape(key)
        ))
    }

    /// The upload that a request names, which has to be one of this key.
    fn upload(&mut self, key: &str, request: &HttpRequest) -> Result<&mut Upload, Refusal> {
        let id = request.query("uploadId").unwrap_or_default();
        let found = self.uploads.get_mut(id);
        found.filter(|upload| upload.key == key).ok_or(NO_UPLOAD)
    }

    fn put_part(&mut self, key: &str, request: &HttpRequest) -> Result<HttpResponse, Refusal> {
        let upload = self.upload(key, request)?;
        let number = request
            .query("partNumber")
            .and_then(|text| text.parse().ok());
        let number = number.filter(|number| (1..=PARTS_MAX).contains(number));
        let number = number.ok_or((400, "InvalidArgument"))?;
        upload.parts.insert(number, request.body.clone());
        let etag = quoted(&hex(&Md5::digest(&request.body)));
        Ok(HttpResponse::new(200).with("ETag", etag))
    }

    fn complete_multipart(
        &mut self,
        bucket: &str,
        key: &str,
        request: &HttpRequest,
    ) -> Result<HttpResponse, Refusal> {
        let text = String::from_utf8_lossy(&request.body).into_owned();
        let numbers = texts(&text, "PartNumber");
        let numbers: Vec<usize> = numbers
            .iter()
            .filter_map(|text| text.parse().ok())
            .collect();
        let tags = texts(&text, "ETag");
        let upload = self.upload(key, request)?;
        if numbers.is_empty() || numbers.len() != tags.len() {
            return Err((400, "MalformedXML"));
        }
        if !numbers.is_sorted_by(|a, b| a < b) {
            return Err((400, "InvalidPartOrder"));
        }
        let mut parts = Vec::new();
        for (number, tag) in numbers.iter().zip(&tags) {
            let part = upload.parts.get(number).ok_or((400, "InvalidPart"))?;
            if hex(&Md5::digest(part)) != tag.trim_matches('"') {
                return Err((400, "InvalidPart"));
            }
            parts.push(part.clone());
        }
        let (_, all_but_last) = parts.split_last().expect("there is one");
        if all_but_last.iter().any(|part| part.len() < PART_BYTES_MIN) {
            return Err((400, "EntityTooSmall"));
        }
        self.check(bucket, key, request)?;
        let digests: Vec<u8> = parts.iter().flat_map(Md5::digest).collect();
        let etag = quoted(&format!("{}-{}", hex(&Md5::digest(&digests)), parts.len()));
        self.store(bucket, key, parts.concat().into(), etag.clone());
        self.uploads
            .remove(request.query("uploadId").unwrap_or_default());
        Ok(xml(format!(
            "<CompleteMultipartUploadResult><Bucket>{bucket}</Bucket><Key>{}</Key>\
             <ETag>{}</ETag></CompleteMultipartUploadResult>",
            escape(key),
            escape(&etag)
        )))
    }

    fn abort_multipart(
        &mut self,
        key: &str,
        request: &HttpRequest,
    ) -> Result<HttpResponse, Refusal> {
        self.upload(key, request)?;
        self.uploads
            .remove(request.query("uploadId").unwrap_or_default());
        Ok(HttpResponse::new(204))
    }
}

fn entry(key: &str, object: &Object) -> String {
    format!(
        "<Contents><Key>{}</Key><LastModified>{}</LastModified><ETag>{}</ETag><Size>{}</Size>\
         <StorageClass>STANDARD</StorageClass></Contents>",
        escape(key),
        iso(object.written),
        escape(&object.etag),
        object.data.len()
    )
}

/// First byte and the one behind the last; none if there are none of these bytes.
fn parse_range(text: &str, size: usize) -> Option<(usize, usize)> {
    let (start, end) = text.strip_prefix("bytes=")?.split_once('-')?;
    if start.is_empty() {
        let last: usize = end.parse().ok()?;
        return (last > 0 && size > 0).then(|| (size.saturating_sub(last), size));
    }
    let start = start.parse().ok()?;
    let end = match end {
        "" => size,
        end => end.parse::<usize>().ok()?.checked_add(1)?.min(size),
    };
    (start < end).then_some((start, end))
}

fn is_tag(text: &str, object: &Object) -> bool {
    text == "*" || text.trim_matches('"') == object.etag.trim_matches('"')
}

/// The answer to a request that is refused.
pub(super) fn refuse((status, code): Refusal) -> HttpResponse {
    let body = format!("<Error><Code>{code}</Code><Message>{code}</Message></Error>");
    HttpResponse::new(status).with_body("application/xml", body)
}

fn xml(body: String) -> HttpResponse {
    let declared = format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?>{body}");
    HttpResponse::new(200).with_body("application/xml", declared)
}

fn iso(time: DateTime<Utc>) -> String {
    time.format("%Y-%m-%dT%H:%M:%S%.3fZ").to_string()
}

fn quoted(text: &str) -> String {
    format!("\"{text}\"")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<String> {
    let digit = |at: usize| u8::from_str_radix(text.get(at..at + 2)?, 16).ok();
    let bytes: Option<Vec<u8>> = (0..text.len()).step_by(2).map(digit).collect();
    String::from_utf8(bytes?).ok()
}
