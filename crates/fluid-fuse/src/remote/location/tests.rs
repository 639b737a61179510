use super::*;
use crate::remote::options::{Meaning, plain};

fn location(url: &str, options: &[(&str, &str)]) -> Result<StoreLocation, String> {
    let options = options.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
    let environment = |name: &str| match name {
        "OSS_REGION" => Some("cn-beijing".to_string()),
        "AZURE_STORAGE_ACCOUNT" => Some("account".to_string()),
        _ => None,
    };
    StoreLocation::resolve(url, &options, Trust::Administrator, environment)
        .map_err(|error| format!("{error:#}"))
}

fn settings(url: &str, options: &[(&str, &str)]) -> Vec<(String, String)> {
    location(url, options).map(|location| location.settings.into_iter().collect()).unwrap()
}

fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    expected.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect()
}

#[test]
fn as_fluids_runtimes_write_it() {
    let jindo = [
        ("fs.oss.endpoint", "oss-cn-hangzhou-internal.aliyuncs.com"),
        ("fs.oss.accessKeyId", "id"),
        ("fs.oss.accessKeySecret", "secret"),
        // Of another mount of the same Dataset.
        ("fs.s3a.access.key", "other"),
    ];
    let expected = [
        ("access_key_id", "id"),
        ("access_key_secret", "secret"),
        ("addressing_style", "virtual"),
        ("bucket", "bucket"),
        ("endpoint", "https://oss-cn-hangzhou-internal.aliyuncs.com"),
        ("root", "/a b/c"),
    ];
    let found = settings("oss://bucket/a b/c/", &jindo);
    assert_eq!(found, pairs(&expected));
    assert_eq!(settings("oss://bucket/a%20b/c", &jindo), pairs(&expected));

    let alluxio = [
        ("alluxio.underfs.s3.endpoint", "minio:9000"),
        ("alluxio.underfs.s3.disable.dns.buckets", "true"),
        ("alluxio.underfs.s3.secure.http.enabled", "false"),
        ("aws.accessKeyId", "id"),
        ("aws.secretKey", "secret"),
    ];
    let expected = [
        ("access_key_id", "id"),
        ("bucket", "b"),
        ("checksum_algorithm", "crc32c"),
        ("enable_virtual_host_style", "false"),
        ("endpoint", "http://minio:9000"),
        ("region", "us-east-1"),
        ("root", "/"),
        ("secret_access_key", "secret"),
    ];
    assert_eq!(settings("s3://b", &alluxio), pairs(&expected));

    let expected = [
        ("access_key_id", "id"),
        ("bucket", "b"),
        ("checksum_algorithm", "crc32c"),
        ("enable_virtual_host_style", "true"),
        ("endpoint", "https://s3.eu-west-1.amazonaws.com"),
        ("region", "eu-west-1"),
        ("root", "/"),
        ("skip_signature", "true"),
    ];
    let s3a =
        [("AWS_ACCESS_KEY_ID", "id"), ("url", "https://s3.eu-west-1.amazonaws.com/"), ("anonymous", "True")];
    assert_eq!(settings("s3a://b/", &s3a), pairs(&expected));
}

#[test]
fn endpoints_that_nobody_wrote() {
    let endpoint = |url: &str| {
        let location = location(url, &[]).unwrap();
        (location.settings.get("endpoint").cloned().unwrap_or_default(), location.region.unwrap_or_default())
    };
    let pair = |endpoint: &str, region: &str| (endpoint.to_string(), region.to_string());
    assert_eq!(endpoint("oss://b/p"), pair("https://oss-cn-beijing.aliyuncs.com", "cn-beijing"));
    assert_eq!(
        endpoint("oss://b.oss-cn-beijing-internal.aliyuncs.com/p").0,
        "https://oss-cn-beijing-internal.aliyuncs.com"
    );
    assert_eq!(endpoint("az://container/p").0, "https://account.blob.core.windows.net");
    assert_eq!(endpoint("webhdfs://name:9870/p").0, "http://name:9870");
    assert_eq!(endpoint("https://host:1/p").0, "https://host:1");
}

#[test]
fn a_bucket_may_be_in_another_region() {
    let moved = |options: &[(&str, &str)]| {
        let mut location = location("s3://b", options).unwrap();
        location.move_to("eu-west-1");
        let setting = |name: &str| location.settings.get(name).cloned().unwrap_or_default();
        assert_eq!(setting("region"), "eu-west-1");
        setting("endpoint")
    };
    assert_eq!(moved(&[]), "");
    for (before, after) in [
        ("https://s3.us-east-2.amazonaws.com", "https://s3.eu-west-1.amazonaws.com"),
        ("https://s3.dualstack.us-east-2.amazonaws.com", "https://s3.dualstack.eu-west-1.amazonaws.com"),
        ("https://s3.amazonaws.com", "https://s3.amazonaws.com"),
        ("http://minio.us-east-2.example:9000", "http://minio.us-east-2.example:9000"),
    ] {
        assert_eq!(moved(&[("endpoint", before), ("region", "us-east-2")]), after);
    }
}

