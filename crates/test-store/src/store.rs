//! The answers of S3: a request in, an answer out. It knows neither sockets nor time that passes.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use quick_xml::Reader;
use quick_xml::escape::resolve_xml_entity;
use quick_xml::events::Event;

use crate::BUCKET;
use crate::http::{self, Request, decode};
use crate::listing::{self, Answers, DECLARATION, NAMESPACE, PAGE, Query, escape, iso};
use crate::object::{Data, Directories, Memory, Metadata, Object, Pieces, Source, etag_of_parts, hex};
use crate::s3::Fault;
use crate::server::lock;

/// Headers of a user's own begin so.
const META: &str = "x-amz-meta-";

/// Buckets and their objects.
pub struct Store {
    objects: Objects,
    uploads: Mutex<HashMap<String, Upload>>,
    /// For what needs a name that nothing else has.
    next: AtomicU64,
    answers: Answers,
    access_key: Option<String>,
    /// Entries in a page of a listing, at most.
    page: AtomicUsize,
}

enum Objects {
    Memory(RwLock<Memory>),
    Directories(Directories),
}

struct Upload {
    target: (String, String),
    metadata: Metadata,
    parts: BTreeMap<u32, Part>,
}

struct Part {
    data: Data,
    /// Without quotes.
    etag: String,
}

pub(crate) enum Body {
    Text(Arc<str>),
    Data(Data, Range<u64>),
}

pub(crate) struct Answer {
    pub(crate) status: Cow<'static, str>,
    /// Each with its line feed.
    pub(crate) headers: String,
    pub(crate) body: Body,
}

impl Answer {
    fn new(status: &'static str, headers: String) -> Self {
        Answer { status: status.into(), headers, body: Body::Text("".into()) }
    }

    fn xml(text: impl Into<Arc<str>>) -> Self {
        let headers = "Content-Type: application/xml\r\n".into();
        Answer { status: "200 OK".into(), headers, body: Body::Text(text.into()) }
    }

    fn result(name: &str, content: &str) -> Self {
        Self::xml(format!("{DECLARATION}<{name} {NAMESPACE}>{content}</{name}>"))
    }

    pub(crate) fn error(status: impl Into<Cow<'static, str>>, code: &str) -> Self {
        let text = format!("{DECLARATION}<Error><Code>{code}</Code></Error>");
        Answer { status: status.into(), ..Self::xml(text) }
    }

    pub(crate) fn length(&self) -> u64 {
        match &self.body {
            Body::Text(text) => text.len() as u64,
            Body::Data(_, range) => range.end - range.start,
        }
    }
}

/// An answer, or one that refuses.
type Result<T = Answer> = std::result::Result<T, Answer>;

fn internal(error: io::Error) -> Answer {
    Answer::error(format!("500 {error}").replace(['\r', '\n'], " "), "InternalError")
}

fn no_such_key() -> Answer {
    Answer::error("404 Not Found", "NoSuchKey")
}

fn failed_condition() -> Answer {
    Answer::error("412 Precondition Failed", "PreconditionFailed")
}

impl Store {
    /// An empty bucket in memory.
    pub fn memory() -> Self {
        Self::of(Objects::Memory(RwLock::default()))
    }

    /// The directories below a root as buckets. Names and listings of directories are kept where nothing changes.
    pub fn directories(root: &Path, is_writable: bool) -> io::Result<Self> {
        Ok(Self::of(Objects::Directories(Directories::new(root, is_writable)?)))
    }

    fn of(objects: Objects) -> Self {
        Store {
            objects,
            uploads: Mutex::default(),
            next: AtomicU64::new(1),
            answers: Answers::default(),
            access_key: None,
            page: AtomicUsize::new(PAGE),
        }
    }

    /// The store, for requests that are signed with this access key alone.
    #[must_use]
    pub fn for_key(mut self, access_key: Option<String>) -> Self {
        self.access_key = access_key;
        self
    }

    /// Puts an object into a store in memory.
    pub(crate) fn put(&self, key: &str, source: impl Source + 'static) {
        if let Objects::Memory(memory) = &self.objects {
            write(memory).put(key, Object::new(source));
        }
    }

