//! The picture of a Pod: its containers in their start order on the left, its volumes on the right, a line for each mount,
//! and an arrow from a sidecar to the volumes that it serves.

use std::collections::BTreeMap;

use serde_json::Value;

use super::Markup;

/// Containers, and volumes, that are drawn: beyond that nobody sees anything in a picture, and the diff has them all.
const MAX_BOXES: usize = 40;
/// Mounts that are drawn of a container, for the same reason.
const MAX_MOUNTS: usize = 40;

// Pixels, where the picture is as wide as its `viewBox`.
const WIDTH: usize = 660;
const MARGIN: usize = 16;
const CONTAINER_WIDTH: usize = 300;
const VOLUME_LEFT: usize = 374;
const VOLUME_WIDTH: usize = 270;
const LINE: usize = 18;
const PADDING: usize = 10;
const GAP: usize = 14;
/// Of the lines above the boxes.
const HEADER: usize = 40;

/// Characters that fit into a box, in a font of 7.3 pixels a character.
const CONTAINER_CHARACTERS: usize = (CONTAINER_WIDTH - 2 * PADDING) * 10 / 73;
const VOLUME_CHARACTERS: usize = (VOLUME_WIDTH - 2 * PADDING) * 10 / 73;
/// Of a name in bold letters of another font.
const NAME_CHARACTERS: usize = 26;

/// What an injection noted in the Pod.
#[derive(Debug, Default)]
pub(super) struct Injected {
    destination: String,
    /// The Dataset of each sidecar, by the container's name.
    sidecars: BTreeMap<String, String>,
    /// The volumes that were claims of Datasets.
    claims: Vec<String>,
}

impl Injected {
    pub(super) fn of(pod: &Value) -> Injected {
        let note =
            pod.pointer("/metadata/annotations/fluid-sidecar-policy~1injected").and_then(Value::as_str);
        let note: Value = note.and_then(|note| serde_json::from_str(note).ok()).unwrap_or_default();
        let sidecars = list(&note, "sidecars").iter();
        Injected {
            destination: text(&note, "destination").into(),
            sidecars: sidecars.map(|it| (text(it, "container").into(), text(it, "dataset").into())).collect(),
            claims: list(&note, "claims").iter().map(|claim| text(claim, "volume").into()).collect(),
        }
    }
}

struct Container<'a> {
    name: &'a str,
    kind: &'static str,
    dataset: Option<&'a str>,
    is_new: bool,
    facts: Vec<String>,
    /// Paths, with the volumes that are mounted there.
    mounts: Vec<(String, &'a str)>,
    manifest: &'a Value,
    top: usize,
}

impl Container<'_> {
    fn height(&self) -> usize {
        2 * PADDING + LINE * (1 + self.facts.len() + self.mounts.len())
    }

    /// The middle of the line of a mount.
    fn row(&self, mount: usize) -> usize {
        self.top + PADDING + LINE * (1 + self.facts.len() + mount) + LINE / 2
    }
}

struct Volume<'a> {
    name: &'a str,
    class: &'static str,
    is_new: bool,
    kind: String,
    path: Option<&'a str>,
    top: usize,
}

/// The height of a volume's box: two lines.
const VOLUME_HEIGHT: usize = 2 * PADDING + 2 * LINE;