#[test]
fn what_cannot_be_meant_is_refused_in_words() {
    let refused = |url: &str, options: &[(&str, &str)]| location(url, options).err().unwrap_or_default();
    let near = refused("oss://b", &[("fs.oss.accesKeyId", "secret")]);
    assert!(near.contains("did you mean \"fs.oss.accessKeyId\"?") && !near.contains("secret"), "{near}");
    assert!(refused("oss://id:secret@b/p", &[]).contains("as options"));
    assert!(!refused("oss://id:secret@b/p", &[]).contains("secret"));
    assert!(refused("obs://b", &[]).contains("\"endpoint\""));
    assert!(refused("ftp://b", &[]).contains("s3, s3a, oss"));
    assert!(refused("s3://b/a//b", &[]).contains("empty part"));
    assert!(refused("s3://b/a/%2Fb", &[]).contains("empty part"));
    assert!(refused("s3://b/%ff", &[]).contains("UTF-8"));
    assert!(refused("s3://b", &[("path_style", "maybe")]).contains("true or false"));
    assert!(refused("s3://b", &[("stall_timeout", "0s")]).contains("longer"));
    assert!(refused("s3://b", &[("secret_key_file", "/none")]).contains("/none"));
    assert!(location("s3://b", &[("unknown", "x")]).is_ok());
}

#[test]
fn f9_a_dataset_names_no_file_and_sends_no_token_away() {
    let of = |trust, url: &str, options: &[(&str, &str)]| {
        let options = options.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        StoreLocation::resolve(url, &options, trust, |_| None).map_err(|error| format!("{error:#}"))
    };
    let dataset =
        |url: &str, options: &[(&str, &str)]| of(Trust::Dataset, url, options).err().unwrap_or_default();
    let file = tempfile::NamedTempFile::new().unwrap();
    let path = file.path().to_str().unwrap();
    // Every option, by every name of it.
    for meaning in Meaning::ALL {
        for name in meaning.names() {
            let name = format!("{name}_file");
            let error = dataset("http://host/a", &[(&name, path)]);
            assert!(error.contains("but those of its Secrets") || error.is_empty(), "{name}: {error}");
            let store = Scheme::ALL.iter().find(|scheme| {
                facts(**scheme).option_prefixes.iter().any(|prefix| plain(&name).starts_with(prefix))
            });
            assert_eq!(error.is_empty(), store.is_some(), "{name}: {error}");
        }
    }
    for path in [path, "/proc/self/environ", "/etc/fluid/secrets/../config/config.json", "relative"] {
        for name in ["manifest", "credentials_dir", "credential_path", "oidc_token_file"] {
            assert!(
                dataset("http://host/a", &[(name, path)]).contains("but those of its Secrets"),
                "{name} {path}"
            );
        }
        for url in ["s3://b", "gs://b"] {
            assert!(
                dataset(url, &[("google_application_credentials", path)]).contains("Secrets"),
                "{url} {path}"
            );
        }
    }
    // A key may begin with a slash. It is no file then.
    let key = of(Trust::Dataset, "http://host/a", &[("token", path)]).unwrap();
    assert_eq!(key.settings.get("token").map(String::as_str), Some(path));
    assert_eq!(dataset("http://host/a", &[("manifest", "https://host/list")]), "");
    assert!(dataset("http://host/a", &[("manifest", "file:///etc/passwd")]).contains("Secrets"));

    for server in
        ["http://attacker", "attacker.aliyuncs.com.attacker.net", "http://sts.aliyuncs.com@attacker/"]
    {
        let options = [("endpoint", "oss-cn-x.aliyuncs.com"), ("sts_endpoint", server)];
        assert!(dataset("oss://b", &options).contains("own token"), "{server}");
    }
    let sts = [("endpoint", "e"), ("sts_endpoint", "sts-vpc.cn-hangzhou.aliyuncs.com")];
    assert_eq!(dataset("oss://b", &sts), "");
    for (url, own) in [("gs://b", "storage.googleapis.com"), ("az://c", "a.blob.core.windows.net")] {
        let account = ("account_name", "a");
        assert!(dataset(url, &[("endpoint", "http://attacker"), account]).contains("own token"), "{url}");
        assert_eq!(dataset(url, &[("endpoint", own), account]), "");
        assert_eq!(dataset(url, &[("endpoint", "http://mine"), account, ("anonymous", "true")]), "");
        assert!(of(Trust::Administrator, url, &[("endpoint", "http://mine"), account]).is_ok());
        let unchecked = ("insecure_skip_tls_verify", "true");
        assert!(dataset(url, &[("endpoint", own), account, unchecked]).contains("own token"), "{url}");
        assert_eq!(dataset(url, &[("endpoint", own), account, unchecked, ("anonymous", "true")]), "");
    }
}