    /// Removes an object.
    pub(crate) fn delete(&self, bucket: &str, key: &str) {
        match &self.objects {
            Objects::Memory(memory) => drop(write(memory).objects.remove(key)),
            Objects::Directories(directories) => {
                let mut changes = directories.changes();
                directories.delete(&mut changes, bucket, key);
            }
        }
    }

    pub(crate) fn pages_of(&self, entries: usize) {
        self.page.store(entries, Ordering::SeqCst);
    }

    pub(crate) fn get(&self, bucket: &str, key: &str) -> Option<Object> {
        match &self.objects {
            Objects::Memory(memory) => read(memory).objects.get(key).cloned(),
            Objects::Directories(directories) => directories.get(bucket, key),
        }
    }

    /// The answer to a request, as far as the fault is the store's.
    pub(crate) fn answer(&self, request: &Request, fault: Fault) -> Answer {
        self.decide(request, fault).unwrap_or_else(|refusal| refusal)
    }

    fn decide(&self, request: &Request, fault: Fault) -> Result {
        if self.access_key.as_ref().is_some_and(|key| *key != request.signer) {
            return Err(Answer::error("403 Forbidden", "InvalidAccessKeyId"));
        }
        let is_bucket = match &self.objects {
            Objects::Memory(_) => request.bucket == BUCKET,
            Objects::Directories(_) if request.bucket.is_empty() => return Ok(self.buckets()),
            Objects::Directories(directories) => directories.bucket(&request.bucket).is_some(),
        };
        if !is_bucket {
            return Err(Answer::error("404 Not Found", "NoSuchBucket"));
        }
        let is_writable = match &self.objects {
            Objects::Memory(_) => true,
            Objects::Directories(directories) => directories.is_writable,
        };
        let refused = || Err(Answer::error("405 Method Not Allowed", "MethodNotAllowed"));
        match (&*request.method, request.key.as_deref()) {
            ("GET", None) => self.of_bucket(request),
            ("HEAD", None) => Ok(Answer::new("200 OK", String::new())),
            ("GET" | "HEAD", Some(key)) => self.object(request, key, fault),
            _ if !is_writable => refused(),
            ("PUT", Some(key)) if request.query("partNumber").is_some() => self.upload_part(request, key),
            ("PUT", Some(key)) => self.replace(request, key),
            ("DELETE", Some(_)) if request.query("uploadId").is_some() => {
                lock(&self.uploads).remove(request.query("uploadId").unwrap_or_default());
                Ok(Answer::new("204 No Content", String::new()))
            }
            ("DELETE", Some(key)) => {
                self.delete(&request.bucket, key);
                Ok(Answer::new("204 No Content", String::new()))
            }
            ("POST", None) if request.query("delete").is_some() => {
                let keys = texts(&request.body, "Key");
                keys.iter().for_each(|key| self.delete(&request.bucket, key));
                let deleted = |key| format!("<Deleted><Key>{}</Key></Deleted>", escape(key));
                Ok(Answer::result("DeleteResult", &keys.iter().map(|key| deleted(key)).collect::<String>()))
            }
            ("POST", Some(key)) if request.query("uploads").is_some() => Ok(self.begin(request, key)),
            ("POST", Some(_)) if request.query("uploadId").is_some() => self.complete(request, fault),
            _ => refused(),
        }
    }

    fn buckets(&self) -> Answer {
        let Objects::Directories(directories) = &self.objects else { return no_such_key() };
        Answer::xml(listing::buckets(&directories.names(directories.root()).unwrap_or_default()))
    }

    fn of_bucket(&self, request: &Request) -> Result {
        // What clients ask of a bucket before they list it.
        for (question, answer) in [
            ("location", "LocationConstraint"),
            ("versioning", "VersioningConfiguration"),
            ("acl", "AccessControlPolicy"),
        ] {
            if request.query(question).is_some() {
                return Ok(Answer::result(answer, ""));
            }
        }
        let query = Query::new(request, self.page.load(Ordering::SeqCst));
        let query = query.ok_or_else(|| Answer::error("400 Bad Request", "InvalidArgument"))?;
        Ok(match &self.objects {
            Objects::Memory(memory) => Answer::xml(query.of_memory(&read(memory).objects)),
            Objects::Directories(directories) => {
                let bucket = directories.root().join(&request.bucket);
                Answer::xml(query.of_directory(directories, &bucket, &self.answers))
            }
        })
    }

