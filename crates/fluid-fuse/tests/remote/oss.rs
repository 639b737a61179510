//! Signatures for OSS, compared with those of Alibaba Cloud's own SDK for Python.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fluid_fuse::remote::Version;
use fluid_fuse::store::StoreError;

use super::faults::{Server, say};
use super::skip::skip;
use super::{WAYS, open, read};

/// Signs each request again, as a JSON array of `[method, target, [[name, value]…]]`, and compares.
const CHECK: &str = r#"
import datetime, json, sys
from urllib.parse import quote, unquote, urlsplit, parse_qs
from alibabacloud_oss_v2 import credentials
from alibabacloud_oss_v2.signer.v4 import SignerV4
from alibabacloud_oss_v2.types import HttpRequest, SigningContext
for method, target, headers in json.load(sys.stdin):
    headers, parts = dict(headers), urlsplit("http://" + dict(headers)["host"] + target)
    bucket, _, key = unquote(parts.path[1:]).partition("/")
    query = parse_qs(parts.query, keep_blank_values=True)
    signed = "x-oss-signature" in query
    time = query["x-oss-date"][0] if signed else headers["x-oss-date"]
    time = datetime.datetime.strptime(time + "+0000", "%Y%m%dT%H%M%SZ%z")
    theirs = query["x-oss-signature"][0] if signed else headers["authorization"].split("Signature=")[1]
    more = query.get("x-oss-additional-headers", [""])[0] if signed else headers["authorization"].partition("AdditionalHeaders=")[2].partition(",")[0]
    auth = headers.pop("authorization", None)
    # What the SDK is given, it wrote itself: with each "/" encoded.
    kept = "&".join("=".join(quote(unquote(part), safe="") for part in pair.split("=", 1))
        for pair in parts.query.split("&") if pair and not pair.startswith("x-oss-signature="))
    plain = parts._replace(query=kept).geturl()
    context = SigningContext(bucket=bucket, key=key or None, region="cn-hangzhou", product="oss", signing_time=time,
        credentials=credentials.Credentials("AKEY", "SKEY"), request=HttpRequest(method, plain, headers=headers),
        additional_headers=set(filter(None, more.split(";"))))
    context.auth_method_query = signed
    if signed:
        context.expiration_time = time + datetime.timedelta(seconds=int(query["x-oss-expires"][0]))
    SignerV4().sign(context)
    ours = context.request.url.split("x-oss-signature=")[1] if signed else context.request.headers["Authorization"].split("Signature=")[1]
    print("same" if ours == theirs else f"differs: {method} {target} {headers} {auth}: {ours}")
"#;

/// A Python that has the SDK.
fn python() -> Option<PathBuf> {
    let venv = Path::new(env!("CARGO_TARGET_TMPDIR")).join("oss-venv");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/venv.sh");
    let made = Command::new(script).arg(&venv).arg("alibabacloud-oss-v2>=1.2").output().unwrap();
    made.status.success().then(|| venv.join("bin/python"))
}

#[test]
fn signatures_are_those_of_the_sdk() {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let heard = asked.clone();
    let server = Server::start(move |_, head, socket| {
        heard.lock().unwrap().push(head.to_string());
        say(socket, "HTTP/1.1 500 X\r\nContent-Length: 0\r\n\r\n")
    });
    let options = [
        ("fs.oss.endpoint", &*server.endpoint),
        ("fs.oss.accessKeyId", "AKEY"),
        ("fs.oss.accessKeySecret", "SKEY"),
        ("region", "oss-cn-hangzhou"),
    ];
    for way in WAYS {
        let bucket = open("oss://data/a b", &[&options[..], &[("http_client", way)]].concat());
        for key in ["file", "dir/ä+%20 &=.txt"] {
            let version = Version {
                key: key.to_string(),
                size: 9,
                etag: Some("\"e\"".to_string()),
                modified: UNIX_EPOCH,
            };
            assert!(matches!(bucket.head(key), Err(StoreError::Unavailable(_))));
            assert!(matches!(read(&*bucket, &version, 0..9), Err(StoreError::Unavailable(_))));
            assert!(matches!(bucket.delete(key), Err(StoreError::Unavailable(_))));
        }
        assert!(matches!(super::list(&*bucket, "dir x/"), Err(StoreError::Unavailable(_))));
    }
    let requests: Vec<_> = asked.lock().unwrap().iter().map(|head| parse(head)).collect();
    assert_eq!(requests.len(), 14);

    let Some(python) = python() else {
        skip("alibabacloud-oss-v2 cannot be installed, so no signature was compared");
        return;
    };
    let script = Path::new(env!("CARGO_TARGET_TMPDIR")).join("oss.py");
    fs::write(&script, CHECK).unwrap();
    let mut check =
        Command::new(python).arg(&script).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    check.stdin.take().unwrap().write_all(serde_json::to_string(&requests).unwrap().as_bytes()).unwrap();
    let output = String::from_utf8(check.wait_with_output().unwrap().stdout).unwrap();
    assert_eq!(output.lines().filter(|line| *line == "same").count(), requests.len(), "{output}");
}

