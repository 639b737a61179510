//! The documents of the settings are made from the settings' own blocks (`src/settings.rs`): README's table,
//! docs/settings.md, docs/settings.schema.json and questions-ui.yml.
//!
//! `UPDATE_EXPECT=1 cargo test --test settings_reference` writes them anew. What a block says in words or by an example
//! is compared with the parser here. Whether the JSON Schema agrees with the parser is checked by
//! `scripts/check-settings-schema.sh`, on documents that are listed here.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a test")]

mod support;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use fluid_sidecar_layout::{Named as _, Runtime};
use fluid_sidecar_policy::destination::{Destination, Order};
use fluid_sidecar_policy::settings::form::Kind;
use fluid_sidecar_policy::settings::text::{EXPLAINED, LIMIT, TextForm};
use fluid_sidecar_policy::settings::{self, Group, Note, Section as _, Settings, rules};
use serde_json::{Map, Value, json};
use support::expect::expect;
use tool::yaml;

const MADE: &str = "Made from src/settings.rs by tests/settings_reference.rs; change it there.";
const WIDTH: usize = 110;

/// One field at its path: dotted, `[]` being any element of a list, `<runtime>` and the like each of several names.
#[derive(Clone, Debug)]
struct Field {
    path: String,
    about: &'static str,
    note: Note,
    kind: Kind,
    /// The default; below a placeholder that of each of its names, where they differ.
    defaults: Vec<(&'static str, Option<Value>)>,
}

/// The names that a placeholder of the path stands for.
type Names = Vec<&'static str>;

/// All fields, each before those in it.
fn table() -> Vec<Field> {
    let mut table = Vec::new();
    collect("", &Settings::describe(&Settings::default()), &mut table);
    table
}

fn collect(parent: &str, fields: &[settings::Field], table: &mut Vec<Field>) {
    for settings::Field { about, note, kind, default } in fields {
        let path = join(parent, note.name);
        let field =
            Field { path, about, note: *note, kind: kind.clone(), defaults: vec![("", default.clone())] };
        collect_inner(field, table);
    }
}

/// A field and those in it.
fn collect_inner(field: Field, table: &mut Vec<Field>) {
    let (path, kind) = (field.path.clone(), field.kind.clone());
    table.push(field);
    match kind {
        Kind::Section(fields) => collect(&path, &fields, table),
        Kind::List(element) => {
            if let Kind::Section(fields) = *element {
                collect(&format!("{path}[]"), &fields, table);
            }
        }
        Kind::Each(entry, kinds) => {
            let first = kinds[0].1.clone();
            let begun = table.len();
            collect_inner(
                Field {
                    path: join(&path, entry.note.name),
                    about: entry.about,
                    note: entry.note,
                    kind: first,
                    defaults: kinds.iter().map(|(name, _)| (*name, None)).collect(),
                },
                table,
            );
            // The fields are the same for each name, their defaults may not be.
            let mut others: Vec<Vec<Field>> = Vec::new();
            for (_, kind) in &kinds {
                let mut fields = Vec::new();
                if let Kind::Section(inner) = kind {
                    collect(&join(&path, entry.note.name), inner, &mut fields);
                }
                others.push(fields);
            }
            for (index, field) in table[begun + 1..].iter_mut().enumerate() {
                let default = |other: &Vec<Field>| other[index].defaults[0].1.clone();
                field.defaults =
                    kinds.iter().zip(&others).map(|((name, _), other)| (*name, default(other))).collect();
            }
        }
        _ => {}
    }
}

fn join(parent: &str, name: &str) -> String {
    if parent.is_empty() { name.to_string() } else { format!("{parent}.{name}") }
}

impl Field {
    /// The last part of its path.
    fn name(&self) -> &str {
        self.note.name
    }

    /// Its path for each name that a placeholder stands for, with that name.
    fn paths(&self) -> Vec<(String, &'static str)> {
        let Some(mark) = self.path.split('.').find(|part| part.starts_with('<')) else {
            return vec![(self.path.clone(), "")];
        };
        self.names().into_iter().map(|name| (self.path.replace(mark, name), name)).collect()
    }