    fn object(&self, request: &Request, key: &str, fault: Fault) -> Result {
        let before = match (&self.objects, fault) {
            (Objects::Memory(memory), Fault::Stale) => read(memory).before.get(key).cloned(),
            _ => None,
        };
        let object = before.or_else(|| self.get(&request.bucket, key)).ok_or_else(no_such_key)?;
        let (etag, size) = (&object.etag, object.data.size());
        let meets = |header: &str, expected: bool| {
            request.header(header).is_none_or(|tags| http::matches(tags, etag) == expected)
        };
        if !matches!(fault, Fault::Unconditional) {
            if !meets("if-match", true) {
                return Err(failed_condition());
            }
            if !meets("if-none-match", false) {
                return Err(Answer::new("304 Not Modified", format!("ETag: {etag}\r\n")));
            }
        }
        let wanted = request.header("range").filter(|_| !matches!(fault, Fault::Whole));
        let (status, range, content_range) = match http::wanted(wanted, size) {
            None => ("200 OK", 0..size, String::new()),
            Some(range) if range.is_empty() => {
                let mut answer = Answer::error("416 Range Not Satisfiable", "InvalidRange");
                answer.headers.push_str(&format!("Content-Range: bytes */{size}\r\n"));
                return Err(answer);
            }
            Some(range) => {
                // As from a server that mixes up its requests.
                let shift = u64::from(matches!(fault, Fault::WrongRange));
                let range = range.start + shift..size.min(range.end + shift);
                let header = format!("Content-Range: bytes {}-{}/{size}\r\n", range.start, range.end - 1);
                ("206 Partial Content", range, header)
            }
        };
        let metadata = object.metadata.iter().map(|(name, value)| format!("{META}{name}: {value}\r\n"));
        let headers = format!(
            "Content-Type: binary/octet-stream\r\nAccept-Ranges: bytes\r\nETag: {etag}\r\nLast-Modified: {}\r\n\
             {content_range}{}",
            httpdate::fmt_http_date(object.modified),
            metadata.collect::<String>(),
        );
        Ok(Answer { status: status.into(), headers, body: Body::Data(object.data, range) })
    }

    /// What the request brings: its body, or bytes of another object.
    fn brought(&self, request: &Request) -> Result<(Option<Object>, Data, Range<u64>)> {
        let Some(source) = request.header("x-amz-copy-source") else {
            let data = Data::Source(request.body.clone());
            let size = data.size();
            return Ok((None, data, 0..size));
        };
        let source = decode(source);
        let (bucket, key) = source.trim_start_matches('/').split_once('/').unwrap_or_default();
        let object = self.get(bucket, key).ok_or_else(no_such_key)?;
        let condition = request.header("x-amz-copy-source-if-match");
        if condition.is_some_and(|tags| !http::matches(tags, &object.etag)) {
            return Err(failed_condition());
        }
        let size = object.data.size();
        let range = http::wanted(request.header("x-amz-copy-source-range"), size).unwrap_or(0..size);
        Ok((Some(object.clone()), object.data, range))
    }

    /// PUT of an object: its body, or a copy.
    fn replace(&self, request: &Request, key: &str) -> Result {
        let (copied, data, range) = self.brought(request)?;
        let given = metadata(request);
        let is_replaced = request.header("x-amz-metadata-directive") == Some("REPLACE");
        let metadata = copied.as_ref().filter(|_| !is_replaced).map_or(given, |from| from.metadata.clone());
        let etag = self.hash(&data, &range);
        let etag = self.write(request, (&request.bucket, key), &[(data, range)], &etag, metadata)?;
        Ok(match copied {
            None => Answer::new("200 OK", format!("ETag: {etag}\r\n")),
            Some(from) => {
                let modified = iso(from.modified);
                let content =
                    format!("<LastModified>{modified}</LastModified><ETag>{}</ETag>", escape(&etag));
                Answer::result("CopyObjectResult", &content)
            }
        })
    }

