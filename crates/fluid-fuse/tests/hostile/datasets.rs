//! Datasets whose authors mean harm to the Pods that use them.

use std::fs;

use fluid_sidecar_layout::contract::env;

use crate::store::{Store, entry};
use crate::support::place::{Place, fails, place};

fn json(url: &str, options: &str) -> String {
    format!(r#"{{"mounts":[{{"mountPoint":"{url}","name":"data","options":{{{options}}}}}]}}"#)
}

/// The refusal, by the variable and by the file.
fn refused(place: &Place, config: &str, arguments: &[&str]) -> String {
    let file = place.root.path().join("config.json");
    fs::write(&file, config).unwrap();
    let by =
        |name: &str, value: &std::ffi::OsStr| fails(place.program("mount").env(name, value).args(arguments));
    let refusal = by(env::CONFIG_JSON, config.as_ref());
    assert_eq!(refusal, by(env::CONFIG, file.as_os_str()));
    refusal
}

#[test]
fn f9_a_dataset_reads_no_file_of_the_sidecar() {
    let Some(place) = place() else { return };
    let token = place.root.path().join("token");
    fs::write(&token, "s3cr3t").unwrap();
    let token = token.to_str().unwrap();
    let store = Store::start(|asked| asked.answer("200 OK", "", ""));
    for name in [
        "token_file",
        "password_file",
        "user_file",
        "endpoint_file",
        "region_file",
        "manifest",
        "manifest_file",
        "credentials_dir",
        "credential_path",
        "oidc_token_file",
        "session_token_file",
        "delegation_file",
    ] {
        let refusal = refused(&place, &json(&store.endpoint, &format!(r#""{name}":"{token}""#)), &[]);
        assert!(refusal.contains("Secrets") && !refusal.contains("s3cr3t"), "{name}: {refusal}");
    }
    for path in ["/dev/zero", "/proc/self/environ", "/etc/fluid/secrets/../config/x", "/etc/fluid/secrets"] {
        let refusal = refused(&place, &json(&store.endpoint, &format!(r#""manifest":"{path}""#)), &[]);
        assert!(refusal.contains("Secrets"), "{path}: {refusal}");
    }
    assert_eq!(store.requests(), 0);
}

#[test]
fn f9_a_value_that_begins_with_a_slash_is_no_file() {
    let Some(mut place) = place() else { return };
    let token = place.root.path().join("token");
    fs::write(&token, "s3cr3t").unwrap();
    let store = Store::start(|asked| asked.answer("200 OK", "", "<a href='a/'>a</a>"));
    let config = json(&store.endpoint, &format!(r#""token":"{}""#, token.display()));
    let mut program = place.program("mount");
    crate::support::spawn(&mut place, program.env(env::CONFIG_JSON, config));
    assert_eq!(fs::read_dir(place.mountpoint()).unwrap().count(), 1);
    assert!(store.requests() > 0 && store.heads().iter().all(|head| !head.contains("s3cr3t")));
}

#[test]
fn f9_a_dataset_names_only_directories_that_it_may() {
    let Some(mut place) = place() else { return };
    fs::write(place.source().join("file"), "x").unwrap();
    for directory in
        ["/", "/proc", "/proc/1/root", "/sys", "/dev", "/etc", "/root", "/run/secrets", "/var/run/secrets"]
    {
        for scheme in ["file", "local"] {
            let refusal = refused(&place, &json(&format!("{scheme}://{directory}"), ""), &[]);
            assert!(refusal.contains("must not name"), "{directory}: {refusal}");
        }
    }
    let (url, config) = (place.url(), |url: &str| json(url, ""));
    assert!(refused(&place, &config(&format!("{url}/../../etc")), &[]).contains("plain path"));
    std::os::unix::fs::symlink("/etc", place.source().join("etc")).unwrap();
    assert!(refused(&place, &config(&format!("{url}/etc")), &[]).contains("is a link"));
    // What has the cache, or the mount itself.
    let above = format!("file://{}", place.root.path().display());
    assert!(refused(&place, &config(&above), &[]).contains("in it"));
    // Listed are others, or none.
    for allowed in ["/srv", "none"] {
        assert!(
            refused(&place, &config(&url), &["--allow-directory", allowed]).contains("--allow-directory")
        );
    }
    // A plain one may be named, and one that is listed.
    let listed = place.root.path().to_path_buf();
    for arguments in [
        vec![],
        vec!["--allow-directory".as_ref(), "/srv".as_ref(), "--allow-directory".as_ref(), listed.as_os_str()],
    ] {
        let mut program = place.program("mount");
        place.spawn(program.env(env::CONFIG_JSON, config(&url)).args(arguments));
        assert_eq!(fs::read_to_string(place.mountpoint().join("file")).unwrap(), "x");
        place.signal(rustix::process::Signal::TERM);
        assert!(place.ended().success());
    }
}

#[test]
fn f9_flags_and_variables_are_the_administrators() {
    let Some(mut place) = place() else { return };
    let token = place.root.path().join("token");
    fs::write(&token, "s3cr3t").unwrap();
    let store = Store::start(|asked| match asked.is_listing() {
        true => asked.list(&entry("file", "1", "e")),
        false => asked.answer("200 OK", "", "<a href='a/'>a</a>"),
    });
    let mut program = place.program("mount");
    program.env(env::SOURCE, &store.endpoint).env(env::OPTION, format!("token_file={}", token.display()));
    crate::support::spawn(&mut place, &mut program);
    assert_eq!(fs::read_dir(place.mountpoint()).unwrap().count(), 1);
    assert!(store.heads().iter().any(|head| head.contains("s3cr3t")));
}
