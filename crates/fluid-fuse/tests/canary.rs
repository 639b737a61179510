//! Secrets that anybody would recognise go through every output of the program: its log at `debug`, errors, help, metrics,
//! the termination message, what it tells of its mount. The store tells them back, as some do in their errors.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

#[allow(dead_code, reason = "what other tests need")]
#[path = "mount/place.rs"]
mod place;

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};

use fluid_sidecar_layout::contract::env;
use place::{eventually, place};
use test_store::Server;

const CANARY: &str = "CANARY2f9a81";
/// `user:` and the canary, and the canary with `:`, as they are sent.
const ENCODED: &[&str] = &[CANARY, "dXNlcjpDQU5BUlkyZjlhODE", "Q0FOQVJZMmY5YTgx"];

fn assert_clean(what: &str, said: &str) {
    for secret in ENCODED {
        assert!(!said.contains(secret), "{what}: {said}");
    }
}

/// A store that refuses with `status`, and says in its answer, its headers and its reason what it was asked with.
fn telltale(status: u16) -> Server {
    Server::start(move |request, connection| {
        let head = request.head.replace(['\r', '\n'], " ").replace('<', "&lt;");
        let body =
            format!("<?xml version=\"1.0\"?><Error><Code>Refused</Code><Message>{head}</Message></Error>");
        let headers = format!("X-Asked: {head}\r\nConnection: close\r\n");
        connection.answer(request, &format!("{status} Refused"), &headers, &body);
        false
    })
}

/// The program, telling as much as it can, with nothing of this process' environment.
fn program(command: &str) -> Command {
    let mut program = Command::new(env!("CARGO_BIN_EXE_fluid-fuse"));
    program.arg(command).env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
    program.env(env::LOG, "trace").env("NO_PROXY", "*").stdin(Stdio::null());
    program
}

fn said(program: &mut Command) -> String {
    let output = program.output().unwrap();
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}

/// Every kind of store, with the secret in the options that are made for it.
#[test]
fn no_store_is_told_of_with_a_secret() {
    // `bench` asks the store for the file that it finds in the directory.
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("file"), "content").unwrap();
    for status in [403, 500] {
        for (source, options) in [
            ("s3://bucket/path", "access_key_id=AK secret_access_key=CANARY session_token=CANARY region=r"),
            ("oss://bucket/path", "access_key_id=AK access_key_secret=CANARY security_token=CANARY region=r"),
            ("az://bucket/path", "account_name=account account_key=Q0FOQVJZMmY5YTgx"),
            ("az://bucket/path", "account_name=account sas_token=sv=2024&sig=CANARY"),
            ("cos://bucket/path", "secret_id=AK secret_key=CANARY"),
            ("obs://bucket/path", "access_key_id=AK secret_access_key=CANARY"),
            ("tos://bucket/path", "access_key_id=AK secret_access_key=CANARY region=r"),
            ("http://ADDRESS/path", "user=user password=CANARY"),
            ("http://ADDRESS/path", "token=CANARY"),
            ("webhdfs://ADDRESS/path", "token=CANARY"),
        ] {
            let store = telltale(status);
            let address = store.address().to_string();
            let options = options.replace("CANARY", CANARY);
            let mut bench = program("bench");
            bench.arg("--source").arg(source.replace("ADDRESS", &address));
            bench.arg("--mountpoint").arg(directory.path());
            let waits = "connect_timeout=300ms first_byte_timeout=300ms stall_timeout=300ms path_style=true https=false";
            let endpoint = match source.contains("ADDRESS") {
                true => String::new(),
                false => format!("endpoint=http://{address} {waits}"),
            };
            bench.env(env::OPTION, format!("{options} {endpoint}").trim());
            let said = said(&mut bench);
            let of = format!("{status} {source} {options}");
            assert_clean(&of, &said);
            // The bucket of others is in the name of the host, which nobody here knows.
            let hosted = ["cos:", "obs:", "tos:"].iter().any(|scheme| source.starts_with(scheme));
            assert!(hosted || store.requests() > 0, "nobody was asked: {of}: {said}");
        }
    }
}