    /// In memory that of S3; of files it is only another one each time, as hashes cost what the benchmark measures.
    fn hash(&self, data: &Data, range: &Range<u64>) -> String {
        match (&self.objects, data) {
            (Objects::Memory(_), Data::Source(source)) if *range == (0..source.size()) => source.etag(),
            (Objects::Memory(_), Data::Source(source)) => source.read(range.clone()).etag(),
            _ => hex(&u128::from(self.next.fetch_add(1, Ordering::SeqCst)).to_be_bytes()),
        }
    }

    /// Replaces an object if the request's conditions allow it; its ETag.
    fn write(
        &self,
        request: &Request,
        (bucket, key): (&str, &str),
        pieces: &Pieces,
        etag: &str,
        metadata: Metadata,
    ) -> Result<String> {
        let allowed = |now: Option<&str>| {
            let matched = |tags: &str| now.is_some_and(|now| http::matches(tags, now));
            match (request.header("if-match"), request.header("if-none-match")) {
                (Some(_), _) if now.is_none() => Err(no_such_key()),
                (Some(tags), _) if !matched(tags) => Err(failed_condition()),
                (_, Some(tags)) if matched(tags) => Err(failed_condition()),
                _ => Ok(()),
            }
        };
        match &self.objects {
            Objects::Memory(memory) => {
                let object = Memory::object(pieces, etag, metadata).map_err(internal)?;
                let etag = object.etag.clone();
                let mut memory = write(memory);
                allowed(memory.objects.get(key).map(|now| &*now.etag))?;
                memory.put(key, object);
                Ok(etag)
            }
            Objects::Directories(directories) => {
                let file = directories.write(pieces).map_err(internal)?;
                let mut changes = directories.changes();
                allowed(directories.etag(bucket, key).as_deref())?;
                directories.put(&mut changes, (bucket, key), file, metadata).map_err(internal)
            }
        }
    }

    fn begin(&self, request: &Request, key: &str) -> Answer {
        let id = format!("upload-{}", self.next.fetch_add(1, Ordering::SeqCst));
        let target = (request.bucket.clone(), key.to_owned());
        let upload = Upload { target, metadata: metadata(request), parts: BTreeMap::new() };
        lock(&self.uploads).insert(id.clone(), upload);
        Answer::result("InitiateMultipartUploadResult", &format!("<UploadId>{id}</UploadId>"))
    }

    fn upload_part(&self, request: &Request, key: &str) -> Result {
        let number = request.query("partNumber").and_then(|number| number.parse().ok());
        let number: u32 = number.ok_or_else(|| Answer::error("400 Bad Request", "InvalidArgument"))?;
        let (copied, data, range) = self.brought(request)?;
        let etag = self.hash(&data, &range);
        let data = match &self.objects {
            Objects::Memory(_) => Data::Source(Arc::new(data.read(range).map_err(internal)?)),
            Objects::Directories(directories) => directories.keep(&[(data, range)]).map_err(internal)?,
        };
        let mut uploads = lock(&self.uploads);
        let upload = uploads.get_mut(request.query("uploadId").unwrap_or_default());
        let upload = upload.filter(|upload| upload.target.1 == key).ok_or_else(no_such_upload)?;
        upload.parts.insert(number, Part { data, etag: etag.clone() });
        Ok(match copied {
            Some(_) => Answer::result("CopyPartResult", &format!("<ETag>&quot;{etag}&quot;</ETag>")),
            None => Answer::new("200 OK", format!("ETag: \"{etag}\"\r\n")),
        })
    }

