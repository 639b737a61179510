//! `s3s-fs`, an S3 server of others that checks signatures.

use std::path::Path;
use std::thread;

use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use s3s::auth::SimpleAuth;
use s3s::service::S3ServiceBuilder;
use test_store::{KEY, SECRET};
use tokio::net::TcpListener;

/// Serves the directories of a directory as buckets; the endpoint.
pub(crate) fn serve(root: &Path) -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let root = root.to_owned();
    thread::spawn(move || serve_forever(&root, listener));
    endpoint
}

/// Serves the directories of a directory as buckets.
pub(crate) fn serve_forever(root: &Path, listener: std::net::TcpListener) {
    let mut builder = S3ServiceBuilder::new(s3s_fs::FileSystem::new(root).unwrap());
    builder.set_auth(SimpleAuth::from_single(KEY, SECRET));
    let service = builder.build();
    listener.set_nonblocking(true).unwrap();
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let listener = TcpListener::from_std(listener).unwrap();
        while let Ok((socket, _)) = listener.accept().await {
            let service = service.clone();
            tokio::spawn(async move {
                let http = Builder::new(TokioExecutor::new());
                let _ = http.serve_connection(TokioIo::new(socket), service).await;
            });
        }
    });
}
