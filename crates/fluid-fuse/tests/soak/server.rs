//! `s3s-fs` with what it lacks of S3, behind a front that misbehaves.
//!
//! The server alone puts an object and its ETag in two places one after the other, has neither ETags nor empty
//! directories in listings and no conditions for reads; here each change is seen as a whole or not at all, as S3 promises, so that bytes that
//! do not fit together are the mount's fault. It knows nothing of mounts.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fs;
use std::future::poll_fn;
use std::io;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, Weak};
use std::task::{Context, Poll};
use std::thread;
use std::time::Duration;

use async_trait::async_trait;
use futures_core::Stream;
use http::{Method, Response};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use s3s::auth::SimpleAuth;
use s3s::dto::*;
use s3s::service::{S3Service, S3ServiceBuilder};
use s3s::{Body, S3, S3Request, S3Response, S3Result, StdError, s3_error};
use tokio::net::TcpListener;
use tokio::sync::RwLock;

use crate::support::s3::Fault;
use crate::support::s3s::{KEY, SECRET};

/// Longer than anybody waits.
const EVER: Duration = Duration::from_secs(30);

/// Answers that go wrong in calm weather, in thousandths.
const OFTEN: u32 = 60;

struct Store {
    disk: s3s_fs::FileSystem,
    data: PathBuf,
    /// By key; held while an object is changed.
    etags: RwLock<HashMap<String, ETag>>,
    /// Keys of empty objects that are directories.
    markers: Mutex<BTreeSet<String>>,
    /// Uploads that were neither completed nor aborted.
    uploads: Mutex<HashSet<String>>,
}

/// All of a body, so that a client that is slow, or gone, holds up nobody.
async fn whole(body: Option<StreamingBlob>) -> S3Result<StreamingBlob> {
    let mut bytes = Vec::new();
    if let Some(mut body) = body {
        while let Some(piece) = poll_fn(|context| Pin::new(&mut body).poll_next(context)).await {
            bytes.extend_from_slice(&piece.map_err(|_| s3_error!(IncompleteBody))?);
        }
    }
    Ok(StreamingBlob::from(Body::from(bytes)))
}

#[async_trait]
impl S3 for Store {
    async fn get_object(&self, req: S3Request<GetObjectInput>) -> S3Result<S3Response<GetObjectOutput>> {
        let etags = self.etags.read().await;
        if let (Some(ETagCondition::ETag(wanted)), Some(etag)) =
            (&req.input.if_match, etags.get(&req.input.key))
            && !wanted.strong_cmp(etag)
        {
            return Err(s3_error!(PreconditionFailed));
        }
        // What is opened here is read to its end, whatever takes its place meanwhile.
        self.disk.get_object(req).await
    }

    async fn head_object(&self, req: S3Request<HeadObjectInput>) -> S3Result<S3Response<HeadObjectOutput>> {
        let _etags = self.etags.read().await;
        self.disk.head_object(req).await
    }

    async fn list_objects_v2(
        &self,
        req: S3Request<ListObjectsV2Input>,
    ) -> S3Result<S3Response<ListObjectsV2Output>> {
        let etags = self.etags.read().await;
        let mut answer = self.disk.list_objects_v2(req).await?;
        for object in answer.output.contents.iter_mut().flatten() {
            object.e_tag = object.key.as_ref().and_then(|key| etags.get(key).cloned());
        }
        let prefix = answer.output.prefix.clone().unwrap_or_default();
        let listed = answer.output.common_prefixes.take().unwrap_or_default();
        let mut prefixes: BTreeSet<_> = listed.into_iter().filter_map(|listed| listed.prefix).collect();
        for marker in self.markers.lock().unwrap().iter() {
            if let Some((name, _)) = marker.strip_prefix(&prefix).and_then(|rest| rest.split_once('/')) {
                prefixes.insert(format!("{prefix}{name}/"));
            }
        }
        let prefixes = prefixes.into_iter().map(|prefix| CommonPrefix { prefix: Some(prefix) });
        answer.output.common_prefixes = Some(prefixes.collect());
        Ok(answer)
    }

