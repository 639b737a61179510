//! The page for a review: `html/*.yaml` has a Pod and the answer for it, `html/*.html` the page;
//! `UPDATE_EXPECT=1 cargo test -p kubectl-fluid-sidecar --test html` writes that anew.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use tool::answer::Answer;
use tool::html::Page;
use tool::{input, yaml};

fn page(pod: Value, answer: Value) -> String {
    let mut page = Page::default();
    let answer: Answer = serde_json::from_value(answer).unwrap();
    page.add(&input::request(pod, None, "CREATE").unwrap(), &answer).unwrap();
    page.finish()
}

#[test]
fn pages_are_as_they_were() {
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/html")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "html") {
            continue;
        }
        let mut case = yaml::read_single(&path).unwrap();
        let found = page(case["pod"].take(), case["answer"].take());
        let expected = path.with_extension("html");
        if std::env::var_os("UPDATE_EXPECT").is_some() {
            fs::write(&expected, &found).unwrap();
        }
        assert_eq!(fs::read_to_string(&expected).unwrap(), found, "{}", path.display());
        names.insert(path.file_stem().unwrap().to_str().unwrap().to_string());
    }
    assert_eq!(names, ["injected", "rejected", "untouched"].map(String::from).into());
}

/// A Pod and an answer with a text wherever somebody else decides about the text.
fn with(text: &str) -> String {
    let note = json!({"destination": text, "sidecars": [{"container": text, "dataset": text}],
        "claims": [{"volume": text, "persistentVolumeClaim": {"claimName": text}}]});
    let container = json!({"name": text, "image": text, "volumeMounts": [{"name": text, "mountPath": text}],
        "command": [text], "env": [{"name": text, "value": "/mnt"}]});
    let before = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": text, "namespace": text},
        "spec": {"containers": [container], "volumes": [{"name": text, "persistentVolumeClaim": {"claimName": text}}]}});
    let mut after = before.clone();
    after["metadata"]["annotations"] = json!({"fluid-sidecar-policy/injected": note.to_string(), text: text});
    after["spec"]["volumes"] =
        json!([{"name": text, "hostPath": {"path": text}}, {"name": "new", text: {"name": text}}]);
    let answer = json!({"accepted": false, "message": text, "warnings": [text],
        "audit_annotations": {"reasons": format!("{text}: {text}")}, "mutated_object": after});
    page(before, answer)
}

/// The tags of a page, without the text between them.
fn tags(page: &str) -> Vec<&str> {
    page.split('<').skip(1).map(|rest| rest.split_once('>').unwrap().0).collect()
}

#[test]
fn a_hostile_pod_adds_no_markup() {
    for hostile in [
        "</title></style><script>alert(1)</script>",
        "\"><img src=x onerror=alert(1)>",
        "' onmouseover='alert(1)",
        "\" style=\"background:url(//x)\" a=\"",
        "]]><svg/onload=alert(1)>",
        "<!--",
        "--><a href=javascript:alert(1)>",
        "</desc></svg></figure></article></main>",
        "<iframe srcdoc=&lt;script&gt;>",
        "&lt;script&gt;&#60;script&#62;",
        "url(#x)}*{display:none}",
    ] {
        // As long, since long texts are shortened.
        let harmless = "x".repeat(hostile.chars().count());
        let (page, expected) = (with(hostile), with(&harmless));
        assert_eq!(tags(&page), tags(&expected), "{hostile}");
        // It is there, as text.
        assert!(page.contains("<p class=\"message\">"), "{hostile}");
        assert!(!page.contains(hostile) || !hostile.contains(['<', '"', '\'']), "{hostile}");
    }
}

#[test]
fn texts_do_not_change_how_the_page_reads() {
    // A line feed would do that in a picture, the others everywhere.
    for character in ['\0', '\u{1b}', '\u{7f}', '\u{85}', '\u{202e}', '\u{2066}', '\u{fffe}', '\r'] {
        let page = with(&format!("a{character}b"));
        assert!(!page.contains(character), "{character:?}");
        assert!(page.contains("<p class=\"message\">a\u{fffd}b</p>"), "{character:?}");
    }
}

#[test]
fn a_page_stands_alone() {
    let page = with("x");
    for outside in ["http:", "https:", "<script", "<link", "@import", "src=", "href="] {
        assert!(!page.contains(outside), "{outside}");
    }
    assert!(page.contains("content=\"default-src 'none'; style-src 'unsafe-inline'\""));
}

#[test]
fn ids_are_unique_on_a_page_of_several_pods() {
    let mut page = Page::default();
    for name in ["a", "b"] {
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}});
        let answer = serde_json::from_value(json!({"accepted": true, "mutated_object": pod})).unwrap();
        page.add(&input::request(pod, None, "CREATE").unwrap(), &answer).unwrap();
    }
    let page = page.finish();
    let ids: Vec<_> = page.split(" id=\"").skip(1).map(|rest| rest.split_once('"').unwrap().0).collect();
    assert_eq!(ids.len(), 12);
    assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), ids.len(), "{ids:?}");
}

#[test]
fn each_sidecar_serves_its_own_dataset() {
    let path = |name: &str| format!("/runtime-mnt/thin/training/{name}/thin-fuse");
    let volume = |name: &str| json!({"name": name, "hostPath": {"path": path(name)}});
    let note = json!({"sidecars": [{"container": "fluid-fuse", "dataset": "training/a"},
        {"container": "fluid-fuse-1", "dataset": "other/b"}], "claims": [{"volume": "a"}, {"volume": "b"}]});
    // The second refers to a Dataset of another namespace.
    let containers = json!([{"name": "fluid-fuse"}, {"name": "fluid-fuse-1", "env": [{"value": path("b")}]}]);
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p",
        "annotations": {"fluid-sidecar-policy/injected": note.to_string()}},
        "spec": {"containers": containers, "volumes": [volume("a"), volume("b")]}});
    let served = page(pod.clone(), json!({"accepted": true, "mutated_object": pod}));
    assert_eq!(served.matches("class=\"serves\"").count(), 2);
    // Whoever writes such a note himself has no sidecar.
    assert!(!page(pod, json!({"accepted": true})).contains("class=\"serves\""));
}

#[test]
fn a_picture_has_an_end() {
    let mounts: Vec<_> =
        (0..500).map(|n| json!({"name": "v", "mountPath": format!("/m{n}"), "readOnly": true})).collect();
    let containers: Vec<_> =
        (0..500).map(|n| json!({"name": format!("c{n}"), "volumeMounts": mounts})).collect();
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"},
        "spec": {"containers": containers, "volumes": vec![json!({"name": "v", "emptyDir": {}}); 500]}});
    let page = page(pod, json!({"accepted": true}));
    for words in ["and 460 more containers", "and 460 more volumes", "460 more mounts"] {
        assert!(page.contains(words), "{words}");
    }
    assert_eq!(page.matches("<rect ").count(), 1 + 40 + 40);
    assert_eq!(page.matches("<circle ").count(), 40 * 40);
}