    fn names(&self) -> Names {
        self.defaults.iter().map(|(name, _)| *name).filter(|name| !name.is_empty()).collect()
    }

    /// The default where a placeholder stands for `name`.
    fn default_for(&self, name: &str) -> Option<&Value> {
        let of_name = self.defaults.iter().find(|(known, _)| *known == name).or(self.defaults.first());
        of_name.and_then(|(_, default)| default.as_ref())
    }

    fn example(&self) -> Value {
        document(self.note.example)
    }

    /// The choices as they may be written.
    fn choices(&self) -> Vec<Value> {
        match &self.kind {
            Kind::Boolean => vec![json!(true), json!(false), json!("true"), json!("false")],
            _ => self.described().iter().map(|(name, _)| json!(name)).collect(),
        }
    }

    /// The choices with what each means.
    fn described(&self) -> &[(&'static str, &'static str)] {
        match &self.kind {
            Kind::Choice(choices) => choices,
            _ => &[],
        }
    }

    fn first_sentence(&self) -> &str {
        self.about.split_inclusive(". ").next().unwrap().trim()
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn document(text: &str) -> Value {
    let mut documents = yaml::parse(text).unwrap();
    assert_eq!(documents.len(), 1, "{text}");
    documents.pop().unwrap()
}

/// The fields of a field, in the order of the table; of the settings themselves for an empty path.
fn children<'t>(table: &'t [Field], path: &str) -> Vec<&'t Field> {
    let parent = |field: &Field| match field.path.rsplit_once('.') {
        Some((parent, _)) => parent.trim_end_matches("[]").to_string(),
        None => String::new(),
    };
    table.iter().filter(|field| parent(field) == path).collect()
}

// --- documents --------------------------------------------------------------------------------------------

/// The place of a path in a document, with the maps on the way made; of a list its first element.
fn place<'d>(document: &'d mut Value, path: &str) -> &'d mut Value {
    let parts = path.split('.').filter(|part| !part.is_empty());
    parts.fold(document, |value, part| {
        if !value.is_object() {
            *value = json!({});
        }
        let entry = &mut value[part.trim_end_matches("[]")];
        if !part.ends_with("[]") {
            return entry;
        }
        if !entry.is_array() {
            *entry = json!([{}]);
        }
        &mut entry[0]
    })
}

/// The document with the field, or without it.
fn with(mut document: Value, path: &str, value: Option<Value>) -> Value {
    let (parent, name) = path.rsplit_once('.').unwrap_or(("", path));
    let parent = place(&mut document, parent);
    if !parent.is_object() {
        *parent = json!({});
    }
    match value {
        Some(value) => parent[name] = value,
        None => drop(parent.as_object_mut().unwrap().remove(name)),
    }
    document
}

/// The path as the parser's problems have it.
fn reported(path: &str) -> String {
    path.replace("[]", "[0]")
}

fn problems(document: &Value) -> Vec<String> {
    Settings::parse(document).err().unwrap_or_default()
}

#[track_caller]
fn parsed(document: &Value) -> Settings {
    Settings::parse(document).map_err(|problems| (problems, document)).unwrap()
}

/// Every name that is one mistake away: a letter left out, another one, one too many.
fn misspelt(name: &str) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    for at in 0..name.len() {
        all.insert(format!("{}{}", &name[..at], &name[at + 1..]));
        all.insert(format!("{}q{}", &name[..at], &name[at + 1..]));
        all.insert(format!("{}q{}", &name[..at], &name[at..]));
    }
    all
}

// --- what the table says is true --------------------------------------------------------------------------

#[test]
fn every_example_is_accepted_and_uses_its_field() {
    for field in table() {
        let mut example = field.example();
        parsed(&example);
        let used = field.paths().iter().any(|(path, _)| {
            let (parent, name) = path.rsplit_once('.').unwrap_or(("", path));
            place(&mut example, parent).get(name).is_some()
        });
        assert!(used, "the example of {} does not use it", field.path);
    }
}