    async fn put_object(&self, mut req: S3Request<PutObjectInput>) -> S3Result<S3Response<PutObjectOutput>> {
        req.input.body = Some(whole(req.input.body.take()).await?);
        let key = req.input.key.clone();
        let mut etags = self.etags.write().await;
        let answer = self.disk.put_object(req).await?;
        if key.ends_with('/') {
            self.markers.lock().unwrap().insert(key);
        } else if let Some(etag) = &answer.output.e_tag {
            etags.insert(key, etag.clone());
        }
        Ok(answer)
    }

    async fn delete_object(
        &self,
        req: S3Request<DeleteObjectInput>,
    ) -> S3Result<S3Response<DeleteObjectOutput>> {
        let mut etags = self.etags.write().await;
        etags.remove(&req.input.key);
        self.markers.lock().unwrap().remove(&req.input.key);
        self.disk.delete_object(req).await
    }

    async fn copy_object(&self, req: S3Request<CopyObjectInput>) -> S3Result<S3Response<CopyObjectOutput>> {
        let to = req.input.key.clone();
        let mut etags = self.etags.write().await;
        if let CopySource::Bucket { key, .. } = &req.input.copy_source
            && self.data.join(&**key).exists()
            && **key != *to
        {
            // It would be written over while others read it.
            let _ = fs::remove_file(self.data.join(&to));
        }
        let answer = self.disk.copy_object(req).await?;
        if let Some(etag) = answer.output.copy_object_result.as_ref().and_then(|result| result.e_tag.clone())
        {
            etags.insert(to, etag);
        }
        Ok(answer)
    }

    async fn create_multipart_upload(
        &self,
        req: S3Request<CreateMultipartUploadInput>,
    ) -> S3Result<S3Response<CreateMultipartUploadOutput>> {
        let answer = self.disk.create_multipart_upload(req).await?;
        self.uploads.lock().unwrap().extend(answer.output.upload_id.clone());
        Ok(answer)
    }

    async fn upload_part(
        &self,
        mut req: S3Request<UploadPartInput>,
    ) -> S3Result<S3Response<UploadPartOutput>> {
        if !self.uploads.lock().unwrap().contains(&req.input.upload_id) {
            return Err(s3_error!(NoSuchUpload));
        }
        req.input.body = Some(whole(req.input.body.take()).await?);
        self.disk.upload_part(req).await
    }

    async fn complete_multipart_upload(
        &self,
        req: S3Request<CompleteMultipartUploadInput>,
    ) -> S3Result<S3Response<CompleteMultipartUploadOutput>> {
        let key = req.input.key.clone();
        let mut etags = self.etags.write().await;
        if !self.uploads.lock().unwrap().remove(&req.input.upload_id) {
            return Err(s3_error!(NoSuchUpload));
        }
        let mut output = self.disk.complete_multipart_upload(req).await?.output;
        if let Some(future) = output.future.take() {
            output = future.await?;
        }
        if let Some(etag) = &output.e_tag {
            etags.insert(key, etag.clone());
        }
        Ok(S3Response::new(output))
    }

    async fn abort_multipart_upload(
        &self,
        req: S3Request<AbortMultipartUploadInput>,
    ) -> S3Result<S3Response<AbortMultipartUploadOutput>> {
        self.uploads.lock().unwrap().remove(&req.input.upload_id);
        self.disk.abort_multipart_upload(req).await
    }
}

/// How all requests go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Manners {
    /// Nothing goes wrong.
    Fine,
    /// Something goes wrong at times.
    Moody,
    /// Nothing is answered.
    Silent,
    /// Connections are reset.
    Resets,
    /// Each answer is 503.
    Busy,
}

