//! `docs/settings.yaml` is the table of the settings. All documentation of them is made from it, and it is true:
//! what it says of each field is compared with the parser.
//!
//! `UPDATE_EXPECT=1 cargo test --test settings_reference` writes the documentation anew. Whether the JSON Schema
//! agrees with the parser is checked by `scripts/check-settings-schema.sh`, on documents that are listed here.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a test")]

mod support;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use evaluate::yaml;
use fluid_sidecar_layout::Runtime;
use fluid_sidecar_policy::destination::Destination;
use fluid_sidecar_policy::settings::Settings;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use support::expect::expect;

const MADE: &str = "Made from docs/settings.yaml by tests/settings_reference.rs; change it there.";
const WIDTH: usize = 110;

/// One entry of the table; `docs/settings.yaml` says what its fields mean.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Field {
    path: String,
    #[serde(rename = "type")]
    kind: Kind,
    items: Option<Kind>,
    default: Option<Value>,
    #[serde(default)]
    choices: Vec<Choice>,
    minimum: Option<u32>,
    maximum: Option<u32>,
    #[serde(default)]
    required: bool,
    group: Option<String>,
    label: String,
    about: String,
    show_if: Option<String>,
    #[serde(default = "yes")]
    form: bool,
    example: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Choice {
    value: String,
    about: String,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum Kind {
    String,
    Image,
    Path,
    Url,
    Quantity,
    Resource,
    Integer,
    Boolean,
    Enum,
    List,
    Map,
}

fn yes() -> bool {
    true
}

/// Names that stand for each of several.
fn placeholder(name: &str) -> Option<Vec<&'static str>> {
    match name {
        "<runtime>" => Some(Runtime::ALL.map(Runtime::name).to_vec()),
        "<destination>" => Some(Destination::ALL.map(Destination::name).to_vec()),
        _ => None,
    }
}

impl Field {
    /// The last part of its path.
    fn name(&self) -> &str {
        self.path.rsplit('.').next().unwrap()
    }

    fn is_top(&self) -> bool {
        !self.path.contains('.')
    }

    /// Its path for each name that a placeholder stands for, with that name.
    fn paths(&self) -> Vec<(String, &'static str)> {
        let Some(mark) = self.path.split('.').find(|part| placeholder(part).is_some()) else {
            return vec![(self.path.clone(), "")];
        };
        let names = placeholder(mark).unwrap().into_iter();
        names.map(|name| (self.path.replace(mark, name), name)).collect()
    }

    /// The default where a placeholder stands for `name`.
    fn default_for(&self, name: &str) -> Option<&Value> {
        let default = self.default.as_ref()?;
        if self.path.contains("<destination>") { default.get(name) } else { Some(default) }
    }

    fn example(&self) -> Value {
        document(&self.example)
    }