/// What cannot be read is told without its value, wherever it stands.
#[test]
fn no_mistake_is_told_with_a_secret() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("config.json");
    let with = |text: &str| text.replace("CANARY", CANARY);
    let mut refused = 0;
    for command in ["mount", "bench"] {
        for source in [
            "s3://key:CANARY@bucket/path",
            "https://user:CANARY@127.0.0.1:1/path?token=CANARY#CANARY",
            "ftp://user:CANARY@host",
            "s3://bucket?X-Amz-Signature=CANARY",
            "/a=https://user:CANARY@host /a=https://user:CANARY@host",
        ] {
            for option in [
                "region=r",
                "secret_acces_key=CANARY",
                "secret_access_key_file=/none/CANARY_no",
                "=CANARY",
                "a=b=CANARY",
            ] {
                let mut program = program(command);
                program.env(env::SOURCE, with(source)).env(env::OPTION, with(option));
                // The name of a file is no secret.
                let said = said(&mut program).replace(&with("CANARY_no"), "");
                assert_clean(&format!("{command} {source} {option}"), &said);
                refused += 1;
            }
        }
        for json in [
            r#"{"mounts": [{"mountPoint": "s3://key:CANARY@bucket", "options": {"secret_access_key": "CANARY"}}]}"#,
            r#"{"mounts": [{"mountPoint": "s3://bucket", "options": {"secret_access_key": {"a": "CANARY"}}}]}"#,
            r#"{"mounts": [{"mountPoint": "s3://bucket", "options": {"secret_access_key": "CANARY"}}], "x": CANARY"#,
            r#"{"mounts": "CANARY"}"#,
            r#"CANARY"#,
        ] {
            fs::write(&file, with(json)).unwrap();
            let (mut by_file, mut by_variable, mut by_argument) =
                (program(command), program(command), program(command));
            by_file.env(env::CONFIG, &file);
            by_variable.env(env::CONFIG_JSON, with(json));
            by_argument.arg("--config-json").arg(with(json));
            for program in [&mut by_file, &mut by_variable, &mut by_argument] {
                assert_clean(&format!("{command} {json}"), &said(program));
                refused += 1;
            }
        }
        for arguments in [
            &["--option", "secret_access_key=CANARY", "--source", "s3://bucket"][..],
            &["-o", "token=CANARY", "--source", "https://127.0.0.1:1"],
            &["--help"],
            &["-h"],
        ] {
            let mut program = program(command);
            program.args(arguments.iter().map(|argument| with(argument)));
            program.env(env::OPTION, with("secret_access_key=CANARY"));
            program.env(env::SOURCE, with("https://user:CANARY@127.0.0.1:1"));
            assert_clean(&format!("{command} {arguments:?}"), &said(&mut program));
            refused += 1;
        }
    }
    assert!(refused > 80, "{refused}");
}

/// In a container the last words of the program are what `kubectl describe pod` shows.
#[test]
fn the_termination_message_has_no_secret() {
    // A container's /dev, which it has alone.
    const CONTAINER: &str = "mount -t tmpfs tmpfs /dev && mknod /dev/null c 1 3 && mknod /dev/fuse c 10 229 && \
                             mknod /dev/urandom c 1 9 && : >/dev/termination-log && { timeout 5 \"$@\"; \
                             echo; echo TERMINATION; cat /dev/termination-log; }";
    let Some(place) = place() else { return };
    let store = telltale(403);
    let address = store.address().to_string();
    let mut container = Command::new("unshare");
    container.args(["--mount", "sh", "-c", CONTAINER, "sh", env!("CARGO_BIN_EXE_fluid-fuse"), "mount"]);
    container.env(env::MOUNTPOINT, place.mountpoint()).env(env::SOURCE, "s3://bucket").env(env::LOG, "trace");
    container.env(
        env::OPTION,
        format!("access_key_id=AK secret_access_key={CANARY} sas_token={CANARY} region=r endpoint=http://{address}"),
    );
    let said = said(&mut container);
    let (_, message) = said.split_once("TERMINATION\n").unwrap_or_default();
    assert!(!message.trim().is_empty(), "{said}");
    assert_clean("termination", &said);
}

/// A mount that serves, its metrics, and those that look from outside.
#[test]
fn a_mount_tells_no_secret() {
    let Some(mut place) = place() else { return };
    fs::write(place.source().join("file"), "content").unwrap();
    let store = telltale(500);
    let address = store.address().to_string();
    let socket = place.root.path().join("metrics");
    let log = place.root.path().join("log");
    let mut mount = place.program("mount");
    mount.args(["--metrics", &format!("unix:{}", socket.display())]).stderr(fs::File::create(&log).unwrap());
    mount.env(env::LOG, "trace").env("NO_PROXY", "*").args(["--io-timeout", "1s"]);
    mount.env(env::SOURCE, format!("/here={} /web=http://{address}/path", place.url()));
    mount.env(env::OPTION, format!("user=user password={CANARY}"));
    place.spawn(&mut mount);
    let read = fs::read_to_string(place.mountpoint().join("here/file"));
    assert_eq!(read.unwrap(), "content");
    assert!(
        fs::read_dir(place.mountpoint().join("web"))
            .and_then(|entries| entries.collect::<Result<Vec<_>, _>>())
            .is_err()
    );
    let metrics = eventually(|| metrics(&socket));
    assert!(metrics.contains(&address), "{metrics}");
    assert_clean("metrics", &metrics);
    for command in ["check", "wait"] {
        assert_clean(command, &said(&mut place.program(command)));
    }
    assert_clean("mountinfo", &fs::read_to_string("/proc/self/mountinfo").unwrap());
    let log = fs::read_to_string(&log).unwrap();
    assert!(log.contains(&address), "{log}");
    assert_clean("log", &log);
}

fn metrics(socket: &Path) -> Option<String> {
    let mut stream = UnixStream::connect(socket).ok()?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    Some(text)
}