pub(crate) struct Server {
    pub(crate) data: PathBuf,
    front: SocketAddr,
    back: SocketAddr,
    state: Arc<Front>,
}

struct Front {
    service: S3Service,
    manners: Mutex<Manners>,
    dice: Mutex<fastrand::Rng>,
    connections: Mutex<Vec<Weak<TcpStream>>>,
    faults: Mutex<BTreeMap<&'static str, u64>>,
}

impl Server {
    /// Serves the directories of a directory as buckets; `data` is one of them.
    pub(crate) fn start(root: &Path, seed: u64) -> Self {
        let data = root.join("data");
        fs::create_dir(&data).unwrap();
        let mut builder = S3ServiceBuilder::new(Store {
            disk: s3s_fs::FileSystem::new(root).unwrap(),
            data: data.clone(),
            etags: RwLock::default(),
            markers: Mutex::default(),
            uploads: Mutex::default(),
        });
        builder.set_auth(SimpleAuth::from_single(KEY, SECRET));
        let state = Arc::new(Front {
            service: builder.build(),
            manners: Mutex::new(Manners::Fine),
            dice: Mutex::new(fastrand::Rng::with_seed(seed)),
            connections: Mutex::default(),
            faults: Mutex::default(),
        });
        let [front, back] = [true, false].map(|moody| {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            listener.set_nonblocking(true).unwrap();
            let address = listener.local_addr().unwrap();
            let state = Arc::clone(&state);
            thread::spawn(move || {
                tokio::runtime::Runtime::new().unwrap().block_on(listen(listener, state, moody));
            });
            address
        });
        Server { data, front, back, state }
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("http://{}", self.front)
    }

    /// Where nothing goes wrong.
    pub(crate) fn back(&self) -> String {
        format!("http://{}", self.back)
    }

    pub(crate) fn behave(&self, manners: Manners) {
        *self.state.manners.lock().unwrap() = manners;
        if !matches!(manners, Manners::Fine | Manners::Moody) {
            for socket in self.state.connections.lock().unwrap().drain(..).filter_map(|of| of.upgrade()) {
                let _ = socket.shutdown(Shutdown::Both);
            }
        }
    }

    /// How many of each there were.
    pub(crate) fn faults(&self) -> BTreeMap<&'static str, u64> {
        self.state.faults.lock().unwrap().clone()
    }
}

async fn listen(listener: std::net::TcpListener, state: Arc<Front>, moody: bool) {
    let listener = TcpListener::from_std(listener).unwrap();
    while let Ok((socket, _)) = listener.accept().await {
        let socket = socket.into_std().unwrap();
        let _ = socket.set_nodelay(true);
        // By the other one it can be closed, and closed the hard way.
        let other = Arc::new(socket.try_clone().unwrap());
        if moody {
            let mut connections = state.connections.lock().unwrap();
            connections.retain(|connection| connection.strong_count() > 0);
            connections.push(Arc::downgrade(&other));
        }
        let state = Arc::clone(&state);
        tokio::spawn(async move {
            let socket = TokioIo::new(tokio::net::TcpStream::from_std(socket).unwrap());
            let answer = service_fn(|request| {
                let (state, other) = (Arc::clone(&state), Arc::clone(&other));
                async move { if moody { state.answer(request, other).await } else { state.call(request).await } }
            });
            let _ = Builder::new(TokioExecutor::new()).serve_connection(socket, answer).await;
        });
    }
}

type Answer = io::Result<Response<Body>>;

impl Front {
    /// To its end, also if nobody waits for it any more.
    async fn call(&self, request: http::Request<Incoming>) -> Answer {
        let service = self.service.clone();
        let done = tokio::spawn(async move { service.call(request.map(Body::from)).await });
        done.await?.map_err(|error| io::Error::other(format!("{error:?}")))
    }

