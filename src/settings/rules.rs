//! What holds between fields. Each rule stands here once in code and, where JSON schema can say it, as a schema.

use fluid_sidecar_layout::{Named as _, Runtime};
use serde_json::{Value, json};

use crate::destination::{GateKind, Order, Strategy};

use super::text::check_unit;
use super::{DatasetsFrom, Fields, Selector, Settings, SidecarFrom, SidecarOverrides};

/// A container that the policy makes has no image of its own, and `fluid-fuse` must know what it serves.
pub(super) fn check_settings(fields: &mut Fields<'_>, settings: &Settings) {
    for (field, amounts) in
        [("podOverrides", &settings.pod_overrides), ("defaultRequests", &settings.default_requests)]
    {
        check_units(fields, field, amounts.iter().map(|(name, amount)| (name.name(), amount)));
    }
    let fluid_fuse = settings.sidecar_from == SidecarFrom::FluidFuse;
    if settings.datasets_from == DatasetsFrom::Cluster {
        if !settings.datasets.is_empty() {
            fields.problem("datasets", "only used with datasetsFrom: settings; set that or remove this");
        }
        if fluid_fuse && settings.image(Runtime::Thin).is_none() {
            fields.problem("sidecarImages.thin", "required with sidecarFrom: fluid-fuse, whose image it is");
        }
        return;
    }
    // What is no list, or no map in it, is a problem already.
    let Some(written) = fields.elements("datasets") else { return };
    if written.is_empty() {
        fields.problem("datasets", "required with datasetsFrom: settings; name at least one claim");
    }
    for (index, rule) in settings.datasets.iter().enumerate().filter(|(index, _)| written[*index].is_object())
    {
        if fluid_fuse && rule.source.is_none() {
            let source = format!("datasets[{index}].source");
            fields.problem(&source, "required with sidecarFrom: fluid-fuse, which serves it");
        }
        let runtime = rule.runtime;
        if let (None, Some(because)) = (&rule.source, runtime.facts().refused) {
            let field = format!("datasets[{index}].runtime");
            fields.problem(&field, format_args!("no sidecar can be made of {runtime}: {because}"));
        }
        if settings.image(runtime).is_none() {
            fields.problem(
                &format!("sidecarImages.{runtime}"),
                format_args!("required, because datasets[{index}] is served by runtime {runtime}"),
            );
        }
    }
}

/// `check_settings` as conditions of the JSON schema.
pub fn settings_schema() -> Vec<Value> {
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
    let refused = Runtime::ALL.iter().filter(|runtime| runtime.facts().refused.is_some());
    let refused: Vec<_> = refused.map(|runtime| runtime.name()).collect();
    let has_source = json!({"required": ["source"], "properties": {"source": {"type": "string"}}});
    rules.push(json!({"if": by_settings, "then": {"properties": {"datasets": {"items": {
        "if": {"required": ["runtime"], "properties": {"runtime": {"enum": refused}}}, "then": has_source}}}}}));
    for runtime in Runtime::ALL.iter().map(|runtime| runtime.name()) {
        let entry = match runtime {
            "thin" => json!({"properties": {"runtime": {"enum": ["thin", null]}}}),
            _ => json!({"required": ["runtime"], "properties": {"runtime": {"const": runtime}}}),
        };
        let used = json!({"required": ["datasets"], "properties": {"datasets": {"type": "array", "contains": entry}}});
        rules.push(json!({"if": {"allOf": [by_settings, used]}, "then": has_image(runtime)}));
    }
    rules
}

/// A selector must select something.
pub(super) fn check_selector(fields: &mut Fields<'_>, selector: &Selector) {
    if selector.pod_labels.is_empty() && selector.namespace_labels.is_empty() {
        fields.problem(
            "podLabels",
            "select something by podLabels or namespaceLabels; for every Pod there is the setting destination",
        );
    }
}

/// `check_selector` as a condition of the JSON schema.
pub fn selector_schema() -> Value {
    let some =
        |key: &str| json!({"required": [key], "properties": {key: {"type": "object", "minProperties": 1}}});
    json!({"anyOf": [some("podLabels"), some("namespaceLabels")]})
}

/// A size limit limits a cache.
pub(super) fn check_overrides(fields: &mut Fields<'_>, overrides: &SidecarOverrides) {
    for (field, amounts) in [("limits", &overrides.limits), ("requests", &overrides.requests)] {
        check_units(fields, field, amounts.iter().map(|(name, amount)| (name.as_str(), amount)));
    }
    if let Some(Err(error)) = overrides.cache_size_limit.as_ref().map(|size| check_unit("a volume", size)) {
        fields.problem("cacheSizeLimit", error);
    }
    if fields.has("cacheSizeLimit") && !fields.has("cacheDirectory") {
        fields.problem("cacheSizeLimit", "only used with cacheDirectory; set that or remove this");
    }
}

/// A startup probe holds back what starts after a native sidecar, and nothing else.
pub(crate) fn check_strategy(fields: &mut Fields<'_>, strategy: &Strategy) {
    if strategy.gate == GateKind::Probe && strategy.order != Order::NativeSidecar {
        fields.problem("gate", "startupProbe needs order: nativeSidecar; set that, or use postStart");
    }
}

/// `check_strategy` as a condition of the JSON schema, for a destination whose order is by default another than
/// `nativeSidecar`, or that.
pub fn strategy_schema(is_native: bool) -> Value {
    let probe = json!({"required": ["gate"], "properties": {"gate": {"const": "startupProbe"}}});
    let native = json!({"properties": {"order": {"const": "nativeSidecar"}}});
    let then = match is_native {
        true => native,
        false => json!({"allOf": [native, {"required": ["order"]}]}),
    };
    json!({"if": probe, "then": then})
}

/// Whether each amount, by its resource, is one that the resource can have.
fn check_units<'a>(
    fields: &mut Fields<'_>,
    field: &str,
    amounts: impl Iterator<Item = (&'a str, &'a String)>,
) {
    for (resource, amount) in amounts {
        if let Err(error) = check_unit(resource, amount) {
            fields.problem(&format!("{field}.{resource}"), error);
        }
    }
}

/// `check_overrides` as a condition of the JSON schema.
pub fn overrides_schema() -> Value {
    json!({
        "if": {"required": ["cacheSizeLimit"], "properties": {"cacheSizeLimit": {"type": ["string", "number"]}}},
        "then": {"required": ["cacheDirectory"], "properties": {"cacheDirectory": {"type": "string"}}},
    })
}