/// Draws a Pod; what `before` does not have is drawn as new.
pub(super) fn picture(
    svg: &mut Markup,
    id: &str,
    title: &'static str,
    pod: &Value,
    before: Option<&Value>,
    injected: &Injected,
) {
    let (mut containers, mut volumes) = (containers(pod, before, injected), volumes(pod, before, injected));
    let left_out = [("containers", &mut containers.len()), ("volumes", &mut volumes.len())]
        .map(|(what, count)| (what, count.saturating_sub(MAX_BOXES)));
    containers.truncate(MAX_BOXES);
    volumes.truncate(MAX_BOXES);
    let mut bottom = HEADER + MARGIN;
    for container in &mut containers {
        container.top = bottom;
        bottom += container.height() + GAP;
    }
    let mut volumes_bottom = HEADER + MARGIN;
    for volume in &mut volumes {
        volume.top = volumes_bottom;
        volumes_bottom += VOLUME_HEIGHT + GAP;
    }
    let bottom = bottom.max(volumes_bottom);
    let left_out: Vec<_> = left_out.into_iter().filter(|(_, count)| *count > 0).collect();
    let height = bottom + LINE * left_out.len() + MARGIN;

    svg.raw("<svg viewBox=\"0 0 ")
        .text(WIDTH)
        .raw(" ")
        .text(height)
        .raw("\" role=\"img\" aria-labelledby=\"");
    svg.text(format_args!("{id}-title {id}-text"))
        .raw("\">\n<title id=\"")
        .text(id)
        .raw("-title\">")
        .raw(title);
    svg.raw("</title>\n<desc id=\"").text(id).raw("-text\">");
    describe(svg, &containers, &volumes);
    svg.raw("</desc>\n<defs><marker id=\"").text(id);
    svg.raw("-arrow\" viewBox=\"0 0 10 10\" refX=\"9\" refY=\"5\" markerWidth=\"5\" markerHeight=\"5\" orient=\"auto\">");
    svg.raw("<path class=\"arrow\" d=\"M0 0 10 5 0 10z\"/></marker></defs>\n");
    rectangle(svg, "pod", false, 1, 1, WIDTH - 2, height - 2);
    let place = match (before.is_some(), injected.destination.as_str()) {
        (true, destination) if !destination.is_empty() => {
            format!("containers, in their start order, on {destination}")
        }
        _ => "containers, in their start order".to_string(),
    };
    line(svg, "faint", MARGIN, MARGIN + LINE, &place, 2 * CONTAINER_CHARACTERS);
    line(svg, "faint", VOLUME_LEFT, MARGIN + LINE, "volumes", VOLUME_CHARACTERS);

    // Below the boxes, so that these stay legible.
    for container in &containers {
        for (mount, (_, name)) in container.mounts.iter().enumerate() {
            if let Some(volume) = volumes.iter().find(|volume| volume.name == *name) {
                let is_read = volume.class == "dataset" || volume.class == "claim";
                let end = volume.top + VOLUME_HEIGHT / 2;
                curve(svg, if is_read { "reads" } else { "mount" }, container.row(mount), end, None);
            }
        }
        if container.dataset.is_some() {
            for volume in volumes.iter().filter(|volume| serves(container, volume, &volumes)) {
                curve(svg, "serves", container.top + PADDING + LINE / 2, volume.top + PADDING, Some(id));
            }
        }
    }
    for (number, container) in (1..).zip(&containers) {
        let class = if container.dataset.is_some() { "sidecar" } else { "box" };
        rectangle(svg, class, container.is_new, MARGIN, container.top, CONTAINER_WIDTH, container.height());
        let mut y = container.top + PADDING + LINE - 5;
        let name = format!("{number}. {}", container.name);
        line(svg, "strong", MARGIN + PADDING, y, &name, NAME_CHARACTERS);
        svg.raw("<text class=\"faint\" text-anchor=\"end\" x=\"").text(MARGIN + CONTAINER_WIDTH - PADDING);
        svg.raw("\" y=\"").text(y).raw("\">").raw(container.kind).raw("</text>\n");
        for fact in &container.facts {
            y += LINE;
            line(svg, "faint mono", MARGIN + PADDING, y, fact, CONTAINER_CHARACTERS);
        }
        for (mount, (path, _)) in container.mounts.iter().enumerate() {
            y += LINE;
            line(svg, "mono", MARGIN + PADDING, y, path, CONTAINER_CHARACTERS);
            svg.raw("<circle class=\"dot\" r=\"3\" cx=\"").text(MARGIN + CONTAINER_WIDTH).raw("\" cy=\"");
            svg.text(container.row(mount)).raw("\"/>\n");
        }
    }
    for volume in &volumes {
        rectangle(svg, volume.class, volume.is_new, VOLUME_LEFT, volume.top, VOLUME_WIDTH, VOLUME_HEIGHT);
        let y = volume.top + PADDING + LINE - 5;
        line(svg, "strong", VOLUME_LEFT + PADDING, y, volume.name, NAME_CHARACTERS);
        line(svg, "faint mono", VOLUME_LEFT + PADDING, y + LINE, &volume.kind, VOLUME_CHARACTERS);
    }
    for (number, (what, count)) in (1..).zip(left_out) {
        let text = format!("and {count} more {what}");
        line(svg, "faint", MARGIN, bottom + number * LINE, &text, CONTAINER_CHARACTERS);
    }
    svg.raw("</svg>\n");
}