    /// The choices as they may be written.
    fn choices(&self) -> Vec<Value> {
        match self.kind {
            Kind::Boolean => vec![json!(true), json!(false), json!("true"), json!("false")],
            _ => self.choices.iter().map(|choice| json!(choice.value)).collect(),
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

fn table() -> Vec<Field> {
    serde_json::from_value(document(&fs::read_to_string(root().join("docs/settings.yaml")).unwrap())).unwrap()
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

/// Settings that parse, but for what identifies their text.
#[track_caller]
fn parsed(document: &Value) -> Settings {
    let settings = Settings::parse(document).map_err(|problems| (problems, document));
    let mut settings = settings.unwrap();
    settings.hash.clear();
    settings
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
fn the_parser_knows_these_fields_and_no_others() {
    let listed: BTreeSet<String> =
        table().iter().flat_map(Field::paths).map(|(path, _)| path.to_string()).collect();
    let mut known = BTreeSet::new();
    collect_known("", &mut known);
    assert_eq!(listed, known, "left: the table; right: the parser");
}

/// Asks the parser for the fields below a path: it lists them when it meets one that it cannot guess.
fn collect_known(path: &str, known: &mut BTreeSet<String>) {
    const UNKNOWN: &str = "zzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzz";
    let base = json!({"datasetsFrom": "settings"});
    for section in if path.is_empty() { vec![String::new()] } else { vec![path.into(), format!("{path}[]")] }
    {
        let at = if section.is_empty() { UNKNOWN.into() } else { format!("{section}.{UNKNOWN}") };
        let problems = problems(&with(base.clone(), &at, Some(json!(1))));
        let start = format!("{}: unknown field; known are ", reported(&at));
        let Some(names) = problems.iter().find_map(|problem| problem.strip_prefix(&start)) else { continue };
        for name in names.split(", ") {
            let field = if section.is_empty() { name.to_string() } else { format!("{section}.{name}") };
            collect_known(&field, known);
            known.insert(field);
        }
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
fn the_parser_knows_these_choices_and_no_others() {
    for field in table() {
        assert_eq!(field.kind == Kind::Enum, !field.choices.is_empty(), "{}", field.path);
        if !matches!(field.kind, Kind::Boolean | Kind::Enum) {
            continue;
        }
        for (path, _) in field.paths() {
            let about_it = |value: Value| {
                let start = format!("{}: ", reported(&path));
                let problems = problems(&with(field.example(), &path, Some(value)));
                problems.iter().find_map(|problem| problem.strip_prefix(&start).map(str::to_string))
            };
            for choice in field.choices() {
                assert_eq!(about_it(choice.clone()), None, "{path}: {choice}");
            }
            let names: Vec<&str> = match field.kind {
                Kind::Boolean => vec!["true", "false"],
                _ => field.choices.iter().map(|choice| choice.value.as_str()).collect(),
            };
            let refused = about_it(json!("zzzzzzzzzzzz")).unwrap_or_default();
            let listed = refused.strip_prefix("\"zzzzzzzzzzzz\" is not one of ").unwrap_or(&refused);
            assert_eq!(
                listed.split(", ").collect::<BTreeSet<_>>(),
                names.into_iter().collect::<BTreeSet<_>>(),
                "{path}: left: the parser; right: the table"
            );
        }
    }
}

#[test]
fn defaults_are_those_of_the_parser() {
    for field in table() {
        for (path, name) in field.paths() {
            let Some(default) = field.default_for(name).cloned() else {
                assert!(field.default.is_none(), "{path} has no default for {name}");
                continue;
            };
            if field.is_top() {
                let written = with(json!({}), &path, Some(default.clone()));
                assert_eq!(parsed(&written), parsed(&Value::Null), "{path}");
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
            // Otherwise the comparison would hold for a field that the parser forgets.
            for choice in field.choices() {
                if let Ok(mut other) = Settings::parse(&with(example.clone(), &path, Some(choice.clone()))) {
                    other.hash.clear();
                    let same = inline(&choice) == inline(&default);
                    assert_eq!(other == parsed(&absent), same, "{path}: {choice}");
                }
            }
        }
    }
}

#[test]
fn numbers_have_these_bounds() {
    for field in table().iter().filter(|field| field.kind == Kind::Integer) {
        let (minimum, maximum) = (field.minimum.unwrap(), field.maximum.unwrap());
        let ok = |number: i64| problems(&with(json!({}), &field.path, Some(json!(number)))).is_empty();
        assert!(ok(minimum.into()) && ok(maximum.into()), "{}", field.path);
        assert!(!ok(i64::from(minimum) - 1) && !ok(i64::from(maximum) + 1), "{}", field.path);
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
        json!({"datasetsFrom": "settings", "datasets": [{"claim": "data"}]}),
        json!({"datasetsFrom": "settings", "datasets": [{"claim": "data"}], "sidecarImages": {"thin": null}}),
        json!({"datasetsFrom": "settings", "datasets": [{"claim": "data", "runtime": "jindo"}],
               "sidecarImages": {"thin": "x"}}),
        json!({"datasetsFrom": "settings", "datasets": [{"claim": "data"}, {"claim": "more", "runtime": "efc"}],
               "sidecarImages": {"thin": "x"}}),
        json!({"datasetsFrom": "settings", "datasets": [{"namespace": "ns"}], "sidecarImages": {"thin": "x"}}),
        json!({"datasets": [{"claim": "data"}], "sidecarImages": {"thin": "x"}}),
        json!({"datasetsFrom": null, "datasets": [{"claim": "data"}]}),
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
               "datasets": [{"claim": "a", "source": "file:///a"}, {"claim": "b"}], "sidecarImages": {"thin": "x"}}),
    ];
    let accepted = [
        json!(null),
        json!({}),
        json!({"datasetsFrom": "cluster", "datasets": []}),
        json!({"datasetsFrom": "cluster", "datasets": null}),
        json!({"datasetsFrom": "settings", "datasets": [{"claim": "data", "runtime": null}],
               "sidecarImages": {"thin": "x"}}),
        json!({"selectors": [{"podLabels": null, "namespaceLabels": {"a": "b"}, "destination": "eci"}]}),
        json!({"sidecars": {"thin": {"cacheSizeLimit": null}}}),
        json!({"podOverrides": {"cpu": 2, "memory": "+1.5e9"}}),
        json!({"sidecarFrom": "fluid-fuse", "datasetsFrom": "settings",
               "datasets": [{"claim": "a", "source": "file:///a", "runtime": "efc"}], "sidecarImages": {"efc": "x"}}),
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
    for runtime in Runtime::ALL.map(Runtime::name) {
        let images =
            [json!(null), json!({}), json!({runtime: null}), json!({runtime: "x"}), json!({"thin": "x"})];
        let datasets =
            [json!(null), json!([]), json!([{"claim": "data", "runtime": runtime}]), json!([{"claim": "a"}])];
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
            field.default.as_ref().map(|default| format!("`{}`", inline(default))).unwrap_or_default();
        let link = anchor(&field.path);
        writeln!(
            text,
            "| [`{}`](docs/settings.md#{link}) | {default} | {}{} |",
            field.path,
            field.first_sentence(),
            match field.kind {
                Kind::Enum => format!(" {}", one_of(field)),
                _ => String::new(),
            }
        )
        .unwrap();
    }
    text
}

fn one_of(field: &Field) -> String {
    let names: Vec<String> = field.choices.iter().map(|choice| format!("`{}`", choice.value)).collect();
    let (last, first) = names.split_last().unwrap();
    format!("{} or {last}.", first.join(", "))
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

impl Kind {
    fn one(self) -> &'static str {
        match self {
            Kind::String => "string",
            Kind::Image => "image",
            Kind::Path => "path",
            Kind::Url => "URL",
            Kind::Quantity => "quantity",
            Kind::Resource => "extended resource",
            Kind::Integer => "whole number",
            Kind::Boolean => "boolean",
            Kind::Enum => "one of the values below",
            Kind::List => "list",
            Kind::Map => "map",
        }
    }

    fn many(self) -> &'static str {
        match self {
            Kind::Quantity => "quantities",
            _ => "strings",
        }
    }

    /// What may be written there, for types that are not YAML's.
    fn form(self) -> Option<&'static str> {
        Some(match self {
            Kind::Path => "absolute, without empty, `.` or `..` components, and not `/` itself",
            Kind::Image => "an image reference, without white space",
            Kind::Url => "`<scheme>://…`, without credentials",
            Kind::Quantity => {
                "a number that is not negative, with one of Kubernetes' suffixes `n`, `u`, `m`, `k`, `M`, `G`, `T`, \
                 `P`, `E`, `Ki`, `Mi`, `Gi`, `Ti`, `Pi`, `Ei`, an exponent like `e3`, or none of these"
            }
            Kind::Resource => "`<domain>/<name>`, where the domain is not Kubernetes' own",
            _ => return None,
        })
    }

    const ALL_FORMS: [Kind; 5] = [Kind::Image, Kind::Path, Kind::Quantity, Kind::Resource, Kind::Url];
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
    let mut groups: Vec<&str> = Vec::new();
    for group in children(table, "").iter().filter_map(|field| field.group.as_deref()) {
        if !groups.contains(&group) {
            assert!(!anchors.contains(&anchor(group)), "{group} is also a field");
            groups.push(group);
        }
    }
    let of_group = |group: &str| {
        let mut fields = children(table, "");
        fields.retain(|field| field.group.as_deref() == Some(group));
        fields
    };
    for group in &groups {
        let links: Vec<_> = of_group(group)
            .iter()
            .map(|field| format!("[`{}`](#{})", field.path, anchor(&field.path)))
            .collect();
        writeln!(text, "{}", wrap(&format!("- [{group}](#{}): {}", anchor(group), links.join(", ")), "  "))
            .unwrap();
    }
    writeln!(text, "- [Types](#types)").unwrap();
    for group in &groups {
        writeln!(text, "\n## {group}").unwrap();
        for field in of_group(group) {
            describe(table, field, 3, &mut text);
        }
    }
    writeln!(text, "\n## Types\n").unwrap();
    for kind in Kind::ALL_FORMS {
        writeln!(text, "{}", wrap(&format!("- {}: {}.", kind.one(), kind.form().unwrap()), "  ")).unwrap();
    }
    text
}

fn describe(table: &[Field], field: &Field, depth: usize, text: &mut String) {
    writeln!(text, "\n{} `{}`\n", "#".repeat(depth), field.path).unwrap();
    let mut facts = match (field.kind, field.items, field.minimum, field.maximum) {
        (kind, Some(items), ..) => format!("{} of {}", kind.one(), items.many()),
        (kind, None, Some(minimum), Some(maximum)) => format!("{}, {minimum} to {maximum}", kind.one()),
        (kind, ..) => kind.one().to_string(),
    };
    match &field.default {
        Some(Value::Object(defaults)) => {
            let each = Destination::ALL.map(Destination::name);
            let each = each.map(|name| format!("`{}` on `{name}`", inline(&defaults[name])));
            write!(facts, "; default: {}", each.join(", ")).unwrap();
        }
        Some(default) => write!(facts, "; default: `{}`", inline(default)).unwrap(),
        None if field.required => facts.push_str("; required"),
        None => {}
    }
    writeln!(text, "{}", wrap(&format!("Type: {facts}."), "")).unwrap();
    writeln!(text, "\n{}", wrap(&field.about, "")).unwrap();
    if !field.choices.is_empty() {
        text.push('\n');
    }
    for choice in &field.choices {
        writeln!(text, "{}", wrap(&format!("- `{}`: {}.", choice.value, choice.about), "  ")).unwrap();
    }
    writeln!(text, "\n```yaml\n{}```", field.example).unwrap();
    for child in children(table, &field.path) {
        describe(table, child, depth + 1, text);
    }
}

// --- questions-ui.yml -------------------------------------------------------------------------------------

/// Rancher's form. A string has no default unless it has one for the parser: the form would set it to an empty
/// one, which is refused.
fn form(table: &[Field]) -> Value {
    let questions = children(table, "").into_iter().filter(|field| field.form);
    let questions: Vec<Value> = questions
        .map(|field| question(table, field, &field.path, "", field.group.as_deref().unwrap()))
        .collect();
    json!({"questions": questions})
}

fn question(table: &[Field], field: &Field, variable: &str, name: &str, group: &str) -> Value {
    let fields = children(table, &field.path);
    let kind = match (field.kind, fields.is_empty()) {
        (Kind::Integer, _) => "int",
        (Kind::Boolean, _) => "boolean",
        (Kind::Enum, _) => "enum",
        (Kind::List, true) => "array[",
        (Kind::List, false) => "sequence[",
        (Kind::Map, _) => "map[",
        _ => "string",
    };
    let plain = |text: &str| text.replace('`', "");
    let label =
        if field.name().starts_with('<') { format!("{}: {name}", field.label) } else { field.label.clone() };
    let mut question = json!({
        "variable": variable, "label": label, "group": group, "type": kind, "required": field.required,
        "description": plain(field.first_sentence()),
    });
    let mut more = field.about[field.first_sentence().len()..].trim().to_string();
    for choice in &field.choices {
        write!(more, "{}{}: {}.", if more.is_empty() { "" } else { " " }, choice.value, choice.about)
            .unwrap();
    }
    if !more.is_empty() {
        question["tooltip"] = json!(plain(&more));
    }
    match field.kind {
        Kind::Enum => {
            question["options"] = field.choices.iter().map(|choice| choice.value.as_str()).collect();
        }
        Kind::Integer => {
            question["min"] = json!(field.minimum);
            question["max"] = json!(field.maximum);
        }
        Kind::List => question["default"] = json!([]),
        Kind::Map => question["default"] = json!({}),
        _ => {}
    }
    if let Some(default) = field.default_for(name) {
        question["default"] = default.clone();
    }
    if let Some(condition) = &field.show_if {
        question["show_if"] = json!(condition);
    }
    if !fields.is_empty() {
        question["hide_input"] = json!(true);
        let list = field.kind == Kind::List;
        let mut inner = Vec::new();
        for child in fields {
            for name in placeholder(child.name()).unwrap_or_else(|| vec![name]) {
                let own = if child.name().starts_with('<') { name } else { child.name() };
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
    let mut definitions = Map::new();
    let mut schema = object(table, "", "", &mut definitions);
    let by_settings =
        json!({"required": ["datasetsFrom"], "properties": {"datasetsFrom": {"const": "settings"}}});
    let has_image = |runtime: &str| {
        json!({"required": ["sidecarImages"], "properties": {"sidecarImages": {
            "type": "object", "required": [runtime], "properties": {runtime: {"type": "string"}}}}})
    };
    let mut rules = vec![
        json!({"if": by_settings,
            "then": {"required": ["datasets"], "properties": {"datasets": {"type": "array", "minItems": 1}}},
            "else": {"properties": {"datasets": {"maxItems": 0}}}}),
        json!({"if": {"required": ["sidecarFrom"], "properties": {"sidecarFrom": {"const": "fluid-fuse"}}},
            "then": {"if": by_settings,
                "then": {"properties": {"datasets": {"items": {
                    "required": ["source"], "properties": {"source": {"type": "string"}}}}}},
                "else": has_image("thin")}}),
    ];
    for runtime in Runtime::ALL.map(Runtime::name) {
        let entry = match runtime {
            "thin" => json!({"properties": {"runtime": {"enum": ["thin", null]}}}),
            _ => json!({"required": ["runtime"], "properties": {"runtime": {"const": runtime}}}),
        };
        let used = json!({"required": ["datasets"], "properties": {"datasets": {"type": "array", "contains": entry}}});
        rules.push(json!({"if": {"allOf": [by_settings, used]}, "then": has_image(runtime)}));
    }
    schema["$schema"] = json!("https://json-schema.org/draft/2020-12/schema");
    schema["$comment"] = json!(MADE);
    schema["title"] = json!("Settings of fluid-sidecar-policy");
    schema["allOf"] = json!(rules);
    schema["$defs"] = Value::Object(definitions);
    schema
}

/// A map with known fields.
fn object(table: &[Field], path: &str, name: &str, definitions: &mut Map<String, Value>) -> Value {
    let fields = children(table, path);
    let mut properties = Map::new();
    for field in &fields {
        let names = placeholder(field.name());
        if field.name() == "<runtime>" {
            // The same for each.
            let definition = field_schema(table, field, name, definitions);
            definitions.insert(path.into(), definition);
        }
        for own in names.unwrap_or_else(|| vec![field.name()]) {
            let property = match field.name() {
                "<runtime>" => json!({"$ref": format!("#/$defs/{path}")}),
                "<destination>" => field_schema(table, field, own, definitions),
                _ => field_schema(table, field, name, definitions),
            };
            properties.insert(own.into(), property);
        }
    }
    let required: Vec<&str> =
        fields.iter().filter(|field| field.required).map(|field| field.name()).collect();
    let mut schema =
        json!({"type": ["object", "null"], "properties": properties, "additionalProperties": false});
    if !required.is_empty() {
        schema["required"] = json!(required);
    }
    schema
}

fn field_schema(table: &[Field], field: &Field, name: &str, definitions: &mut Map<String, Value>) -> Value {
    let mut schema = match (field.kind, field.items) {
        (Kind::List, Some(_)) => json!({"type": ["array", "null"], "items": {"type": "string"}}),
        (Kind::List, None) => {
            let mut element = object(table, &field.path, name, definitions);
            element["type"] = json!("object");
            if field.path == "selectors" {
                element["anyOf"] = ["podLabels", "namespaceLabels"]
                    .map(|key| json!({"required": [key], "properties": {key: {"type": "object", "minProperties": 1}}}))
                    .into();
            }
            json!({"type": ["array", "null"], "items": element})
        }
        (Kind::Map, Some(Kind::Quantity)) => json!({"type": ["object", "null"], "additionalProperties": {
            "type": ["string", "number"], "pattern": pattern(Kind::Quantity), "minimum": 0}}),
        (Kind::Quantity, _) => {
            json!({"type": ["string", "number", "null"], "pattern": pattern(Kind::Quantity),
            "minimum": 0})
        }
        (Kind::Map, Some(_)) => {
            json!({"type": ["object", "null"], "additionalProperties": {"type": ["string", "number"]}})
        }
        (Kind::Map, None) => {
            let mut map = object(table, &field.path, name, definitions);
            if field.path == "sidecars.<runtime>" {
                map["if"] = json!({"required": ["cacheSizeLimit"],
                    "properties": {"cacheSizeLimit": {"type": ["string", "number"]}}});
                map["then"] = json!({"required": ["cacheDirectory"],
                    "properties": {"cacheDirectory": {"type": "string"}}});
            }
            map
        }
        (Kind::Boolean | Kind::Enum, _) => {
            let mut choices = field.choices();
            choices.extend((!field.required).then_some(Value::Null));
            json!({"enum": choices})
        }
        (Kind::Integer, _) => {
            json!({"type": ["integer", "null"], "minimum": field.minimum, "maximum": field.maximum})
        }
        (Kind::String, _) => json!({"type": ["string", "null"], "minLength": 1}),
        (kind, _) => json!({"type": ["string", "null"], "pattern": pattern(kind)}),
    };
    if field.required && field.kind != Kind::Enum {
        schema["type"] = json!(schema["type"][0]);
    }
    schema["title"] = json!(field.label);
    schema["description"] = json!(field.about);
    if let Some(default) = field.default_for(name) {
        schema["default"] = default.clone();
    }
    schema
}

/// Without `\d` and the like, which regular expressions of different languages understand differently.
fn pattern(kind: Kind) -> &'static str {
    match kind {
        Kind::Path => r"^(/(?!\.{1,2}(/|$))[^/\u0000-\u001f\u007f-\u009f]+)+$",
        Kind::Url => r"^[^:]+://[^/?#@]*([/?#].*)?$",
        Kind::Image => r"^[^ \t\r\n\f\u000b]+$",
        Kind::Quantity => r"^\+?([0-9]+\.?[0-9]*|\.[0-9]+)([numkMGTPE]|[KMGTPE]i|[eE][-+]?[0-9]{1,9})?$",
        Kind::Resource => {
            "^(?![^/]*kubernetes\\.io/)(?!requests\\.)(?=[^/]{1,63}/)\
             [a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*\
             /[A-Za-z0-9]([-_.A-Za-z0-9]{0,61}[A-Za-z0-9])?$"
        }
        _ => "",
    }
}