    async fn answer(&self, request: http::Request<Incoming>, socket: Arc<TcpStream>) -> Answer {
        let changes = !matches!(*request.method(), Method::GET | Method::HEAD);
        let fault = self.roll();
        match fault {
            Fault::Status(status, code) => {
                let body = format!("<Error><Code>{code}</Code></Error>");
                return Response::builder().status(status).body(Body::from(body)).map_err(io::Error::other);
            }
            Fault::Hang => {
                // A change may have been made, and only its answer be lost.
                if changes && self.dice.lock().unwrap().bool() {
                    drop(self.call(request).await);
                }
                tokio::time::sleep(EVER).await;
                return Err(io::ErrorKind::TimedOut.into());
            }
            Fault::Reset => {
                if changes && self.dice.lock().unwrap().bool() {
                    drop(self.call(request).await);
                }
                return Err(reset(&socket));
            }
            _ => {}
        }
        let answer = self.call(request).await?;
        Ok(match fault {
            Fault::Late(delay) => {
                tokio::time::sleep(delay).await;
                answer
            }
            Fault::CutIn(left) | Fault::ResetIn(left) | Fault::StallIn(left) => {
                answer.map(|body| Body::http_body(Broken { body, left, fault, socket, stalled: None }))
            }
            _ => answer,
        })
    }

    /// What happens to the next request.
    fn roll(&self) -> Fault {
        let mut dice = self.dice.lock().unwrap();
        let bytes = dice.usize(1..400_000);
        let (name, fault) = match *self.manners.lock().unwrap() {
            Manners::Fine => return Fault::Fine,
            Manners::Silent => ("outage: no answer", Fault::Hang),
            Manners::Resets => ("outage: reset", Fault::Reset),
            Manners::Busy => ("outage: 503", Fault::Status(503, "SlowDown")),
            Manners::Moody if dice.u32(0..1000) >= OFTEN => return Fault::Fine,
            Manners::Moody => match dice.u32(0..20) {
                0..8 => ("late", Fault::Late(Duration::from_millis(dice.u64(20..400)))),
                8..10 => ("500", Fault::Status(500, "InternalError")),
                10..12 => ("503", Fault::Status(503, "SlowDown")),
                12 => ("429", Fault::Status(429, "TooManyRequests")),
                13..15 => ("reset", Fault::Reset),
                15 => ("no answer", Fault::Hang),
                16 => ("stalled body", Fault::StallIn(bytes)),
                17 => ("reset in the body", Fault::ResetIn(bytes)),
                _ => ("truncated body", Fault::CutIn(bytes)),
            },
        };
        *self.faults.lock().unwrap().entry(name).or_default() += 1;
        fault
    }
}

/// Makes the end of the connection a hard one.
fn reset(socket: &TcpStream) -> io::Error {
    let _ = rustix::net::sockopt::set_socket_linger(socket, Some(Duration::ZERO));
    io::ErrorKind::ConnectionReset.into()
}

/// A body that does not get to its end.
struct Broken {
    body: Body,
    left: usize,
    fault: Fault,
    socket: Arc<TcpStream>,
    stalled: Option<Pin<Box<tokio::time::Sleep>>>,
}

impl hyper::body::Body for Broken {
    type Data = Bytes;
    type Error = StdError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, StdError>>> {
        if self.left == 0 {
            if let Fault::StallIn(_) = self.fault {
                let stalled = self.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep(EVER)));
                if stalled.as_mut().poll(context).is_pending() {
                    return Poll::Pending;
                }
            }
            if let Fault::ResetIn(_) = self.fault {
                return Poll::Ready(Some(Err(reset(&self.socket).into())));
            }
            return Poll::Ready(Some(Err("the body ends here".into())));
        }
        let frame = Pin::new(&mut self.body).poll_frame(context);
        match frame {
            Poll::Ready(Some(Ok(frame))) => {
                let Ok(mut bytes) = frame.into_data() else { return Poll::Ready(None) };
                bytes.truncate(self.left);
                self.left -= bytes.len();
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
            Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err(error))),
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    }
}