fn containers<'a>(pod: &'a Value, before: Option<&Value>, injected: &'a Injected) -> Vec<Container<'a>> {
    let spec = pod.get("spec").unwrap_or(&Value::Null);
    let restarts = |container: &Value| text(container, "restartPolicy") == "Always";
    let init = list(spec, "initContainers").iter();
    let init = init.map(|it| (it, if restarts(it) { "native sidecar" } else { "init container" }));
    let all = init.chain(list(spec, "containers").iter().map(|container| (container, "container")));
    let container = |(manifest, kind): (&'a Value, &'static str)| {
        let name = text(manifest, "name");
        // The Pod as created may have containers of these names that are no sidecars.
        let dataset = injected.sidecars.get(name).filter(|_| before.is_some()).map(String::as_str);
        let kind = match (dataset, kind) {
            (Some(_), "container") => "sidecar",
            _ => kind,
        };
        let mut facts = vec![text(manifest, "image").to_string()];
        facts.retain(|image| !image.is_empty());
        if let Some(dataset) = dataset {
            facts.push(format!("serves Dataset {dataset}"));
        }
        if manifest.pointer("/securityContext/privileged") == Some(&Value::Bool(true)) {
            facts.push("privileged".into());
        }
        let holds_back = manifest.pointer("/lifecycle/postStart").or(manifest.get("startupProbe")).is_some();
        if dataset.is_some() && holds_back {
            facts.push("the next one starts after the mount".into());
        }
        let all_mounts = list(manifest, "volumeMounts");
        let mounts = all_mounts.iter().take(MAX_MOUNTS).map(|mount| {
            let read_only = mount.get("readOnly") == Some(&Value::Bool(true));
            let path = text(mount, "mountPath");
            (if read_only { format!("{path} (read-only)") } else { path.into() }, text(mount, "name"))
        });
        let mounts = mounts.collect();
        if let Some(more @ 1..) = all_mounts.len().checked_sub(MAX_MOUNTS) {
            facts.push(format!("{more} more mounts"));
        }
        let is_new = before.is_some_and(|before| !has(before, &["initContainers", "containers"], name));
        Container { name, kind, dataset, is_new, facts, mounts, manifest, top: 0 }
    };
    all.map(container).collect()
}

fn volumes<'a>(pod: &'a Value, before: Option<&Value>, injected: &'a Injected) -> Vec<Volume<'a>> {
    let all = list(pod.get("spec").unwrap_or(&Value::Null), "volumes").iter();
    let volume = |manifest: &'a Value| {
        let name = text(manifest, "name");
        let source = manifest.as_object().into_iter().flatten().find(|(key, _)| *key != "name");
        let (kind, source) = source.map_or(("", &Value::Null), |(kind, source)| (kind.as_str(), source));
        let detail = ["claimName", "path", "secretName", "name", "driver", "server"];
        let detail =
            detail.iter().map(|key| text(source, key)).find(|detail| !detail.is_empty()).unwrap_or_default();
        let kind = match kind {
            "persistentVolumeClaim" => format!("claim {detail}"),
            // A path tells that it is one.
            "hostPath" => detail.to_string(),
            _ => format!("{kind} {detail}"),
        };
        let is_dataset = injected.claims.iter().any(|claim| claim == name);
        let class = match (is_dataset, before.is_some()) {
            (true, true) => "dataset",
            (true, false) => "claim",
            _ => "box",
        };
        let is_new = before.is_some_and(|before| !has(before, &["volumes"], name));
        Volume { name, class, is_new, kind, path: source.get("path").and_then(Value::as_str), top: 0 }
    };
    all.map(volume).collect()
}