type Request = (String, String, Vec<(String, String)>);

fn parse(head: &str) -> Request {
    let mut lines = head.lines();
    let mut first = lines.next().unwrap().split(' ').map(str::to_string);
    let headers = lines.filter_map(|line| line.split_once(": "));
    let headers = headers.map(|(name, value)| (name.to_ascii_lowercase(), value.to_string()));
    (first.next().unwrap(), first.next().unwrap(), headers.collect())
}

/// The response of the security token service.
fn assumed(access_key: &str, lifetime: Duration) -> String {
    let expiration = humantime::format_rfc3339_millis(SystemTime::now() + lifetime);
    let body = format!(
        r#"{{"Credentials": {{"AccessKeyId": "{access_key}", "AccessKeySecret": "secret", "SecurityToken": "of-{access_key}", "Expiration": "{expiration}"}}}}"#
    );
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

#[test]
fn the_pods_token_is_exchanged_for_credentials_of_its_role_and_anew_when_they_end() {
    for way in WAYS {
        let place = tempfile::tempdir().unwrap();
        let token = place.path().join("token");
        fs::write(&token, "first\n").unwrap();
        let exchanged = Arc::new(Mutex::new(Vec::new()));
        let heard = exchanged.clone();
        let server = Server::start(move |_, head, socket| {
            let (_, target, headers) = parse(head);
            if target.starts_with("/?Action=AssumeRoleWithOIDC&") {
                let value = |name: &str| {
                    let pair = target.split(['?', '&']).find_map(|pair| pair.strip_prefix(name));
                    pair.unwrap().to_string()
                };
                assert_eq!((&*value("RoleArn="), &*value("OIDCProviderArn=")), ("role", "provider"));
                heard.lock().unwrap().push(value("OIDCToken="));
                // The first credentials expire in three seconds, after the margin of two minutes.
                let lifetime = if heard.lock().unwrap().len() == 1 { 123 } else { 3600 };
                return say(socket, &assumed(&value("OIDCToken="), Duration::from_secs(lifetime)));
            }
            let all = format!("{target} {headers:?}");
            let newest = heard.lock().unwrap().last().unwrap().clone();
            assert!(all.contains(&format!("of-{newest}")), "{all}");
            say(
                socket,
                "HTTP/1.1 206 Partial Content\r\nContent-Length: 2\r\nContent-Range: bytes 0-1/2\r\nETag: \"e\"\r\n\r\nok",
            )
        });
        let options = [
            ("endpoint", &*server.endpoint),
            ("region", "cn-hangzhou"),
            ("role_arn", "role"),
            ("oidc_provider_arn", "provider"),
            ("oidc_token_file", token.to_str().unwrap()),
            ("sts_endpoint", &*server.endpoint),
            ("http_client", way),
        ];
        let bucket = open("oss://data", &options);
        let version = |key: &str| Version {
            key: key.to_string(),
            size: 2,
            etag: Some("\"e\"".to_string()),
            modified: UNIX_EPOCH,
        };
        assert_eq!(read(&*bucket, &version("before"), 0..2).unwrap(), b"ok", "{way}");
        fs::write(&token, "second\n").unwrap();
        thread::sleep(Duration::from_millis(3100));
        for _ in 0..2 {
            assert_eq!(read(&*bucket, &version("after"), 0..2).unwrap(), b"ok", "{way}");
        }
        assert_eq!(*exchanged.lock().unwrap(), ["first", "second"], "{way}");
    }
}