    fn complete(&self, request: &Request, fault: Fault) -> Result {
        let id = request.query("uploadId").unwrap_or_default();
        let (numbers, etags) = (texts(&request.body, "PartNumber"), texts(&request.body, "ETag"));
        let mut uploads = lock(&self.uploads);
        let upload = uploads.get(id).ok_or_else(no_such_upload)?;
        let mut parts = Vec::new();
        for (number, etag) in numbers.iter().zip(&etags) {
            let part = number.parse().ok().and_then(|number| upload.parts.get(&number));
            parts.push(part.filter(|part| http::matches(etag, &part.etag)).ok_or_else(invalid_part)?);
        }
        let Some((last, others)) = parts.split_last() else { return Err(invalid_part()) };
        let first = others.first().unwrap_or(last).data.size();
        let is_equal = others.iter().all(|part| part.data.size() == first) && last.data.size() <= first;
        if matches!(fault, Fault::EqualParts) && !is_equal {
            return Err(invalid_part());
        }
        let etag = etag_of_parts(parts.iter().map(|part| &*part.etag));
        let pieces: Vec<_> = parts.iter().map(|part| (part.data.clone(), 0..part.data.size())).collect();
        let ((bucket, key), metadata) = (upload.target.clone(), upload.metadata.clone());
        // Others go on meanwhile; a part that comes too late finds no upload.
        let Some(upload) = uploads.remove(id) else { return Err(no_such_upload()) };
        drop(uploads);
        let written = self.write(request, (&bucket, &key), &pieces, &etag, metadata);
        let etag = written.inspect_err(|_| drop(lock(&self.uploads).insert(id.to_owned(), upload)))?;
        let content = format!("<Key>{}</Key><ETag>{}</ETag>", escape(&key), escape(&etag));
        Ok(Answer::result("CompleteMultipartUploadResult", &content))
    }
}

fn no_such_upload() -> Answer {
    Answer::error("404 Not Found", "NoSuchUpload")
}

fn invalid_part() -> Answer {
    Answer::error("400 Bad Request", "InvalidPart")
}

fn read(memory: &RwLock<Memory>) -> RwLockReadGuard<'_, Memory> {
    memory.read().unwrap_or_else(PoisonError::into_inner)
}

fn write(memory: &RwLock<Memory>) -> RwLockWriteGuard<'_, Memory> {
    memory.write().unwrap_or_else(PoisonError::into_inner)
}

fn metadata(request: &Request) -> Metadata {
    let headers = request.headers().map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()));
    headers.filter_map(|(name, value)| Some((name.strip_prefix(META)?.to_owned(), value))).collect()
}