/// Whether a sidecar makes the content of a volume: the volume's path names its Dataset; or the sidecar mounts a directory
/// above that path, or has it in one of its fields, as for a Dataset that refers to another one.
fn serves(container: &Container<'_>, volume: &Volume<'_>, volumes: &[Volume<'_>]) -> bool {
    let Some(path) = volume.path.filter(|_| volume.class == "dataset") else { return false };
    let mounted = container.mounts.iter().filter_map(|(_, name)| volumes.iter().find(|it| it.name == *name));
    let is_above = |above: &str| path.strip_prefix(above).is_some_and(|rest| rest.starts_with('/'));
    container.dataset.is_some_and(|dataset| path.contains(&format!("/{dataset}/")))
        || mounted.filter_map(|volume| volume.path).any(is_above)
        || mentions(container.manifest, path)
}

fn mentions(value: &Value, text: &str) -> bool {
    match value {
        Value::String(string) => string == text,
        Value::Array(values) => values.iter().any(|value| mentions(value, text)),
        Value::Object(fields) => fields.values().any(|value| mentions(value, text)),
        _ => false,
    }
}

/// The picture in words, for those who do not see it.
fn describe(svg: &mut Markup, containers: &[Container<'_>], volumes: &[Volume<'_>]) {
    for (number, container) in (1..).zip(containers) {
        svg.text(format_args!("{number}. {} {}", container.kind, container.name));
        for fact in &container.facts {
            svg.text(format_args!(", {fact}"));
        }
        for (path, volume) in &container.mounts {
            svg.text(format_args!(", mounts volume {volume} at {path}"));
        }
        svg.raw(". ");
    }
    for volume in volumes {
        svg.text(format_args!("Volume {}: {}. ", volume.name, volume.kind));
    }
}

fn rectangle(
    svg: &mut Markup,
    class: &'static str,
    is_new: bool,
    x: usize,
    y: usize,
    width: usize,
    height: usize,
) {
    svg.raw("<rect class=\"").raw(class).raw(if is_new { " new" } else { "" });
    for (attribute, value) in
        [("\" rx=\"", 6), ("\" x=\"", x), ("\" y=\"", y), ("\" width=\"", width), ("\" height=\"", height)]
    {
        svg.raw(attribute).text(value);
    }
    svg.raw("\"/>\n");
}

/// A line of text, shortened to so many characters; the whole text is its tooltip then.
fn line(svg: &mut Markup, class: &'static str, x: usize, y: usize, text: &str, characters: usize) {
    svg.raw("<text class=\"").raw(class).raw("\" x=\"").text(x).raw("\" y=\"").text(y).raw("\">");
    let count = text.chars().count();
    if count <= characters {
        svg.text(text);
    } else {
        // The ends of paths and images tell more than their middles.
        let start = (characters - 1) / 2;
        svg.raw("<title>").text(text).raw("</title>");
        svg.text(text.chars().take(start).collect::<String>()).raw("…");
        svg.text(text.chars().skip(count - (characters - 1 - start)).collect::<String>());
    }
    svg.raw("</text>\n");
}

/// From the right side of a container to the left side of a volume.
fn curve(svg: &mut Markup, class: &'static str, from: usize, to: usize, arrow: Option<&str>) {
    let (start, middle) = (MARGIN + CONTAINER_WIDTH, (MARGIN + CONTAINER_WIDTH + VOLUME_LEFT) / 2);
    svg.raw("<path class=\"").raw(class).raw("\" d=\"");
    svg.text(format_args!("M{start} {from} C{middle} {from} {middle} {to} {VOLUME_LEFT} {to}")).raw("\"");
    if let Some(id) = arrow {
        svg.raw(" marker-end=\"url(#").text(id).raw("-arrow)\"");
    }
    svg.raw("/>\n");
}

fn has(pod: &Value, lists: &[&str], name: &str) -> bool {
    let spec = pod.get("spec").unwrap_or(&Value::Null);
    lists.iter().flat_map(|key| list(spec, key)).any(|item| text(item, "name") == name)
}

fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value.get(key).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}