#[test]
fn a_misspelt_field_is_refused_with_its_name() {
    for field in table() {
        for (path, _) in field.paths() {
            let (parent, name) =
                path.rsplit_once('.').map_or(("", path.as_str()), |(parent, name)| (parent, name));
            let siblings = match parent {
                "" => table().iter().map(|field| field.name().to_string()).collect(),
                _ => BTreeSet::from([name.to_string()]),
            };
            for wrong in misspelt(name) {
                if siblings.contains(&wrong) {
                    continue;
                }
                let at = if parent.is_empty() { wrong.clone() } else { format!("{parent}.{wrong}") };
                let problems = problems(&with(json!({"datasetsFrom": "settings"}), &at, Some(json!(1))));
                let start = format!("{}: unknown field; did you mean ", reported(&at));
                let meant =
                    problems.iter().find_map(|problem| problem.strip_prefix(&start)?.strip_suffix('?'));
                // `destinatio` may be either of two.
                let near =
                    meant.is_some_and(|meant| meant == name || strsim::osa_distance(meant, &wrong) == 1);
                assert!(near, "{at}: {problems:?}");
            }
        }
    }
}

#[test]
fn a_default_that_is_written_means_the_same_as_none() {
    for field in table() {
        for (path, name) in field.paths() {
            let Some(default) = field.default_for(name).cloned() else { continue };
            if field.note.required.is_some() {
                continue;
            }
            // An element of a list needs more than the field, and an image of the runtime.
            let example = if field.path.contains("[]") { field.example() } else { json!({}) };
            let example = match default.as_str() {
                Some("thin") => with(example, "sidecarImages.thin", Some(json!("x"))),
                _ => example,
            };
            let absent = with(example.clone(), &path, None);
            let null = with(example.clone(), &path, Some(Value::Null));
            let written = with(example.clone(), &path, Some(default.clone()));
            assert_eq!(parsed(&written), parsed(&absent), "{path}");
            assert_eq!(parsed(&null), parsed(&absent), "{path}: null");
        }
    }
}

#[test]
fn a_form_that_nobody_filled_in_means_the_defaults() {
    fn collect(questions: &Value, settings: &mut Value) {
        for question in questions.as_array().into_iter().flatten() {
            if let Some(default) = question.get("default") {
                let variable = question["variable"].as_str().unwrap();
                *settings = with(settings.take(), variable, Some(default.clone()));
            }
            collect(&question["subquestions"], settings);
        }
    }
    // Empty lists and maps say nothing.
    fn prune(value: &mut Value) {
        if let Value::Object(map) = value {
            map.values_mut().for_each(prune);
            map.retain(|_, value| *value != json!({}) && *value != json!([]));
        }
    }
    let mut settings = json!({});
    collect(&form(&table())["questions"], &mut settings);
    parsed(&settings);
    prune(&mut settings);
    assert_eq!(parsed(&settings), parsed(&Value::Null));
}

// --- documents for the schema -----------------------------------------------------------------------------

/// What each field is set to in turn.
const PROBES: &str = r#"[
    null, true, 0, 1, 30, 600, 601, -1, 0.5,
    "", "x", "true", "*", "1", "1.5Gi", "1e3", "1.", "500m", "1 Gi", "-1", "12345678901234567890", "+1.E",
    ".5", ".", "1E-3", "1e", "1Ei", "1ei", "7n",
    "/", "/a", "/a/", "/a//b", "/a/./b", "/a/../b", "a/b", "a.b/c-d_e", "x.kubernetes.io/y", "kubernetes.io.x/y",
    "file:///a", "://a", "s3://key@bucket/a", "s3://bucket/a@b", "s3://bucket?a@b",
    [], [null], [7], [""], ["x"], [{}], [{"x": 1}],
    {}, {"x": null}, {"x": true}, {"x": ""}, {"x": "y"}, {"x": 1}, {"x": -1}, {"x": 0.5}, {"x": 1000000000000000},
    {"x": "1Gi"}, {"x": "1E3"}, {"x": []}
]"#;

