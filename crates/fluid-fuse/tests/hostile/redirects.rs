//! Redirects: they stay with their server, unless the administrator allows more.

use std::sync::Arc;

use fluid_fuse::remote::{self, Bucket, BucketConfig};
use fluid_fuse::store::StoreError;

use crate::store::{Store, keys};

fn web(store: &Store, hosts: &[&str]) -> Arc<dyn Bucket> {
    let redirects = hosts.iter().map(|host| host.parse().unwrap()).collect();
    let options = [("token".to_string(), "s3cr3t".to_string())];
    remote::open_with(
        &store.endpoint,
        &options.into(),
        &BucketConfig { redirects, ..BucketConfig::default() },
    )
    .unwrap()
}

const PAGE: &str = "<a href='a/'>a</a>";

fn to(location: &str) -> String {
    format!("Location: {location}\r\n")
}

#[test]
fn f13_a_redirect_stays_with_its_server() {
    let inner = Store::start(|asked| asked.answer("200 OK", "ETag: \"x\"\r\n", PAGE));
    for status in ["301 X", "302 X", "303 X", "307 X", "308 X"] {
        let there = inner.endpoint.clone();
        let store = Store::start(move |asked| asked.answer(status, &to(&format!("{there}/secret")), ""));
        let bucket = web(&store, &["elsewhere", "*.example.com"]);
        let listed = keys(&*bucket, "");
        assert!(
            matches!(&listed, Err(StoreError::Failed(text)) if text.contains("--allow-redirects")),
            "{listed:?}"
        );
        let found = bucket.head("file");
        assert!(matches!(&found, Err(StoreError::Failed(_))), "{found:?}");
        assert_eq!(inner.requests(), 0);
    }
    // The administrator may allow it; what we are known by stays here all the same.
    let there = inner.endpoint.clone();
    let store = Store::start(move |asked| asked.answer("302 Found", &to(&format!("{there}/data/")), ""));
    for hosts in [["127.0.0.1"], ["*"]] {
        assert_eq!(keys(&*web(&store, &hosts), "").unwrap(), ["a/"]);
    }
    assert!(store.heads().iter().all(|head| head.contains("s3cr3t")));
    assert!(inner.requests() > 0 && inner.heads().iter().all(|head| !head.contains("s3cr3t")));
}

#[test]
fn f13_redirects_of_one_server_are_followed_and_have_an_end() {
    let store = Store::start(|asked| match asked.is("GET / ") {
        true => asked.answer("302 Found", &to("index/?a=b#c"), ""),
        false => asked.answer("200 OK", "", PAGE),
    });
    assert_eq!(keys(&*web(&store, &[]), "").unwrap(), ["a/"]);
    assert!(store.heads()[1].starts_with("GET /index/?a=b HTTP/1.1\r\n"), "{:?}", store.heads());

    let turning = Store::start(|asked| asked.answer("302 Found", &to("/"), ""));
    assert!(matches!(keys(&*web(&turning, &[]), ""), Err(StoreError::Failed(_))));
    assert_eq!(turning.requests(), 11);

    for nowhere in ["", "file:///etc/passwd", "//", "http://", "http://user@127.0.0.1/", "gopher://x/"] {
        let store = Store::start(move |asked| asked.answer("302 Found", &to(nowhere), ""));
        let listed = keys(&*web(&store, &["*"]), "");
        assert!(listed.is_err(), "{nowhere:?} {listed:?}");
    }
}

#[test]
fn f13_other_nodes_of_hdfs_serve_the_same_file_alone() {
    let node = Store::start(|asked| asked.answer("200 OK", "", "0123456789"));
    for (path, is_followed) in
        [("/webhdfs/v1/data/file", true), ("/secret", false), ("/webhdfs/v1/other", false)]
    {
        let there = format!("{}{path}?op=OPEN&offset=0", node.endpoint);
        let names = Store::start(move |asked| match asked.is("op=OPEN") {
            true => asked.answer("307 X", &to(&there), ""),
            false => {
                let kind = if asked.is("/data/file") { "FILE" } else { "DIRECTORY" };
                let status = format!(
                    r#"{{"FileStatus":{{"length":10,"modificationTime":1000,"pathSuffix":"","type":"{kind}"}}}}"#
                );
                asked.answer("200 OK", "Content-Type: application/json\r\n", &status)
            }
        });
        let before = node.requests();
        let url = names.endpoint.replace("http://", "webhdfs://") + "/data";
        let bucket = remote::open(&url, &[].into()).unwrap();
        let version = bucket.head("file").unwrap();
        let mut text = String::new();
        let read = bucket.get(&version, 0..10).map(|mut body| body.read_to_string(&mut text));
        assert_eq!(
            (read.is_ok(), node.requests() > before),
            (is_followed, is_followed),
            "{path} {:?}",
            read.err()
        );
        assert_eq!(text.is_empty(), !is_followed);
    }
}