/// The texts of the elements with the name, in their order.
fn texts(xml: &[u8], name: &str) -> Vec<String> {
    let (mut texts, mut reader) = (Vec::new(), Reader::from_reader(xml));
    let mut is_wanted = false;
    let add = |texts: &mut Vec<String>, text: &str| {
        texts.last_mut().into_iter().for_each(|last| last.push_str(text))
    };
    loop {
        match reader.read_event() {
            Ok(Event::Start(element)) => {
                is_wanted = element.local_name().as_ref() == name;
                if is_wanted {
                    texts.push(String::new());
                }
            }
            Ok(Event::End(_)) => is_wanted = false,
            Ok(Event::Text(text)) if is_wanted => add(&mut texts, &text),
            Ok(Event::GeneralRef(reference)) if is_wanted => {
                let character = reference.resolve_char_ref().ok().flatten();
                let named = character.map(String::from);
                add(&mut texts, named.as_deref().or(resolve_xml_entity(&reference)).unwrap_or_default());
            }
            Ok(Event::Eof) | Err(_) => return texts,
            Ok(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::{Answer, Body, Store};
    use crate::s3::Fault;
    use crate::{KEY, Request};

    /// The answer to a request with these headers, and the text or the bytes of its body.
    fn ask(store: &Store, fault: Fault, request: &str, headers: &str, body: &str) -> (Answer, String) {
        let length = body.len();
        let text = format!("{request} HTTP/1.1\r\nContent-Length: {length}\r\n{headers}\r\n{body}");
        let request = Request::read(&mut text.as_bytes(), Vec::new()).unwrap().unwrap();
        let answer = store.answer(&request, fault);
        let body = match &answer.body {
            Body::Text(text) => text.to_string(),
            Body::Data(data, range) => String::from_utf8(data.read(range.clone()).unwrap()).unwrap(),
        };
        (answer, body)
    }

    fn fine(store: &Store, request: &str, headers: &str, body: &str) -> String {
        let (answer, body) = ask(store, Fault::Fine, request, headers, body);
        assert!(answer.status.starts_with('2'), "{request}: {} {body}", answer.status);
        body
    }

    fn status(store: &Store, fault: Fault, request: &str, headers: &str) -> String {
        ask(store, fault, request, headers, "").0.status[..3].to_string()
    }

    /// The same store in memory and in a directory.
    fn both(test: impl Fn(&Store)) {
        test(&Store::memory());
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("data")).unwrap();
        test(&Store::directories(root.path(), true).unwrap());
    }

    fn between<'a>(text: &'a str, from: &str, to: &str) -> &'a str {
        text.split_once(from).unwrap().1.split_once(to).unwrap().0
    }

    #[test]
    fn objects_are_put_read_copied_and_deleted() {
        both(|store| {
            let (put, _) = ask(store, Fault::Fine, "PUT /data/a/b", "x-amz-meta-Mtime: 7\r\n", "0123456789");
            let etag = between(&put.headers, "ETag: ", "\r\n").to_string();
            let (read, body) = ask(store, Fault::Fine, "GET /data/a/b", "Range: bytes=2-3\r\n", "");
            assert_eq!((&*read.status, &*body), ("206 Partial Content", "23"));
            for header in ["bytes 2-3/10\r\n", "x-amz-meta-mtime: 7\r\n", &format!("ETag: {etag}\r\n")] {
                assert!(read.headers.contains(header), "{}", read.headers);
            }
            for (fault, header, expected) in [
                (Fault::Fine, format!("If-Match: {etag}"), "200"),
                (Fault::Fine, "If-Match: \"x\"".to_string(), "412"),
                (Fault::Unconditional, "If-Match: \"x\"".to_string(), "200"),
                (Fault::Fine, format!("If-None-Match: {etag}"), "304"),
                (Fault::Fine, "Range: bytes=10-".to_string(), "416"),
                (Fault::Whole, "Range: bytes=1-2".to_string(), "200"),
            ] {
                assert_eq!(
                    status(store, fault, "GET /data/a/b", &format!("{header}\r\n")),
                    expected,
                    "{header}"
                );
            }
            assert_eq!(status(store, Fault::Fine, "PUT /data/a/b", "If-None-Match: *\r\n"), "412");
            assert_eq!(status(store, Fault::Fine, "PUT /data/none", "If-Match: \"x\"\r\n"), "404");

            let copy = "x-amz-copy-source: /data/a/b\r\n";
            assert!(fine(store, "PUT /data/c", copy, "").contains("<CopyObjectResult "));
            let (copied, body) = ask(store, Fault::Fine, "GET /data/c", "", "");
            assert!(body == "0123456789" && copied.headers.contains("x-amz-meta-mtime: 7\r\n"));
            let anew = format!("{copy}x-amz-metadata-directive: REPLACE\r\n");
            fine(store, "PUT /data/c", &anew, "");
            assert!(!ask(store, Fault::Fine, "HEAD /data/c", "", "").0.headers.contains("x-amz-meta"));
            let other = format!("{copy}x-amz-copy-source-if-match: \"x\"\r\n");
            assert_eq!(status(store, Fault::Fine, "PUT /data/c", &other), "412");

            fine(store, "PUT /data/a&", "", "");
            fine(store, "POST /data?delete", "", "<Delete><Object><Key>a&amp;</Key></Object></Delete>");
            fine(store, "DELETE /data/a/b", "", "");
            for gone in ["/data/a&", "/data/a/b", "/data/a", "/none/x"] {
                assert_eq!(status(store, Fault::Fine, &format!("GET {gone}"), ""), "404", "{gone}");
            }
            let listing = fine(store, "GET /data?list-type=2&delimiter=/", "", "");
            assert!(
                listing.contains("<KeyCount>1</KeyCount>") && listing.contains("<Key>c</Key>"),
                "{listing}"
            );
        });
    }

    #[test]
    fn parts_become_an_object() {
        both(|store| {
            fine(store, "PUT /data/from", "", "0123456789");
            let begun = fine(store, "POST /data/key?uploads", "x-amz-meta-a: b\r\n", "");
            let id = between(&begun, "<UploadId>", "<");
            let part = |number: u32, headers: &str, body: &str| {
                let target = format!("PUT /data/key?partNumber={number}&uploadId={id}");
                let (answer, text) = ask(store, Fault::Fine, &target, headers, body);
                match text.is_empty() {
                    true => between(&answer.headers, "ETag: \"", "\"").to_string(),
                    false => between(&text, "<ETag>&quot;", "&quot;").to_string(),
                }
            };
            let copy = "x-amz-copy-source: data/from\r\nx-amz-copy-source-range: bytes=2-4\r\n";
            let etags = [part(1, "", "ab"), part(2, copy, "")];
            let told = |etags: &[String; 2]| {
                let part = |(number, etag)| {
                    format!("<Part><PartNumber>{number}</PartNumber><ETag>&quot;{etag}&quot;</ETag></Part>")
                };
                (1..).zip(etags).map(part).collect::<String>()
            };
            let complete = format!("POST /data/key?uploadId={id}");
            let swapped = [etags[1].clone(), etags[0].clone()];
            assert_eq!(ask(store, Fault::Fine, &complete, "", &told(&swapped)).0.status, "400 Bad Request");
            assert_eq!(
                ask(store, Fault::EqualParts, &complete, "", &told(&etags)).0.status,
                "400 Bad Request"
            );
            let joined = fine(store, &complete, "", &told(&etags));
            assert_eq!(ask(store, Fault::Fine, &complete, "", &told(&etags)).0.status, "404 Not Found");
            let (read, body) = ask(store, Fault::Fine, "GET /data/key", "", "");
            assert!(body == "ab234" && read.headers.contains("x-amz-meta-a: b\r\n"), "{body}");
            let etag = between(&joined, "<ETag>", "</ETag>").replace("&quot;", "\"");
            assert!(read.headers.contains(&format!("ETag: {etag}\r\n")), "{etag}: {}", read.headers);
        });
    }

    #[test]
    fn etags_in_memory_are_those_of_s3() {
        let store = Store::memory();
        assert!(
            ask(&store, Fault::Fine, "PUT /data/a", "", "abc")
                .0
                .headers
                .contains("900150983cd24fb0d6963f7d28e17f72")
        );
        let (before, _) = ask(&store, Fault::Fine, "HEAD /data/a", "", "");
        fine(&store, "PUT /data/a", "", "other");
        let (stale, _) = ask(&store, Fault::Stale, "HEAD /data/a", "", "");
        assert_eq!(stale.headers, before.headers);
        let parts = ["900150983cd24fb0d6963f7d28e17f72"; 2].into_iter();
        assert_eq!(crate::object::etag_of_parts(parts), "043a916d6cfeecedf5e04f0312ba762d-2");
    }

    #[test]
    fn empty_directories_are_objects_and_others_go_with_their_last_file() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("data")).unwrap();
        let store = Store::directories(root.path(), true).unwrap();
        fine(&store, "PUT /data/made/", "", "");
        fine(&store, "PUT /data/made/a/x", "", "x");
        let keys = |query: &str| {
            let listing = fine(&store, &format!("GET /data?list-type=2&{query}"), "", "");
            let keys = listing.split("<Key>").skip(1).map(|rest| rest.split('<').next().unwrap().to_string());
            keys.collect::<Vec<_>>()
        };
        assert_eq!(keys(""), ["made/a/x"]);
        fine(&store, "DELETE /data/made/a/x", "", "");
        assert_eq!(
            (keys(""), keys("prefix=made/&delimiter=/")),
            (vec!["made/".into()], vec!["made/".into()])
        );
        assert_eq!(status(&store, Fault::Fine, "HEAD /data/made/", ""), "200");
        fine(&store, "DELETE /data/made/", "", "");
        assert!(keys("").is_empty() && !root.path().join("data/made").exists());
        assert_eq!(status(&store, Fault::Fine, "PUT /data/../x", ""), "500");
    }

    #[test]
    fn who_may_not_is_refused() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("data")).unwrap();
        let store = Store::directories(root.path(), false).unwrap().for_key(Some(KEY.to_string()));
        let signed = |key: &str| format!("Authorization: AWS4-HMAC-SHA256 Credential={key}/x\r\n");
        assert_eq!(status(&store, Fault::Fine, "GET /data", ""), "403");
        assert_eq!(status(&store, Fault::Fine, "GET /data", &signed("other")), "403");
        assert_eq!(status(&store, Fault::Fine, "GET /data", &signed(KEY)), "200");
        assert_eq!(status(&store, Fault::Fine, "GET /data?X-Amz-Credential=access-key%2Fx", ""), "200");
        for method in ["PUT", "DELETE", "POST"] {
            assert_eq!(status(&store, Fault::Fine, &format!("{method} /data/x"), &signed(KEY)), "405");
        }
    }
}