/// Writes documents with the parser's verdict to `target/tmp/settings-documents.json`, for
/// `scripts/check-settings-schema.sh`.
#[test]
fn documents_for_the_schema() {
    let table = table();
    let refused = [
        json!([]),
        json!("x"),
        json!(7),
        json!({"datasetsFrom": "settings"}),
        json!({"datasetsFrom": "settings", "datasets": []}),
        json!({"datasetsFrom": "settings", "datasets": null}),
        json!({"datasetsFrom": "settings", "datasets": [{"claim": "data", "namespace": "*"}]}),
        json!({"datasetsFrom": "settings", "datasets": [{"claim": "data", "namespace": "*"}], "sidecarImages": {"thin": null}}),
        json!({"datasetsFrom": "settings", "datasets": [{"claim": "data", "namespace": "*", "runtime": "jindo"}],
               "sidecarImages": {"thin": "x"}}),
        json!({"datasetsFrom": "settings", "datasets": [{"claim": "data", "namespace": "*"}, {"claim": "more", "namespace": "*", "runtime": "efc"}],
               "sidecarImages": {"thin": "x"}}),
        json!({"datasetsFrom": "settings", "datasets": [{"namespace": "ns"}], "sidecarImages": {"thin": "x"}}),
        json!({"datasets": [{"claim": "data", "namespace": "*"}], "sidecarImages": {"thin": "x"}}),
        json!({"datasetsFrom": null, "datasets": [{"claim": "data", "namespace": "*"}]}),
        json!({"sidecarFrom": "fluid-fuse"}),
        json!({"sidecarFrom": "fluid-fuse", "sidecarImages": {"jindo": "x"}}),
        json!({"selectors": [{}]}),
        json!({"selectors": [{"podLabels": {}, "namespaceLabels": {}, "destination": "eci"}]}),
        json!({"selectors": [{"destination": "eci"}]}),
        json!({"destinations": {"ECI": {}}}),
        json!({"vfuseResourceName": "kubernetes.io/x"}),
        json!({"vfuseResourceName": "a/b/c"}),
        json!({"vfuseResourceName": "-a/b"}),
        json!({"mountRoot": "/a\tb"}),
        json!({"gateTimeoutSeconds": "30"}),
        json!({"datasetsFrom": "x"}),
        json!({"datasets": {}}),
        json!({"datasetsFrom": "settings", "datasets": [7], "sidecarImages": {"thin": "x"}}),
        json!({"selectors": [{"podLabels": 7, "namespaceLabels": {"a": "b"}, "destination": "eci"}]}),
        json!({"selectors": [{"podLabels": {"a": "b"}, "namespaceLabels": 7, "destination": "eci"}]}),
        json!({"selectors": [{"podLabels": {"a": "b"}}]}),
        json!({"selectors": [{"podLabels": {"a": "b"}, "destination": null}]}),
        json!({"sidecars": {"thin": {"cacheSizeLimit": 2}}}),
        json!({"sidecars": {"thin": {"cacheSizeLimit": "1Gi", "cacheDirectory": null}}}),
        json!({"sidecarFrom": "fluid-fuse", "datasetsFrom": "settings",
               "datasets": [{"claim": "a", "namespace": "*", "source": "file:///a"}, {"claim": "b", "namespace": "*"}], "sidecarImages": {"thin": "x"}}),
    ];
    let accepted = [
        json!(null),
        json!({}),
        json!({"datasetsFrom": "cluster", "datasets": []}),
        json!({"datasetsFrom": "cluster", "datasets": null}),
        json!({"datasetsFrom": "settings", "datasets": [{"claim": "data", "namespace": "*", "runtime": null}],
               "sidecarImages": {"thin": "x"}}),
        json!({"selectors": [{"podLabels": null, "namespaceLabels": {"a": "b"}, "destination": "eci"}]}),
        json!({"sidecars": {"thin": {"cacheSizeLimit": null}}}),
        json!({"podOverrides": {"cpu": 2, "memory": "+1.5e9"}}),
        json!({"sidecarFrom": "fluid-fuse", "datasetsFrom": "settings",
               "datasets": [{"claim": "a", "namespace": "*", "source": "file:///a", "runtime": "efc"}], "sidecarImages": {"efc": "x"}}),
        json!({"sidecars": {"thin": null, "jindo": {}}, "sidecarImages": {}}),
        json!({"mountRoot": "/.a/..b/c.."}),
    ];
    for document in &refused {
        assert_ne!(problems(document), [""; 0], "{document}");
    }
    for document in &accepted {
        parsed(document);
    }
    let probes: Vec<Value> = serde_json::from_str(PROBES).unwrap();
    let mut documents: Vec<Value> = refused.into_iter().chain(accepted).collect();
    for field in &table {
        documents.push(field.example());
        for (path, _) in field.paths() {
            for value in probes.iter().chain(&field.choices()) {
                documents.push(with(field.example(), &path, Some(value.clone())));
            }
            let name = path.rsplit('.').next().unwrap();
            let wrong = misspelt(name).pop_first().unwrap();
            let wrong = format!("{}{wrong}", path.strip_suffix(name).unwrap());
            documents.push(with(field.example(), &wrong, Some(json!({}))));
        }
    }
    // What is required depends on other fields.
    for runtime in Runtime::ALL.iter().map(|runtime| runtime.name()) {
        let images =
            [json!(null), json!({}), json!({runtime: null}), json!({runtime: "x"}), json!({"thin": "x"})];
        let datasets = [
            json!(null),
            json!([]),
            json!([{"claim": "data", "namespace": "*", "runtime": runtime}]),
            json!([{"claim": "a", "namespace": "*"}]),
        ];
        for from in [json!(null), json!("cluster"), json!("settings")] {
            for (images, datasets) in
                images.iter().flat_map(|images| datasets.iter().map(move |one| (images, one)))
            {
                let document = json!({"sidecarImages": images, "datasets": datasets, "datasetsFrom": from});
                for field in ["sidecarImages", "datasetsFrom"] {
                    documents.push(with(document.clone(), field, None));
                }
                documents.push(document);
            }
        }
        for images in images {
            let document = json!({"sidecarFrom": "fluid-fuse", "sidecarImages": images});
            documents.push(with(document.clone(), "datasetsFrom", Some(json!("settings"))));
            documents.push(document);
        }
    }
    // A schema knows no units: what is below the smallest one is told by the parser alone.
    documents.retain(|document| {
        let problems = problems(document);
        problems.is_empty() || problems.iter().any(|it| !it.contains("is less than the smallest amount"))
    });
    let documents: Vec<Value> = documents
        .into_iter()
        .map(|document| json!({"accepted": problems(&document).is_empty(), "document": document}))
        .collect();
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("settings-documents.json");
    fs::write(path, json!(documents).to_string()).unwrap();
}

// --- what is made of it -----------------------------------------------------------------------------------

#[test]
fn documentation_is_current() {
    let table = table();
    let readme = root().join("README.md");
    let text = fs::read_to_string(&readme).unwrap();
    let (begin, end) = ("<!-- settings:begin -->\n", "<!-- settings:end -->");
    let (before, rest) = text.split_once(begin).expect(begin);
    let (_, after) = rest.split_once(end).expect(end);
    let schema = serde_json::to_string_pretty(&schema(&table)).unwrap() + "\n";
    let form = format!("# {MADE}\n{}", yaml::print(&form(&table)).unwrap());
    assert_eq!(document(&form), self::form(&table), "what is printed can be read");
    let files: [(PathBuf, String); 4] = [
        (readme, format!("{before}{begin}{}{end}{after}", readme_table(&table))),
        (root().join("docs/settings.md"), reference(&table)),
        (root().join("docs/settings.schema.json"), schema),
        (root().join("questions-ui.yml"), form),
    ];
    let stale: Vec<String> = files.iter().filter_map(|(path, text)| expect(path, text).err()).collect();
    assert!(
        stale.is_empty(),
        "UPDATE_EXPECT=1 cargo test --test settings_reference writes them:\n\n{}",
        stale.join("\n")
    );
}

/// A value as it is written in YAML, in one line.
fn inline(value: &Value) -> String {
    match value {
        Value::String(text) if text.starts_with('*') => format!("\"{text}\""),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// GitHub's anchor of a heading.
fn anchor(heading: &str) -> String {
    let kept = heading.chars().filter(|char| char.is_alphanumeric() || "-_ ".contains(*char));
    kept.collect::<String>().to_lowercase().replace(' ', "-")
}

fn readme_table(table: &[Field]) -> String {
    let mut text = String::from("| field | default | meaning |\n|---|---|---|\n");
    for field in children(table, "") {
        let default =
            field.default_for("").map(|default| format!("`{}`", inline(default))).unwrap_or_default();
        let link = anchor(&field.path);
        writeln!(
            text,
            "| [`{}`](docs/settings.md#{link}) | {default} | {}{} |",
            field.path,
            field.first_sentence(),
            one_of(field)
        )
        .unwrap();
    }
    text
}

fn one_of(field: &Field) -> String {
    let names: Vec<String> = field.described().iter().map(|(name, _)| format!("`{name}`")).collect();
    match names.split_last() {
        Some((last, first)) => format!(" {} or {last}.", first.join(", ")),
        None => String::new(),
    }
}

/// Breaks a text into lines; those after the first begin with `indent`.
fn wrap(text: &str, indent: &str) -> String {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let line = lines.last_mut().unwrap();
        if line.len() + 1 + word.len() > WIDTH && !line.trim().is_empty() {
            lines.push(format!("{indent}{word}"));
        } else {
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    lines.join("\n")
}

/// What documents call the type.
fn type_of(kind: &Kind) -> String {
    match kind {
        Kind::Text(form) => form.name.to_string(),
        Kind::Seconds(least, most) => format!("whole number, {least} to {most}"),
        Kind::Boolean => "boolean".to_string(),
        Kind::Choice(_) => "one of the values below".to_string(),
        Kind::List(element) => format!("list{}", of(element)),
        Kind::Map(value) => format!("map{}", of(value)),
        Kind::Section(_) | Kind::Each(..) => "map".to_string(),
    }
}

fn of(kind: &Kind) -> &'static str {
    match kind {
        Kind::Text(form) if form.name == "quantity" => " of quantities",
        Kind::Text(_) => " of strings",
        _ => "",
    }
}

fn reference(table: &[Field]) -> String {
    let anchors: BTreeSet<String> = table.iter().map(|field| anchor(&field.path)).collect();
    assert_eq!(anchors.len(), table.len(), "two fields have one anchor");
    let mut text = format!("<!-- {MADE} -->\n\n# Settings\n\n");
    let intro = "All settings are optional, and so are all fields in them but those marked as required; `null` counts \
        as absent. A field that the policy does not know is refused. All problems are reported at once when a policy \
        server loads the policy, each with the path of its field. Editors can check settings with \
        [settings.schema.json](settings.schema.json).";
    writeln!(text, "{}\n", wrap(intro, "")).unwrap();
    let of_group = |group: Group| {
        let mut fields = children(table, "");
        fields.retain(|field| field.note.group == Some(group));
        fields
    };
    for group in Group::ALL {
        assert!(!anchors.contains(&anchor(group.name())), "{group} is also a field");
        let links: Vec<_> = of_group(*group)
            .iter()
            .map(|field| format!("[`{}`](#{})", field.path, anchor(&field.path)))
            .collect();
        let line = format!("- [{group}](#{}): {}", anchor(group.name()), links.join(", "));
        writeln!(text, "{}", wrap(&line, "  ")).unwrap();
    }
    writeln!(text, "- [Types](#types)").unwrap();
    for group in Group::ALL {
        writeln!(text, "\n## {group}").unwrap();
        for field in of_group(*group) {
            describe(table, field, 3, &mut text);
        }
    }
    writeln!(text, "\n## Types\n").unwrap();
    for TextForm { name, about, .. } in EXPLAINED {
        writeln!(text, "{}", wrap(&format!("- {name}: {about}."), "  ")).unwrap();
    }
    text
}

fn describe(table: &[Field], field: &Field, depth: usize, text: &mut String) {
    writeln!(text, "\n{} `{}`\n", "#".repeat(depth), field.path).unwrap();
    let mut facts = type_of(&field.kind);
    let shown = |name: &str| field.default_for(name).map(inline);
    let defaults: BTreeSet<_> = field.defaults.iter().map(|(name, _)| shown(name)).collect();
    match (field.note.required, defaults.len(), shown("")) {
        (Some(_), ..) => facts.push_str("; required"),
        (None, 1, Some(default)) => write!(facts, "; default: `{default}`").unwrap(),
        (None, 1, None) => {}
        _ => {
            let each: Vec<_> = field.names().into_iter().map(|name| (name, shown(name))).collect();
            let each = each
                .iter()
                .map(|(name, default)| format!("`{}` on `{name}`", default.as_deref().unwrap_or_default()));
            write!(facts, "; default: {}", each.collect::<Vec<_>>().join(", ")).unwrap();
        }
    }
    writeln!(text, "{}", wrap(&format!("Type: {facts}."), "")).unwrap();
    writeln!(text, "\n{}", wrap(field.about, "")).unwrap();
    if !field.described().is_empty() {
        text.push('\n');
    }
    for (name, about) in field.described() {
        writeln!(text, "{}", wrap(&format!("- `{name}`: {about}."), "  ")).unwrap();
    }
    writeln!(text, "\n```yaml\n{}\n```", field.note.example.trim()).unwrap();
    for child in children(table, &field.path) {
        describe(table, child, depth + 1, text);
    }
}

// --- questions-ui.yml -------------------------------------------------------------------------------------

/// Rancher's form. A string has no default unless it has one for the parser: the form would set it to an empty
/// one, which is refused.
fn form(table: &[Field]) -> Value {
    let questions = children(table, "").into_iter().filter(|field| field.note.in_form);
    let questions: Vec<Value> = questions
        .map(|field| question(table, field, &field.path, "", field.note.group.unwrap().name()))
        .collect();
    json!({"questions": questions})
}

fn question(table: &[Field], field: &Field, variable: &str, name: &str, group: &str) -> Value {
    let fields = children(table, &field.path);
    let Field { note, kind, .. } = field;
    let kind_name = match kind {
        Kind::Seconds(..) => "int",
        Kind::Boolean => "boolean",
        Kind::Choice(_) => "enum",
        Kind::List(_) if fields.is_empty() => "array[",
        Kind::List(_) => "sequence[",
        Kind::Map(_) | Kind::Section(_) | Kind::Each(..) => "map[",
        Kind::Text(_) => "string",
    };
    let plain = |text: &str| text.replace('`', "");
    let label =
        if note.name.starts_with('<') { format!("{}: {name}", note.label) } else { note.label.to_string() };
    let mut question = json!({
        "variable": variable, "label": label, "group": group, "type": kind_name, "required": note.required.is_some(),
        "description": plain(field.first_sentence()),
    });
    let mut more = field.about[field.first_sentence().len()..].trim().to_string();
    for (choice, about) in field.described() {
        write!(more, "{}{choice}: {about}.", if more.is_empty() { "" } else { " " }).unwrap();
    }
    if !more.is_empty() {
        question["tooltip"] = json!(plain(&more));
    }
    match kind {
        Kind::Choice(choices) => question["options"] = choices.iter().map(|(choice, _)| *choice).collect(),
        Kind::Seconds(least, most) => {
            question["min"] = json!(least);
            question["max"] = json!(most);
        }
        Kind::List(_) => question["default"] = json!([]),
        Kind::Map(_) | Kind::Section(_) | Kind::Each(..) => question["default"] = json!({}),
        Kind::Boolean | Kind::Text(_) => {}
    }
    if let Some(default) = field.default_for(name).filter(|_| note.required.is_none()) {
        question["default"] = default.clone();
    }
    if let Some(condition) = note.show_if {
        question["show_if"] = json!(condition);
    }
    if !fields.is_empty() {
        question["hide_input"] = json!(true);
        let list = matches!(kind, Kind::List(_));
        let mut inner = Vec::new();
        for child in fields {
            let placeholder = child.name().starts_with('<');
            for name in if placeholder { child.names() } else { vec![name] } {
                let own = if placeholder { name } else { child.name() };
                let variable = if list { own.to_string() } else { format!("{variable}.{own}") };
                inner.push(self::question(table, child, &variable, name, group));
            }
        }
        question[if list { "sequence_questions" } else { "subquestions" }] = Value::Array(inner);
    }
    question
}

// --- docs/settings.schema.json ----------------------------------------------------------------------------

fn schema(table: &[Field]) -> Value {
    let mut schema = object(table, "", "");
    schema["$schema"] = json!("https://json-schema.org/draft/2020-12/schema");
    schema["$comment"] = json!(MADE);
    schema["title"] = json!("Settings of fluid-sidecar-policy");
    schema["allOf"] = json!(rules::settings_schema());
    // What is the same for each Runtime.
    let mut definitions = Map::new();
    for section in ["sidecarImages", "sidecars"] {
        let properties = schema["properties"][section]["properties"].as_object_mut().unwrap();
        for definition in properties.values_mut() {
            let reference = json!({"$ref": format!("#/$defs/{section}")});
            definitions.insert(section.into(), std::mem::replace(definition, reference));
        }
    }
    schema["$defs"] = Value::Object(definitions);
    schema
}

/// A map with known fields; where a placeholder stands for `name`.
fn object(table: &[Field], path: &str, name: &str) -> Value {
    let fields = children(table, path);
    let mut properties = Map::new();
    for field in &fields {
        if field.name().starts_with('<') {
            for own in field.names() {
                properties.insert(own.into(), field_schema(table, field, own));
            }
        } else {
            properties.insert(field.name().into(), field_schema(table, field, name));
        }
    }
    let required: Vec<&str> =
        fields.iter().filter(|field| field.note.required.is_some()).map(|field| field.name()).collect();
    let mut schema =
        json!({"type": ["object", "null"], "properties": properties, "additionalProperties": false});
    if !required.is_empty() {
        schema["required"] = json!(required);
    }
    schema
}

fn text_schema(form: &TextForm) -> Value {
    let mut schema =
        json!({"type": if form.may_be_number { json!(["string", "number"]) } else { json!(["string"]) }});
    let pattern = (form.pattern)();
    if !pattern.is_empty() {
        schema["pattern"] = json!(pattern);
        if form.may_be_number {
            let least = if form.name == LIMIT.name { "exclusiveMinimum" } else { "minimum" };
            schema[least] = json!(0);
        }
    } else if !form.may_be_empty {
        schema["minLength"] = json!(1);
    }
    schema
}

fn field_schema(table: &[Field], field: &Field, name: &str) -> Value {
    let mut schema = match &field.kind {
        Kind::Text(form) => text_schema(form),
        Kind::Seconds(least, most) => json!({"type": ["integer"], "minimum": least, "maximum": most}),
        Kind::Boolean | Kind::Choice(_) => json!({"enum": field.choices()}),
        Kind::List(element) => {
            let element = match &**element {
                Kind::Text(form) => text_schema(form),
                _ => {
                    let mut element = object(table, &field.path, name);
                    element["type"] = json!("object");
                    element
                }
            };
            json!({"type": ["array"], "items": element})
        }
        Kind::Map(value) => match &**value {
            Kind::Text(form) => json!({"type": ["object"], "additionalProperties": text_schema(form)}),
            _ => panic!("{}: a map of {value:?}", field.path),
        },
        Kind::Section(_) | Kind::Each(..) => object(table, &field.path, name),
    };
    let rule = match field.path.as_str() {
        "selectors" => Some((&mut schema["items"], rules::selector_schema())),
        "sidecars.<runtime>" => Some((&mut schema, rules::overrides_schema())),
        "destinations.<destination>" => {
            let usual = Destination::from_name(name).map(|it| it.facts().strategy.order);
            Some((&mut schema, rules::strategy_schema(usual == Some(Order::NativeSidecar))))
        }
        _ => None,
    };
    if let Some((schema, Value::Object(rule))) = rule {
        schema.as_object_mut().unwrap().extend(rule);
    }
    if field.note.required.is_none() {
        let (choices, null) =
            if schema.get("enum").is_some() { ("enum", json!(null)) } else { ("type", json!("null")) };
        let choices = schema[choices].as_array_mut().unwrap();
        if !choices.contains(&null) {
            choices.push(null);
        }
    }
    schema["title"] = json!(field.note.label);
    schema["description"] = json!(field.about);
    if let Some(default) = field.default_for(name).filter(|_| field.note.required.is_none()) {
        schema["default"] = default.clone();
    }
    schema
}
